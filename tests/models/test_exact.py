"""The proof that a model's parts add up to it, on models where they do and where something was hidden."""

from functools import partial

import pytest
import torch
import transformers

from tests.tiny import BASE, TEN, bridge, tiny
from tests.zoo import specimen
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.checks import EXACT, RERUN, check, require_exact, require_path
from workbench.models.exact import (
    TOLERANCE,
    Agreement,
    agreement,
    block_output,
    recomputed_logits,
    relative_error,
)
from workbench.models.load import load


@pytest.mark.parametrize("family", [*TEN, "gptj", "cohere", "gemma3"])
def test_parts_add_up(family):
    assert agreement(bridge(family)).worst < 1e-12


def test_experts_add_up_in_float32():
    assert agreement(bridge("mixtral", torch.float32)).worst < 1e-6


def test_a_proof_is_given_once(monkeypatch):
    model = load(tiny("llama"))
    assert require_exact(model) == anatomy(model)
    monkeypatch.setattr("workbench.models.checks.context.agreement", lambda model: pytest.fail("proved twice"))
    require_exact(model)


def refusal(model):
    """The reason of `require_exact`, which must be that of `check`."""
    with pytest.raises(InputError, match="cannot be patched exactly") as found:
        require_exact(model)
    reason = check(model).attrs["verdict"].removeprefix("refused: ")
    assert reason in str(found.value)
    return reason


@pytest.mark.parametrize("point", ["blocks.1.hook_attn_out", "blocks.1.hook_resid_post", "unembed.hook_out"])
def test_what_the_original_does_not_compute_is_refused(point):
    model = load(tiny("llama"))
    model.hook_dict[point].register_forward_hook(lambda _m, _a, out: 1.1 * out)
    assert refusal(model).startswith("hugging_face_logits failed")


def test_falcon_with_alibi_is_loaded_with_the_attention_that_it_cannot_be_told_to_use():
    """Its fused attention gives other logits, and Hugging Face lets nobody change that of a model in memory."""
    falcon = partial(specimen, "FalconForCausalLM", alibi=True, multi_query=False, parallel_attn=False)
    plain, tokens = falcon(), torch.tensor([[5, 9, 11, 30, 2, 7]])
    plain.config._attn_implementation = "eager"
    model = load(falcon())
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), plain(tokens).logits, rtol=0, atol=1e-5)
    assert check(model).attrs["verdict"] == EXACT


def test_gated_attention_is_patched_since_groups_can_be_written():
    config = {"moe_intermediate_size": 24, "num_dense_layers": 1, "num_experts": 4, "num_experts_per_tok": 2}
    model = transformers.AfmoeForCausalLM(transformers.AfmoeConfig(**BASE, **config, head_dim=16, sliding_window=6))
    model = load(model)
    result = check(model)
    assert result.attrs["exact"] and not result["passed"].sel(check="kv_map_read")
    require_exact(model)


def test_an_intervention_is_no_reason_unless_recomputation_misses_it():
    model = load(tiny("llama"))
    with model.hooks([("blocks.1.attn.hook_z", lambda z, hook: 0.5 * z)]):
        require_exact(model)
    moved = model.hooks([("blocks.1.hook_resid_post", lambda out, hook: out + 1)])
    with moved, pytest.raises(InputError, match="changes what patching recomputes"):
        require_exact(model)
    require_exact(model)


def test_parts_that_cannot_be_called_are_told_and_the_model_runs_again():
    model = load(tiny("bloom"))
    result = check(model)
    assert result.attrs["verdict"].startswith(f"{RERUN}: recomputed_attention failed")
    assert result.attrs["exact"] and result.attrs["computed"] == "rerun" and require_path(model)[1] == "rerun"
    with pytest.raises(InputError, match="'residual'"):
        require_exact(model)


def test_where_the_model_runs_again_an_intervention_is_refused_since_it_would_not_be_seen():
    model = load(tiny("bloom"))
    with (
        model.hooks([("blocks.1.attn.hook_z", lambda z, hook: 0.5 * z)]),
        pytest.raises(InputError, match="not be seen by path patching"),
    ):
        require_path(model)


def test_a_dtype_that_the_model_cannot_run_is_refused_with_the_reason():
    model = load(tiny("mixtral"))
    if check(model).attrs["exact"]:
        pytest.skip("this version of transformers runs experts in float64")
    assert "got Double" in refusal(model)


def test_nan_is_the_worst():
    assert Agreement(0.0, float("nan"), 1.0).worst > 1e30
    assert Agreement(0.0, 0.2, 0.1).worst == pytest.approx(0.2)
    assert TOLERANCE["float64"] < TOLERANCE["float32"]


def test_relative_error():
    assert relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)


@pytest.mark.parametrize(("layout", "wanted"), [("sequential", 1 + 2 + 30), ("parallel", 1 + 2 + 10)])
def test_blocks_are_put_together_by_their_layout(layout, wanted):
    from dataclasses import replace

    from workbench.models.blocks import Block

    block = Block(attn_out=lambda z: z, mlp_out=lambda x: 10 * x, w_o=lambda: torch.eye(1))
    parts = replace(anatomy(bridge("llama")), layout=layout, blocks=(block,))
    one = torch.ones(1, 1, 4)
    assert torch.equal(block_output(parts, 0, one, 2 * one), torch.full((1, 1, 4), float(wanted)))


def test_a_final_norm_without_weights_is_part_of_the_logits():
    assert recomputed_logits(load(specimen("OlmoForCausalLM"))) < 1e-6
