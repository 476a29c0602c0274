"""Runs of the Hugging Face model itself against runs of the bridge around it."""

import pytest
import torch

from tests.tiny import COHERE, TEN, bridge, sequences
from tests.zoo import specimen
from workbench.models.anatomy import anatomy
from workbench.models.bare import continue_bare, read_bare, rows_of, runs_bare
from workbench.models.capture import capture
from workbench.models.forward import copies, pad, prefix_cache
from workbench.models.load import load
from workbench.models.original import inner_module


def close(found, wanted):
    """Also where the bridge takes the softmax in float64 and Hugging Face in float32, as in Phi-3."""
    atol = 2e-6 if found.dtype == torch.float64 else 3e-5
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", [*TEN, "gemma3", COHERE])
@torch.no_grad()
def test_what_is_read_is_what_the_bridge_shows(family, dtype):
    """In float32 attention is fused, in float64 it is not."""
    model, runs = bridge(family, dtype), sequences((9, 7))
    assert runs_bare(model)
    rows = torch.tensor([0, 1, 1])[:, None], torch.tensor([8, 6, 2])[:, None]
    found = read_bare(model, anatomy(model), pad(runs, "cpu")[0], rows)
    names = {"blocks.0.hook_resid_pre": found.first, "blocks.2.hook_resid_post": found.last}
    names |= {f"blocks.{layer}.attn.hook_z": z for layer, z in found.z.items()}
    assert len(names) == 5
    wanted = capture(model, runs, dict.fromkeys(names, lambda activation: activation))
    for name, value in names.items():
        close(value, wanted[name][rows])


@pytest.mark.parametrize("family", TEN)
@pytest.mark.parametrize(("shared", "dtype"), [(0, torch.float64), (8, torch.float64), (8, torch.float32)])
@torch.no_grad()
def test_a_run_from_any_layer_behind_a_prefix_equals_the_bridge(family, shared, dtype):
    """Also where the prefix is longer than a sliding window (6 tokens in Mistral and Gemma-2)."""
    model, (run,) = bridge(family, dtype), sequences((13,))
    names = [*(f"blocks.{layer}.hook_resid_pre" for layer in range(3)), "blocks.2.hook_resid_post"]
    streams = capture(model, [run], dict.fromkeys(names, lambda activation: activation))
    tokens = torch.tensor([run[shared:]] * 2)
    for layer in range(3):
        resid = streams[names[layer]][:, shared:].repeat(2, 1, 1)
        past = copies(prefix_cache(model, [run[:shared]]), 2)
        found = continue_bare(model, layer, resid, tokens, past, rows_of(2, [1, 4], tokens.device))
        close(found, streams[names[3]][:, [shared + 1, shared + 4]].expand(2, -1, -1))


@torch.no_grad()
def test_the_last_mlp_sees_only_the_rows_that_are_read():
    model, tokens = bridge("llama"), torch.tensor(sequences((9, 9)))
    assert runs_bare(model)
    shapes = []
    for block in model.blocks:
        inner = inner_module(inner_module(block.mlp).down_proj)
        inner.register_forward_pre_hook(lambda _module, args: shapes.append(tuple(args[0].shape[:2])))
    try:
        read_bare(model, anatomy(model), tokens, rows_of(2, [8], tokens.device))
    finally:
        for block in model.blocks:
            inner_module(inner_module(block.mlp).down_proj)._forward_pre_hooks.clear()
    assert shapes == [(2, 9), (2, 9), (2, 1)]


def test_a_model_with_an_intervention_or_with_shared_keys_runs_as_a_bridge():
    model = bridge("llama")
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: 0 * z)]):
        assert not runs_bare(model)
    for module in (model.blocks[0], model.blocks[1].mlp, model.blocks[0].attn.hook_z):
        with module.register_forward_hook(lambda _module, _args, out: out):
            assert not runs_bare(model)
    assert runs_bare(model)
    assert not runs_bare(load(specimen("Gemma4ForCausalLM", num_kv_shared_layers=2)))
