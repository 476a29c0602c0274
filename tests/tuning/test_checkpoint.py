import os

import pytest
import torch
import transformers

from tests.tuning.chat import chat_model, chat_tokenizer, dialogues
from tests.tuning.disk import full_disk
from tests.zoo import specimen
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.load import load
from workbench.models.original import unwrapped
from workbench.runs.results import open_result
from workbench.tuning import checkpoint
from workbench.tuning.checkpoint import own_weights, refresh_fused, save_pretrained
from workbench.tuning.pinpoint import pinpoint_tune
from workbench.tuning.recipe import TuningRecipe

TOKENS = torch.tensor([[1, 3, 9, 12, 6, 4, 40], [1, 3, 8, 5, 90, 4, 2]])
QUICK = TuningRecipe(steps=2, batch=4, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def _quiet():
    transformers.utils.logging.disable_progress_bar()


def plain(folder, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


@pytest.mark.parametrize("family", ("llama", "qwen2", "gpt2", "gpt_neox", "phi3"))
def test_plain_transformers_computes_the_tuned_models_logits(family, tmp_path):
    tuned = pinpoint_tune(chat_model(family, torch.float32), dialogues(), [(1, 2)], recipe=QUICK, progress=False).model
    folder = save_pretrained(tuned, tmp_path / "tuned")
    with torch.no_grad():
        torch.testing.assert_close(plain(folder)(TOKENS).logits, tuned(TOKENS), rtol=1e-5, atol=1e-5)
    told = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)[1]
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert sorted(file.name for file in folder.iterdir() if file.suffix == ".safetensors") == ["model.safetensors"]
    assert [file.name for file in tmp_path.iterdir()] == ["tuned"]


@pytest.mark.parametrize("family", ("gpt_neox", "gpt2", "phi3"))
def test_changes_to_the_bridges_copies_reach_the_fused_matrix(family, tmp_path):
    model = chat_model(family, torch.float32)
    with torch.no_grad():
        for letter in "qkv":
            part = getattr(model.blocks[1].attn, letter).original_component
            part.weight = torch.nn.Parameter(part.weight + 0.3 * torch.randn_like(part.weight))
        logits = model(TOKENS)
        folder = save_pretrained(model, tmp_path / "edited")
        torch.testing.assert_close(plain(folder)(TOKENS).logits, logits, rtol=1e-5, atol=1e-5)
    assert refresh_fused(model, anatomy(model)) == 0


def test_the_card_lists_units_data_and_results(tmp_path):
    tuned = pinpoint_tune(
        chat_model(), dialogues(), [(1, 2), (1, 0)], recipe=QUICK, validation=dialogues(2), progress=False
    )
    results = {"giving in": {"before": 0.91, "after": 0.12}, "examples": 40}
    folder = save_pretrained(tuned.model, tmp_path / "tuned", results=results)
    card = (folder / "README.md").read_text()
    for text in ("2 heads (head)", "1,024 of", "| 1 | 0, 2 |", "8 dialogues", "| learning rate | 0.01 |"):
        assert text in card
    assert "| measure | before | after |" in card and "| giving in | 0.9100 | 0.1200 |" in card
    assert "| examples | 40 | – |" in card
    assert "bit by bit" in card and "Validation loss" in card
    assert open_result(folder / "tuning.nc").attrs["heads"] == [[1, 0], [1, 2]]
    assert transformers.AutoTokenizer.from_pretrained(folder).chat_template == chat_tokenizer().chat_template


def test_an_exported_model_loads_here_again(tmp_path):
    model = chat_model("gpt_neox", torch.float32)
    again = load(save_pretrained(model, tmp_path / "deep" / "er"))
    torch.testing.assert_close(again(TOKENS), model(TOKENS))
    assert "without a record of tuning" in (tmp_path / "deep" / "er" / "README.md").read_text()


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        save_pretrained(chat_model(), tmp_path)
    with pytest.raises(InputError, match="not an empty folder"):
        save_pretrained(chat_model(), tmp_path / "note")


@pytest.mark.parametrize("size", (0, 1000, 50_000))
def test_a_full_disk_leaves_nothing(size, tmp_path):
    model = chat_model("llama", torch.float32)
    with (
        full_disk(size),
        pytest.raises(InputError, match=r"Cannot write .*File too large.*what stood there before is unchanged"),
    ):
        save_pretrained(model, tmp_path / "tuned")
    assert not os.listdir(tmp_path)
    save_pretrained(model, tmp_path / "tuned")


@pytest.mark.parametrize("failure", (OSError(28, "full"), KeyboardInterrupt()))
def test_an_interrupted_export_leaves_nothing(failure, tmp_path, monkeypatch):
    def failing(*_):
        raise failure

    model = chat_model()
    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", failing)
    with pytest.raises((InputError, KeyboardInterrupt)):
        save_pretrained(model, tmp_path / "tuned")
    assert not os.listdir(tmp_path)


def test_weights_that_plain_transformers_would_read_otherwise_are_refused(tmp_path):
    model = chat_model("llama", torch.float32)
    original = checkpoint.original_logits
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="would be another model"):
        patch.setattr(checkpoint, "original_logits", lambda *a: original(*a) * 1.1)
        save_pretrained(model, tmp_path / "tuned")
    assert not os.listdir(tmp_path)


def test_a_bias_that_the_architecture_lacks_is_left_out_where_it_is_zero_and_refused_else(tmp_path):
    model = chat_model("llama", torch.float32)
    with unwrapped(model) as hf:
        assert "lm_head.bias" in hf.state_dict() and "lm_head.bias" not in own_weights(hf)
        hf.lm_head.bias.data[3] = 1
    with pytest.raises(InputError, match=r"no place for lm_head.bias in LlamaForCausalLM, and it is not zero"):
        save_pretrained(model, tmp_path / "biased")
    assert not any(tmp_path.iterdir())


def test_an_active_intervention_is_not_exported(tmp_path):
    model = chat_model()
    hook = [("blocks.0.attn.hook_z", lambda z, hook: z * 0)]
    with model.hooks(fwd_hooks=hook), pytest.raises(InputError, match="would not be in the checkpoint"):
        save_pretrained(model, tmp_path / "tuned")


@pytest.mark.parametrize(
    "name", ["CodeGenForCausalLM", "FalconForCausalLM", "Lfm2ForCausalLM", "MambaForCausalLM", "OPTForCausalLM"]
)
def test_a_model_that_nobody_changed_is_saved_as_it_was(name, tmp_path):
    """Fused matrices of a kind that is not known, layers without attention, and hooks of TransformerLens's own."""
    own, model = specimen(name), load(specimen(name))
    found = plain(save_pretrained(model, tmp_path / "saved")).state_dict()
    assert all(torch.equal(found[key], weight) for key, weight in own.state_dict().items())
