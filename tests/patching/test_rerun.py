"""Path patching that runs the model again, against the replay of single tokens and against Hugging Face modules."""

from importlib.metadata import version

import numpy as np
import pytest
import torch

from tests import frozen
from tests.tiny import bridge, sequences
from tests.zoo import specimen
from workbench.errors import InputError, WorkbenchWarning
from workbench.models.anatomy import anatomy
from workbench.models.load import load
from workbench.patching import rerun as module
from workbench.patching.answers import reads
from workbench.patching.path import answer_scores, path_patch, replay, see, unpatched
from workbench.patching.rerun import rerun
from workbench.patching.selection import random_units, select_units
from workbench.patching.statistics import kurtosis
from workbench.patching.units import senders
from workbench.prompts.pairs import PromptPairs
from workbench.runs.batching import Batches

pytestmark = pytest.mark.filterwarnings("ignore:.*read logit_diff:workbench.errors.WorkbenchWarning")
A, B = 5, 9
ONLY_RERUN = {
    "BloomForCausalLM": {},
    "FalconH1ForCausalLM": {},
    "Gemma4ForCausalLM": {},
    "Lfm2ForCausalLM": {},
    "MambaForCausalLM": {},
    # Its linear attention cannot be read on the transformers of TransformerLens 3.9.
    **({} if version("transformer-lens").startswith("3.9") else {"Qwen3_5ForCausalLM": {}}),
}


def pairs(n=2):
    return PromptPairs(sequences((9, 7)[:n]), sequences((6, 8)[:n], seed=2), (A, B))


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "qwen2"])
@pytest.mark.parametrize("answers", [(A, B), (((5,), (11, 3)), ((9, 4, 7), (6,)))])
def test_equals_the_replay_of_single_tokens(family, answers):
    model = bridge(family)
    parts = anatomy(model)
    read = reads(PromptPairs(sequences((9, 7)), sequences((6, 8), seed=2), [answers] * 2))
    for unit in ("head", "layer"):
        sent = senders(unit, None, parts)
        with torch.no_grad():
            base, source = see(model, parts, read)
            wanted = replay(parts, base.first, base.z, source.z, sent.mask)
        found = rerun(model, parts, read, sent, Batches(torch.device("cpu"), 3))
        limit = 1e-6 if family == "gpt_neox" else 1e-9  # TransformerLens and Hugging Face differ in GPT-NeoX's angles
        torch.testing.assert_close(found[:-1], wanted, atol=limit, rtol=0)
        torch.testing.assert_close(found[-1], source.last, atol=limit, rtol=0)


@pytest.mark.parametrize("name", ONLY_RERUN)
def test_equals_hooks_on_plain_hugging_face_modules(name):
    hf, model = (specimen(name, torch.float64, **ONLY_RERUN[name]) for _ in range(2))
    hf.set_attn_implementation("eager")
    model, data = load(model), pairs(1)
    parts = anatomy(model)
    layers = frozen.mixers(hf, parts.n_layers)
    for unit in ("head", "layer") if parts.head_layers else ("layer",):
        result = path_patch(model, data, unit=unit, progress=False)
        assert result.attrs["computed"] == "rerun"
        found = result["patched"].sel(metric="logit_diff").isel(example=0)
        for cell in found.stack(cell=found.dims)["cell"].values:
            layer, head = cell if unit == "head" else (cell[0], None)
            value = float(found.sel(layer=layer, **({} if head is None else {"head": head})))
            if unit == "head" and layer in parts.headless:
                assert np.isnan(value)
                continue
            heads = None if head is None else [head]
            logits = frozen.path_patched(hf, layers, data.base[0], data.source[0], layer, heads, parts.n_heads)
            assert abs(value - float(logits[A] - logits[B])) < 1e-6


def test_layers_without_heads_are_nan_and_named_and_not_ranked():
    model = load(specimen("Lfm2ForCausalLM"))
    result = path_patch(model, pairs(), unit="kv_group", progress=False)
    values = result["contribution"].sel(metric="logit_diff")
    assert result.attrs["headless"] == [0, 2]
    assert np.isnan(values.sel(layer=[0, 2])).all() and np.isfinite(values.sel(layer=[1, 3])).all()
    chosen = select_units(result, ratio=0.5)
    assert len(chosen.units) == 2 and {layer for layer, _ in chosen.units} <= {1, 3}
    assert {layer for layer, _ in random_units(chosen, 1)[0].units} <= {1, 3}
    own = kurtosis(result, n_boot=10).sel(metric="logit_diff")
    assert own.attrs["n_units"] == 4 and np.isfinite(own["pearson"]) and np.isfinite(own["pearson_low"])
    with pytest.raises(InputError, match=r"layer 0 has no attention heads"):
        path_patch(model, pairs(), units=[[(0, 1)]], progress=False)


def test_without_any_heads_only_layers_are_senders():
    model = load(specimen("MambaForCausalLM"))
    with pytest.raises(InputError, match="none of the 4 layers has attention heads that can be reached; unit='layer'"):
        path_patch(model, pairs(), progress=False)
    assert np.isfinite(path_patch(model, pairs(), unit="layer", progress=False)["contribution"]).all()


def test_scores_without_a_patch_are_the_models_own():
    model, data = load(specimen("Gemma4ForCausalLM")), pairs()
    found = answer_scores(model, data)["score"]
    with torch.no_grad():
        wanted = [float(model(torch.tensor([tokens]))[0, -1, A]) for tokens in data.source]
    np.testing.assert_allclose(found.sel(side="source", answer="a"), wanted, atol=1e-5)
    plain = unpatched(model, data)["base"].sel(metric="logit_diff")
    patched = path_patch(model, data, unit="layer", progress=False)["base"].sel(metric="logit_diff")
    np.testing.assert_allclose(plain, patched, atol=1e-5)


def test_full_logits_have_a_place_for_layers_without_heads():
    result = path_patch(load(specimen("Lfm2ForCausalLM")), pairs(), unit="head", full_logits=True, progress=False)
    full = result["patched_logits"]
    difference = (full.isel(vocab=A) - full.isel(vocab=B)).values
    np.testing.assert_allclose(difference, result["patched"].sel(metric="logit_diff").values, atol=1e-5)


def test_a_model_in_which_mlps_move_information_between_tokens_is_refused():
    with pytest.raises(InputError, match=r"frozen_mixers failed.*Something else moves information between tokens"):
        path_patch(load(specimen("RwkvForCausalLM")), pairs(), unit="layer", progress=False)


def test_a_long_run_is_announced_with_its_time(monkeypatch):
    monkeypatch.setattr(module, "LONG", 0.0)
    model = load(specimen("Lfm2ForCausalLM"))
    with pytest.warns(WorkbenchWarning, match=r"runs the model again for each of 4 senders and 2 examples"):
        path_patch(model, pairs(), unit="layer", progress=False)
