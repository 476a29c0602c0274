"""The sweep equals one forward pass per head, and refuses what it cannot do."""

from importlib.metadata import version

import numpy as np
import pytest
import torch
import xarray as xr

from tests.tiny import COHERE, TEN, bridge, sequences, tiny
from tests.words import word_tokenizer
from workbench.errors import InputError
from workbench.extreme import ablation
from workbench.extreme.ablation import zeroing_sweep
from workbench.models.anatomy import anatomy
from workbench.models.forward import hooked
from workbench.models.hooked import FAMILIES
from workbench.models.load import load

needs_hooked = pytest.mark.skipif(
    not version("transformer-lens").startswith("3.9"), reason="HookedTransformer needs TransformerLens 3.9"
)
ROWS = sequences((9, 4, 7, 2), prefix=1)


def twin(model, tokens, layer=None, heads=()):
    """Losses of one sequence's predictions by TransformerLens's own forward pass with a hook on z."""

    def zero(z, hook):
        z = z.clone()
        z[:, :, list(heads)] = 0
        return z

    hooks = [] if layer is None else [(f"blocks.{layer}.attn.hook_z", zero)]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        logits = model(torch.tensor([tokens]))[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="none").numpy()


def check_against_twin(model, found, rows, unit="head", atol=1e-9):
    parts = anatomy(model)
    size = 1 if unit == "head" else parts.group_size
    for i, tokens in enumerate(rows):
        base = twin(model, tokens)
        np.testing.assert_allclose(found["loss"][i], base.mean(), rtol=0, atol=atol)
        for layer in range(parts.n_layers):
            for number in range(parts.n_heads // size):
                wanted = twin(model, tokens, layer, range(number * size, (number + 1) * size)) - base
                at = {"sequence": i, "layer": layer, unit: number}
                assert abs(float(found["loss_change"].isel(at)) - wanted.mean()) < atol
                if "prediction_change" in found:
                    change = found["prediction_change"].isel(at).values
                    np.testing.assert_allclose(change[: len(wanted)], wanted, rtol=0, atol=1e-9)
                    assert np.isnan(change[len(wanted) :]).all()


@pytest.mark.parametrize("family", TEN)
def test_each_head_equals_a_forward_pass_with_z_zeroed(family):
    model = bridge(family)
    found = zeroing_sweep(model, ROWS, positions=True, at_once=3)
    assert found["loss_change"].dims == ("sequence", "layer", "head")
    assert found["n_predictions"].values.tolist() == [8, 3, 6, 1]
    check_against_twin(model, found, ROWS)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "olmo2"])
def test_a_group_is_its_heads_zeroed_together(family):
    model = bridge(family)
    found = zeroing_sweep(model, ROWS[:2], unit="kv_group")
    assert found.sizes["kv_group"] == anatomy(model).n_kv_heads
    check_against_twin(model, found, ROWS[:2], "kv_group")


@pytest.mark.parametrize("family", ["gemma3", COHERE, "bloom"])
def test_other_blocks_are_added_up_too(family):
    check_against_twin(bridge(family), zeroing_sweep(bridge(family), ROWS[:1]), ROWS[:1], atol=1e-9)


def test_blocks_that_attend_in_float32_are_added_up_too():
    check_against_twin(bridge("gptj"), zeroing_sweep(bridge("gptj"), ROWS[:1]), ROWS[:1], atol=1e-7)


@pytest.mark.parametrize("family", [*TEN, "gemma3", COHERE])
def test_a_shared_beginning_is_run_once_and_changes_nothing(family, monkeypatch):
    rows, model, lengths = sequences((12, 9, 10), prefix=8), bridge(family), []
    real = ablation.run_from
    monkeypatch.setattr(
        ablation, "run_from", lambda m, n, resid, *p: lengths.append(resid.shape[1]) or real(m, n, resid, *p)
    )
    found = zeroing_sweep(model, rows, positions=True, batch_size=5)
    assert set(lengths) == {8, 4}
    check_against_twin(model, found, rows)


def test_a_beginning_is_shared_only_where_it_pays():
    model = bridge("llama")
    assert ablation.shared_tokens(model, sequences((12, 9), prefix=8)) == 8
    assert ablation.shared_tokens(model, sequences((40, 12), prefix=8)) == 0, "a fifth of the longest"
    assert ablation.shared_tokens(model, sequences((12,))) == 0
    assert ablation.shared_tokens(model, [[4, 5, 6], [4, 5, 6]]) == 2, "what predicts the last token is run"


@needs_hooked
@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_hookedtransformer_equals_its_own_forward_passes(family):
    model = load(tiny(family), backend="hooked")
    check_against_twin(model, zeroing_sweep(model, ROWS[:3], positions=True), ROWS[:3])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_blocks_that_cannot_be_added_up_are_run_whole(family, monkeypatch):
    monkeypatch.setattr(ablation, "recomputed", lambda model: False)
    check_against_twin(bridge(family), zeroing_sweep(bridge(family), ROWS[:2]), ROWS[:2])


def test_an_intervention_on_the_model_is_part_of_both_losses():
    model = bridge("llama")
    point = "blocks.1.hook_mlp_out"
    plain = zeroing_sweep(model, ROWS[:1])
    with model.hooks(fwd_hooks=[(point, lambda out, hook: out * 0)]):
        found = zeroing_sweep(model, ROWS[:1])
        base = twin(model, ROWS[0])
        wanted = [[(twin(model, ROWS[0], layer, [h]) - base).mean() for h in range(4)] for layer in range(3)]
    np.testing.assert_allclose(found["loss_change"][0], wanted, rtol=0, atol=1e-9)
    assert abs(float(found["loss"][0]) - float(plain["loss"][0])) > 1e-3


def test_batches_groups_and_padding_change_nothing():
    model = bridge("qwen2")
    whole = zeroing_sweep(model, ROWS, positions=True)
    for options in ({"at_once": 1, "batch_size": 1}, {"at_once": 2, "batch_size": 5}):
        other = zeroing_sweep(model, ROWS, positions=True, **options)
        xr.testing.assert_allclose(other.drop_attrs(), whole.drop_attrs(), atol=1e-12)


def test_logits_are_read_in_pieces(monkeypatch):
    whole = zeroing_sweep(bridge("llama"), ROWS)
    seen = []
    parts = anatomy(bridge("llama"))
    monkeypatch.setattr(ablation, "_LOGITS", {"cpu": 2 * 97})
    stream = torch.randn(2, 5, 32, dtype=torch.float64)

    def unembed(resid, ids=None):
        seen.append(len(resid))
        return parts.unembed(resid, ids)

    counted = ablation.Anatomy(**{**vars(parts), "unembed": unembed})
    ablation.next_token_loss(counted, stream, torch.ones(2, 5, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool))
    assert seen == [2, 2, 2, 2]
    xr.testing.assert_allclose(zeroing_sweep(bridge("llama"), ROWS).drop_attrs(), whole.drop_attrs(), atol=1e-12)


def test_no_hook_stays_behind():
    model = bridge("llama")
    zeroing_sweep(model, ROWS[:1])
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    with hooked(model, {}):
        np.testing.assert_allclose(twin(model, ROWS[0]), twin(bridge("llama"), ROWS[0]))


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    model, file = bridge("llama"), tmp_path / "sweep.nc"
    whole = zeroing_sweep(model, ROWS, at_once=1)
    real, calls = ablation.zeroed_losses, []

    def failing(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(ablation, "zeroed_losses", failing)
    with pytest.raises(KeyboardInterrupt):
        zeroing_sweep(model, ROWS, at_once=1, resume=str(file), progress=False)
    assert not file.exists()
    found = zeroing_sweep(model, ROWS, at_once=1, resume=str(file), progress=False)
    assert len(calls) == 5, "two of four sequences were on disk"
    xr.testing.assert_allclose(found.drop_attrs(), whole.drop_attrs())
    again = zeroing_sweep(model, ROWS, at_once=1, resume=str(file), progress=False)
    assert len(calls) == 5 and again.drop_attrs().identical(found.drop_attrs())
    with pytest.raises(InputError, match="another configuration"):
        zeroing_sweep(model, ROWS, at_once=1, unit="kv_group", resume=str(file))


def test_the_result_says_how_it_was_made():
    attrs = zeroing_sweep(bridge("llama"), ROWS[:1]).attrs
    assert attrs["method"] == "zeroing_sweep" and attrs["unit"] == "head" and attrs["n_kv_heads"] == 2
    assert len(attrs["texts"]) == 64 and attrs["weights"]


@pytest.mark.parametrize(
    ("texts", "options", "match"),
    [
        ([[5, 6], [5]], {}, "Text 1 has 1 token: nothing is predicted"),
        ([], {}, "No texts: the list is empty"),
        ([[5, 6], []], {}, "Text 1 has no tokens"),
        ([[5, 97]], {}, "token id 97, but the model knows the ids 0 to 96"),
        (["a text"], {}, "this model has no tokenizer"),
        ([[5, 6]], {"unit": "layer"}, "unit='layer' cannot be zeroed one by one"),
        ([[5, 6]], {"at_once": 0}, "at_once=0"),
        ([[5, 6]], {"batch_size": 0}, "batch_size=0 must be a positive number"),
    ],
)
def test_what_cannot_be_measured_is_refused(texts, options, match):
    with pytest.raises(InputError, match=match):
        zeroing_sweep(bridge("llama"), texts, **options)


def test_a_model_without_heads_is_refused():
    with pytest.raises(InputError, match="no attention heads"):
        zeroing_sweep(bridge("mamba"), [[5, 6]])


def test_nan_is_refused_with_its_cause():
    broken = tiny("llama")
    model = load(broken)
    next(iter(model.original_model.parameters())).data[0, 0] = float("nan")
    with pytest.raises(InputError, match="hold NaN or infinity"):
        zeroing_sweep(model, [[0, 5, 6]])


def test_activations_that_overflow_are_refused():
    model = load(tiny("llama", torch.float32))
    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda resid, hook: resid * float("inf"))]),
        pytest.raises(
            InputError,
            match=r"begins with the token ids \[4, 5, 6\] is NaN or infinite although the weights are finite",
        ),
    ):
        zeroing_sweep(model, [[4, 5, 6]])


def test_texts_are_strings_tensors_or_a_dataset():
    import datasets

    model = load(tiny("llama"), tokenizer=word_tokenizer())
    texts = ["the cat is old", "the dog"]
    found = zeroing_sweep(model, texts)
    ids = [model.tokenizer(text)["input_ids"] for text in texts]
    for same in (ids, datasets.Dataset.from_dict({"text": texts})):
        np.testing.assert_allclose(zeroing_sweep(model, same)["loss"], found["loss"])
    named = datasets.Dataset.from_dict({"body": texts})
    np.testing.assert_allclose(zeroing_sweep(model, named, column="body")["loss"], found["loss"])
    rows = torch.tensor([[4, 5, 6], [7, 8, 9]])
    np.testing.assert_allclose(zeroing_sweep(model, rows)["loss"], zeroing_sweep(model, rows.tolist())["loss"])
    with pytest.raises(InputError, match=r"no column 'text'; its columns are \['body'\]"):
        zeroing_sweep(model, named)
