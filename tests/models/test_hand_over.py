"""TransformerLens's own tools run on what `load` returns, and agree with the same question asked here."""

import importlib

import numpy as np
import pytest
import torch

import workbench as wb
from tests.tiny import tiny

SOURCE, BASE = torch.tensor([[1, 3, 4, 5, 6]]), torch.tensor([[1, 3, 7, 5, 6]])
ANSWERS = (5, 9)


def difference(logits):
    return logits[0, -1, ANSWERS[0]] - logits[0, -1, ANSWERS[1]]


def tool(name):
    """A tool of TransformerLens 4."""
    return importlib.import_module(pytest.importorskip(f"transformer_lens.tools.analysis.{name}").__name__)


@pytest.fixture
def model():
    return wb.load(tiny("llama"))


@pytest.mark.parametrize(
    ("sweep", "hook", "unit"),
    [
        ("get_act_patch_attn_head_out_all_pos", "z", "head"),
        ("get_act_patch_attn_head_v_all_pos", "v", "kv_head"),
        ("get_act_patch_resid_pre", "resid_pre", "layer"),
        ("get_act_patch_attn_out", "attn_out", "layer"),
        ("get_act_patch_mlp_out", "mlp_out", "layer"),
    ],
)
def test_patching_sweeps_agree(model, sweep, hook, unit):
    patching = importlib.import_module("transformer_lens.patching")
    with torch.no_grad():
        theirs = getattr(patching, sweep)(model, BASE, model.run_with_cache(SOURCE)[1], difference)
    pairs = wb.PromptPairs(BASE, SOURCE, ANSWERS)
    how = {"hook": hook, "unit": unit, "positions": "all" if unit != "layer" else "each"}
    ours = wb.activation_patch(model, pairs, **how, metrics=("logit_diff",), progress=False)["patched"]
    ours = ours.squeeze(["metric", "example"])
    read = theirs if unit != "layer" else theirs[:, ours["position"].values.tolist()]
    np.testing.assert_allclose(read.numpy(), ours.values, rtol=1e-5)


def test_the_logit_lens_ends_in_the_logits(model):
    logits, cache = model.run_with_cache(SOURCE)
    stack = cache.accumulated_resid(layer=-1)
    torch.testing.assert_close(model.unembed(model.ln_final(stack[-1])), logits)


def test_direct_logit_attribution_adds_up_on_folded_weights(model):
    direct = tool("direct_logit_attribution").direct_logit_attribution
    model.enable_compatibility_mode()
    found = direct(model, SOURCE, torch.tensor([ANSWERS[0]]), torch.tensor([ANSWERS[1]]))
    torch.testing.assert_close(found.attribution.sum(), difference(model(SOURCE)))


def test_gradient_tools_agree_once_gradients_are_on(model):
    patching = tool("attribution_patching")
    ours = wb.attribution_patch(
        model, wb.PromptPairs(BASE, SOURCE, ANSWERS), unit="head", metrics=("logit_diff",), progress=False
    )["contribution"].squeeze("metric")
    model.requires_grad_(True)
    theirs = patching.attribution_patch(model, SOURCE, BASE, difference).node_scores
    heads = np.zeros(ours.shape)
    for node, score in theirs.items():
        if node.head is not None:
            heads[node.layer, node.head] += score
    np.testing.assert_allclose(heads, ours.values, rtol=1e-5)
