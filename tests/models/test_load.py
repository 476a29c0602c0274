"""Every source gives one hooked model with the logits of Hugging Face, and only safe files are read."""

import json

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from tests.tiny import TEN, bridge, tiny
from tests.words import CHAT, word_tokenizer
from tests.zoo import specimen
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.load import load
from workbench.organisms import NAMES

TOKENS = torch.tensor([[5, 9, 11, 30, 2, 7]])


def saved(folder, family="llama", tokenizer=True, **options):
    """A folder as save_pretrained writes it, and the model's logits."""
    hf = tiny(family, torch.float32, **options)
    hf.save_pretrained(folder)
    if tokenizer:
        word_tokenizer(template=CHAT).save_pretrained(folder)
    with torch.no_grad():
        return hf(TOKENS).logits


def logits(model):
    with torch.no_grad():
        return model(TOKENS)


@pytest.mark.parametrize("family", TEN)
def test_logits_are_those_of_hugging_face(family):
    hf = tiny(family)
    with torch.no_grad():
        wanted = hf(TOKENS).logits
    torch.testing.assert_close(logits(load(hf)), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "granite"])
def test_logits_are_equal_to_the_last_bit(family):
    hf = tiny(family, torch.float32)
    with torch.no_grad():
        wanted = hf(TOKENS).logits
    assert torch.equal(logits(load(hf)), wanted)


def test_a_local_folder_needs_no_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wanted = saved(tmp_path / "mine")
    model = load(str(tmp_path / "mine"))
    assert torch.equal(logits(model), wanted)
    assert model.workbench_name == "mine" and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.tokenizer("the cat")["input_ids"] == [1, 4, 5]
    assert model.to_tokens("the cat").tolist() == [[1, 4, 5]]


def test_a_local_folder_needs_no_tokenizer(tmp_path):
    wanted = saved(tmp_path, tokenizer=False)
    model = load(tmp_path)
    assert model.tokenizer is None and torch.equal(logits(model), wanted)


def test_a_tokenizer_may_come_from_elsewhere(tmp_path):
    saved(tmp_path / "model", tokenizer=False)
    word_tokenizer().save_pretrained(tmp_path / "words")
    assert load(tmp_path / "model", tokenizer=tmp_path / "words").tokenizer("cat")["input_ids"] == [1, 5]


@pytest.mark.parametrize("options", [{}, {"bos": 0}, {"bos": 0, "begin": False}])
def test_a_tokenizer_in_memory_stays_as_it_is(options):
    tokenizer = word_tokenizer(**options)
    wanted, begin, side = tokenizer("the cat")["input_ids"], tokenizer.bos_token, tokenizer.padding_side
    model = load(tiny("llama"), tokenizer=tokenizer)
    assert model.tokenizer("the cat")["input_ids"] == wanted and model.tokenizer.bos_token == begin
    assert model.to_tokens("the cat").tolist() == [wanted]
    assert (tokenizer.bos_token, tokenizer.padding_side) == (begin, side)


def test_a_model_given_is_the_model_returned():
    given = load(tiny("llama"))
    assert load(given) is given and given.tokenizer is None
    assert load(given, tokenizer=word_tokenizer()).tokenizer("cat")["input_ids"] == [1, 5]
    assert load(given, dtype="float32") is given and next(given.parameters()).dtype == torch.float32


def test_a_bridge_made_elsewhere_is_taken():
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    hf = tiny("gpt2")
    made = build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config, tokenizer=None)
    assert load(made) is made


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.float64", torch.float16])
def test_dtype_is_the_one_asked_for(tmp_path, dtype):
    saved(tmp_path, tokenizer=False)
    wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype.removeprefix("torch."))
    for source in (tmp_path, AutoModelForCausalLM.from_pretrained(tmp_path)):
        model = load(source, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {wanted} and logits(model).dtype == wanted


def test_half_precision_files_are_float32_on_the_cpu(tmp_path):
    tiny("llama", torch.bfloat16).save_pretrained(tmp_path)
    assert next(load(tmp_path, device="cpu").parameters()).dtype == torch.float32


def test_models_in_memory_keep_their_dtype():
    assert next(load(tiny("llama", torch.bfloat16)).parameters()).dtype == torch.bfloat16


def test_unknown_names_get_a_suggestion():
    with pytest.raises(InputError, match=r"No model 'organism-gq':.*did you mean 'organism-gqa'"):
        load("organism-gq")
    with pytest.raises(InputError, match=r"no embedded model .*and no folder or GGUF file here, and the Hub gave: "):
        load("nobody/has-this-model")


def test_unknown_backend_and_dtype():
    with pytest.raises(InputError, match="backend='hoked' is unknown; did you mean 'hooked'"):
        load(tiny("llama"), backend="hoked")
    with pytest.raises(InputError, match="dtype='float23' is unknown; did you mean 'float32'"):
        load(tiny("llama"), dtype="float23")


def test_a_bridge_does_not_become_hooked():
    with pytest.raises(InputError, match="cannot turn a TransformerBridge into a HookedTransformer"):
        load(bridge("llama"), backend="hooked")


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(InputError, match=r"has no config\.json \(it holds nothing\)"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match=r"has a config\.json but no weights"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(InputError, match=r"model_type 'llama'\) cannot be loaded"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "never-heard-of"}))
    with pytest.raises(InputError, match=r"model_type 'never-heard-of'\) cannot be loaded"):
        load(tmp_path)


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    hf = tiny("llama", torch.float32)
    weights = {name: value for name, value in hf.state_dict().items() if "layers.2" not in name}
    hf.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(InputError, match=r"lack 9 of the .*'model\.layers\.2\.input_layernorm\.weight'"):
        load(tmp_path)


def test_tied_weights_are_not_missing(tmp_path):
    saved(tmp_path, "gpt2", tokenizer=False)
    assert load(tmp_path).cfg.d_vocab == 97


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickled_weights_are_not_opened(tmp_path, name, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_a, **_k: pytest.fail("a pickle was opened"))
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=rf"pickled \({name}\).*only safetensors are read"):
        load(tmp_path)


def test_code_in_a_folder_is_not_run(tmp_path):
    saved(tmp_path, tokenizer=False)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoModelForCausalLM": "own.Own", "AutoConfig": "own.Config"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(InputError, match="cannot be loaded as a causal language model"):
        load(tmp_path)


def test_nan_weights_are_named(tmp_path):
    hf = tiny("llama", torch.float32)
    hf.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"the first is 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        load(hf)


def test_a_cast_that_overflows_is_found():
    hf = tiny("llama", torch.float32)
    hf.model.norm.weight.data[0] = 1e6
    with pytest.raises(InputError, match=r"NaN or infinity.*overflowed"):
        load(hf, dtype="float16")


def test_architectures_that_cannot_be_wrapped_are_named():
    class NoSuchForCausalLM(type(tiny("llama"))):
        pass

    hf = NoSuchForCausalLM(tiny("llama").config)
    with pytest.raises(InputError, match="TransformerLens cannot wrap a NoSuchForCausalLM: "):
        load(hf)


def test_a_folder_without_a_usable_tokenizer_says_so(tmp_path):
    with pytest.raises(InputError, match=r"No tokenizer in .*Pass tokenizer="):
        load(tiny("llama"), tokenizer=str(tmp_path))


def test_organisms_have_names():
    assert NAMES == ("organism-gqa", "organism-mha", "organism-mqa")


def test_a_model_given_again_is_the_same_bridge():
    inner = tiny("llama")
    model = load(inner)
    assert load(inner) is model
    assert load(inner, tokenizer=word_tokenizer()) is model and model.tokenizer is not None


def test_a_model_that_something_else_wrapped_is_refused():
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    inner = tiny("llama")
    bridge = build_bridge_from_module(inner, "LlamaForCausalLM", hf_config=inner.config, tokenizer=None)
    with pytest.raises(InputError, match="wrapped in a TransformerBridge already"):
        load(inner)
    assert load(bridge) is bridge


class PeftModelForCausalLM(torch.nn.Module):
    """As PEFT names what it wraps."""


def empty():
    with torch.device("meta"):
        return tiny("llama")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (lambda: torch.nn.Linear(2, 2), {}, "A Linear is no Hugging Face model: it has no configuration"),
        (PeftModelForCausalLM, {}, r"holds adapters beside its weights.*merge_and_unload\(\)"),
        (empty, {}, "'model.embed_tokens.weight' of this LlamaForCausalLM is on the meta device"),
        (lambda: tiny("llama"), {"device": "gpu"}, "device='gpu' cannot be used here .*; there are cpu"),
        (lambda: bridge("llama"), {"device": "cuda:77"}, "device='cuda:77' cannot be used here .*; there are cpu"),
        (lambda: "organism-gqa", {"device": "cuda:77"}, "device='cuda:77' cannot be used here .*; there are cpu"),
    ],
)
def test_models_and_devices_that_cannot_be_used(source, options, message, untyped):
    with pytest.raises(InputError, match=message):
        load(source(), **options)


def test_an_encoder_and_decoder_is_refused():
    config = transformers.T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    with pytest.raises(InputError, match="cannot wrap a T5ForConditionalGeneration: it has no stack of decoder"):
        load(transformers.T5ForConditionalGeneration(config))


def test_a_model_that_cannot_be_moved_is_measured_where_it_is(monkeypatch):
    inner = tiny("llama")

    def refuse(*_args, **_keywords):
        raise ValueError("`.to` is not supported for 4-bit models")

    monkeypatch.setattr(inner, "to", refuse)
    with pytest.raises(InputError, match=r"cannot be moved or cast .*leave device= and dtype= out"):
        load(inner, device="cpu")
    assert torch.equal(load(inner)(TOKENS), bridge("llama")(TOKENS))


def test_what_a_folder_needs_and_lacks_is_said(tmp_path):
    tiny("llama", torch.float32).save_pretrained(tmp_path / "q")
    config = json.loads((tmp_path / "q/config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (tmp_path / "q/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot be loaded as a causal language model: Loading a GPTQ"):
        load(tmp_path / "q")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a PEFT adapter and no model"):
        load(tmp_path / "adapter")


def test_a_snapshot_of_the_hub_is_named_by_its_repository(tmp_path):
    folder = tmp_path / "models--me--tiny-model/snapshots" / ("0123456789" * 4)
    tiny("llama", torch.float32).save_pretrained(folder)
    assert anatomy(load(folder)).name == "me/tiny-model"
    assert anatomy(load(transformers.AutoModelForCausalLM.from_pretrained(folder))).name == "me/tiny-model"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("BertLMHeadModel", {}, "A BertLMHeadModel is an encoder: its tokens see what follows them"),
        ("MptForCausalLM", {"attn_config": {"clip_qkv": 0.2}}, r"clips queries, keys and values at 0.2 \(clip_qkv\)"),
        (
            "FalconForCausalLM",
            {"new_decoder_architecture": True, "num_kv_heads": 2},
            "takes them apart in another",
        ),
        ("OPTForCausalLM", {"do_layer_norm_before": False}, "this model has no model.decoder.final_layer_norm"),
        ("GPTBigCodeForCausalLM", {"multi_query": False}, "only supports multi_query=True"),
    ],
)
def test_what_transformer_lens_would_misread_is_refused(name, given, message):
    with pytest.raises(InputError, match=message):
        load(specimen(name, **given))
