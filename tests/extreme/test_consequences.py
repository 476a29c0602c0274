import contextlib
import functools

import numpy as np
import pytest
import scipy.stats
import torch

from tests.extreme.test_interventions import EVERY_KIND, PARTS, model_of
from tests.tiny import bridge, sequences, tiny
from workbench.errors import InputError
from workbench.extreme.consequences import NONE, compare_interventions, judge_peak, peak_sources, peak_verdict
from workbench.extreme.editing import editing
from workbench.extreme.interventions import mask_key, zero_outputs
from workbench.models.load import load

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
TEXTS = sequences([5, 9, 7])
compare = functools.partial(compare_interventions, progress=False)
sources = functools.partial(peak_sources, progress=False)


def by_hand(family, tokens, attention=(), mlp=()):
    """Norms `[layer, pos]` and loss of one sequence from the Hugging Face model with modules that return zeros."""
    hf = tiny(family)
    layers = hf.base_model.h if family == "gpt2" else hf.base_model.layers
    names = PARTS.get(family, ("self_attn", "mlp"))

    def zeros(_module, _args, out):
        return (torch.zeros_like(out[0]), *out[1:]) if isinstance(out, tuple) else torch.zeros_like(out)

    for name, chosen in zip(names, (attention, mlp), strict=True):
        for layer in chosen:
            getattr(layers[layer], name).register_forward_hook(zeros)
    norms = []
    for layer in layers:
        layer.register_forward_hook(lambda _m, _a, out: norms.append((out[0] if isinstance(out, tuple) else out)[0]))
    ids = torch.tensor([tokens])
    with torch.no_grad():
        loss = hf(ids, labels=ids, use_cache=False).loss
    return torch.stack(norms).norm(dim=-1).numpy(), float(loss)


@pytest.mark.parametrize(
    ("family", "backend"), [k for k in EVERY_KIND if k[0] in ("llama", "gpt2", "gpt_neox", "gemma2", "olmo2")]
)
def test_norms_and_losses_equal_those_of_each_text_alone(family, backend):
    model = model_of(family, backend)
    found = compare(model, TEXTS, {"no mlp": lambda m: zero_outputs(m, attention=[0], mlp=[1])}, positions=[0, 2])
    assert list(found["intervention"].values) == [NONE, "no mlp"]
    for name, zeroed in ((NONE, {}), ("no mlp", {"attention": [0], "mlp": [1]})):
        for i, tokens in enumerate(TEXTS):
            norms, loss = by_hand(family, tokens, **zeroed)
            here = found.sel(intervention=name, sequence=i)
            others = np.delete(norms, [0, 2], axis=1)
            np.testing.assert_allclose(here["residual_norm"], norms[:, [0, 2]], rtol=1e-5)
            np.testing.assert_allclose(here["other_norm_median"], np.median(others, 1), rtol=1e-5)
            np.testing.assert_allclose(here["other_norm_max"], others.max(1), rtol=1e-5)
            np.testing.assert_allclose(here["loss"], loss, rtol=1e-5)
    change = found["loss"].sel(intervention="no mlp") - found["loss"].sel(intervention=NONE)
    np.testing.assert_allclose(found["loss_change"].sel(intervention="no mlp"), change)


@pytest.mark.parametrize(("family", "backend"), [k for k in EVERY_KIND if k[0] in ("llama", "gpt_neox", "gpt2")])
def test_skipped_layers_change_nothing(family, backend):
    model = model_of(family, backend)
    found = sources(model, TEXTS)
    zeroed = {
        "attention 2": {"attention": 2},
        "mlp 1": {"mlp": 1},
        "both 2": {"attention": 2, "mlp": 2},
        "both 0-2": {"attention": [0, 1, 2], "mlp": [0, 1, 2]},
    }
    edits = {name: functools.partial(lambda m, parts: zero_outputs(m, **parts), parts=p) for name, p in zeroed.items()}
    whole = compare(model, TEXTS, edits)
    for name in zeroed:
        norm = whole["residual_norm"].sel(intervention=name).squeeze("position").mean("sequence")
        np.testing.assert_allclose(found["residual_norm"].sel(intervention=name), norm, rtol=1e-9)
        np.testing.assert_allclose(
            found["loss"].sel(intervention=name), whole["loss"].sel(intervention=name), rtol=1e-9
        )


@contextlib.contextmanager
def planted(model, size=300.0, made=0, removed=None):
    """Let one MLP write a peak at the first token, and another take it away."""

    def add(amount):
        def write(out):
            out = out.clone()
            out[:, 0, 5] += amount
            return out

        return write

    edits = {f"blocks.{made}.hook_mlp_out": add(size)}
    edits |= {} if removed is None else {f"blocks.{removed}.hook_mlp_out": add(-size)}
    with editing(model, edits):
        yield


@pytest.fixture(scope="module")
def traced():
    """Where a peak comes from that the first MLP makes and the third takes away."""
    model = bridge("llama")
    with planted(model, made=0, removed=2):
        return sources(model, TEXTS)


def test_a_planted_peak_is_traced_to_the_mlps_that_make_and_remove_it(traced):
    found = traced
    assert found["residual_norm"].sel(intervention=NONE, layer=[0, 1]).min() > 290
    verdict = peak_verdict(found)
    made, removed = verdict.split(", and ")
    assert found["intervention"].values[found["makes_peak"].values].tolist() == ["mlp 0"]
    assert found["intervention"].values[found["removes_peak"].values].tolist() == ["mlp 2"]
    assert "after layer" in made and "it collapses without mlp 0 (norm" in made and "attention" not in made
    assert removed.startswith("stands without mlp 2 (norm") and "mlp 1" not in removed


def test_what_is_left_of_the_peak_has_an_interval_over_texts(traced):
    model, found = bridge("llama"), traced
    with planted(model, made=0, removed=2):
        alone = sources(model, TEXTS[:1])
    norm = found["norm_by_text"].transpose("intervention", "layer", "sequence").values
    np.testing.assert_allclose(norm.mean(-1), found["residual_norm"].transpose("intervention", "layer"), rtol=1e-6)
    top = int(found["peak_ratio"].argmax("layer"))
    i = found["intervention"].values.tolist().index("mlp 0")
    logs = np.log(norm[i, top] / norm[0, top])
    ends = scipy.stats.t.interval(0.95, len(TEXTS) - 1, logs.mean(), scipy.stats.sem(logs))
    np.testing.assert_allclose([found["left_low"][i], found["left_high"][i]], np.exp(ends), rtol=1e-6)
    assert f"{float(found['left'][i]):.2g} times the norm, " in peak_verdict(found)
    assert "3 texts, intervals of 95 % over them" in peak_verdict(found)
    np.testing.assert_array_equal(alone["left_low"], alone["left"])
    assert "one text, so without intervals" in peak_verdict(alone)


def test_a_part_that_matters_in_some_texts_alone_makes_no_peak(traced):
    norm = traced["norm_by_text"].copy()
    top = int(traced["peak_ratio"].argmax("layer"))
    norm.loc[{"intervention": "mlp 0", "layer": top, "sequence": 1}] = float(norm.sel(intervention=NONE)[top, 1])
    assert not judge_peak(traced.assign(norm_by_text=norm))["makes_peak"].any()


def test_a_planted_peak_that_stays_is_said_to_stay():
    model = bridge("gpt2")
    with planted(model, made=1):
        verdict = peak_verdict(sources(model, TEXTS))
    assert "collapses without mlp 1" in verdict and verdict.endswith("and no single part after it removes it.")


def test_a_model_without_a_peak_is_told_so():
    found = sources(bridge("llama"), TEXTS)
    assert "has no peak: its norm is at most" in peak_verdict(found)
    assert not found["makes_peak"].any() and not found["removes_peak"].any()
    assert "has no peak" not in peak_verdict(judge_peak(found, peak=0.1))


def test_the_peak_of_each_text_may_stand_elsewhere():
    model = bridge("llama")
    found = sources(model, TEXTS, position=[1, 4, 2])
    whole = compare(model, TEXTS, {}, positions=[[1], [4], [2]])
    np.testing.assert_allclose(
        found["residual_norm"].sel(intervention=NONE),
        whole["residual_norm"].sel(intervention=NONE).mean("sequence").squeeze("position"),
    )
    np.testing.assert_array_equal(whole["at"].squeeze("position"), [1, 4, 2])


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_change_nothing(batch_size):
    model = bridge("qwen2")
    one = compare(model, TEXTS, {"mask": mask_key}, batch_size=batch_size)
    other = compare(model, TEXTS, {"mask": mask_key})
    for name in ("residual_norm", "other_norm_median", "loss_change"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9, atol=1e-12)


def test_parts_are_labelled():
    found = sources(bridge("llama"), TEXTS, together=2)
    assert list(found["intervention"].values[:4]) == [NONE, "attention 0", "mlp 0", "both 0"]
    last = found.isel(intervention=-1)
    assert (str(last["part"].values), int(last["first_layer"]), int(last["last_layer"])) == ("both", 0, 1)


@pytest.mark.parametrize(
    ("texts", "keywords", "message"),
    [
        ([[5]], {}, "Text 0 has one token: nothing is predicted"),
        (TEXTS, {"positions": 5}, "Position 5 is not in text 0, which has the positions 0 to 4"),
        (TEXTS, {"positions": [[0], [1]]}, r"positions of shape \(2, 1\) do not fit 3 texts"),
        (TEXTS, {"interventions": {"none": mask_key}}, "'none' is the name of the run without"),
        (TEXTS, {"interventions": {"x": lambda m: zero_outputs(m, mlp=[9])}}, "mlp: layer 9 does not exist"),
    ],
)
def test_bad_input_is_refused(texts, keywords, message):
    with pytest.raises(InputError, match=message):
        compare(bridge("llama"), texts, **({"interventions": {}} | keywords))


def test_a_stream_that_overflows_is_refused():
    model = load(tiny("llama", seed=5))
    with (
        editing(model, {"blocks.1.hook_mlp_out": lambda out: out * torch.inf}),
        pytest.raises(InputError, match="the residual stream after layer 1 is NaN or infinite"),
    ):
        compare(model, TEXTS, {})


def test_a_single_other_token_is_enough_and_none_is_nan():
    found = compare(bridge("llama"), [[5, 9]], {}, positions=[0, 1])
    assert np.isnan(found["other_norm_median"]).all() and np.isfinite(found["loss"]).all()
