"""Measurements take place in evaluation mode, whatever state a model was left in, and give that state back."""

import inspect

import numpy as np
import pytest
import torch
import transformers as hf

import workbench as wb
from tests.tiny import OLD, tiny
from tests.zoo import specimen
from workbench.models.attention import has_hooks
from workbench.models.load import load
from workbench.models.state import left_hooks

PAIRS = ([[3, 4, 5, 6]], [[3, 7, 5, 6]], (5, 9))
ROOMS = ("evaluation", "extreme", "inactive_heads", "leaf", "models", "patching", "prompts", "sycophancy", "tuning")
RUN_NOTHING = {
    # The structure of a model, its tokens and its files.
    *(
        "anatomy",
        "embedded",
        "load",
        "token_sequences",
        "in_chat",
        "organism_questions",
        "own_questions",
        "save_pretrained",
    ),
    *(
        "parameter_count",
        "random_counterfactuals",
        "training_dialogues",
        "harness_model",
        "own_items",
        "word_problems",
        "example",
        "reword",
    ),
    *("counterfactuals", "prune", "split_responses"),
    # Interventions within a `with` block.
    *("clamp_values", "force_attention", "mask_key", "sink_bias", "sliding_window", "swap_token", "zero_neurons"),
    *("zero_outputs", "quantized", "zero_heads", "zero_heads_cached", "recording"),
}
MEASUREMENTS = {
    "path": lambda model: wb.path_patch(model, wb.PromptPairs(*PAIRS), metrics=("logit_diff",), progress=False)[
        "patched"
    ],
    "activation": lambda model: wb.activation_patch(
        model, wb.PromptPairs(*PAIRS), metrics=("logit_diff",), progress=False
    )["patched"],
    "attribution": lambda model: wb.attribution_patch(
        model, wb.PromptPairs(*PAIRS), metrics=("logit_diff",), progress=False
    )["patched"],
    "extreme": lambda model: wb.extreme_tokens(model, [[3, 4, 5, 6]], progress=False)["residual_norm"],
    "scores": lambda model: wb.head_scores(model, [[3, 4, 5, 6]], progress=False),
}


def dropping():
    """A GPT-2 that drops much while it trains."""
    rates = {"resid_pdrop": 0.3, "attn_pdrop": 0.3, "embd_pdrop": 0.3}
    torch.manual_seed(0)
    return wb.load(hf.GPT2LMHeadModel(hf.GPT2Config(**OLD, n_positions=32, **rates)))


def test_every_public_function_that_runs_a_model_checks_its_state():
    public = {
        name: function
        for room in (wb, *(getattr(wb, room) for room in ROOMS))
        for name, function in ((name, getattr(room, name)) for name in room.__all__)
        if inspect.isfunction(function) and "HookedModel" in str(inspect.signature(function))
    }
    assert len(public) > 50
    assert {name for name, function in public.items() if not hasattr(function, "measures")} == RUN_NOTHING | {"check"}


@pytest.mark.parametrize("measure", MEASUREMENTS)
def test_a_model_in_training_mode_is_measured_without_dropout(measure):
    model, run = dropping(), MEASUREMENTS[measure]
    wanted = run(model)
    model.train()
    np.testing.assert_array_equal(run(model), wanted)
    assert model.training and all(m.training for m in model.original_model.modules() if isinstance(m, torch.nn.Dropout))


def test_the_state_is_given_back_after_an_exception():
    model = dropping()
    model.train().requires_grad_(True)
    model.blocks[1].eval()
    frozen = model.blocks[0].ln1.weight.requires_grad_(False)
    with pytest.raises(wb.InputError):
        wb.path_patch(model, wb.PromptPairs([[3, 4]], [[3, 700]], (5, 9)), progress=False)
    assert model.training and not model.blocks[1].training
    assert [p for p in model.parameters() if not p.requires_grad] == [frozen]


@pytest.mark.parametrize("measure", MEASUREMENTS)
def test_gradients_and_checkpoints_left_on_change_nothing(measure):
    wanted = MEASUREMENTS[measure](wb.load(tiny("llama")))
    inner = tiny("llama")
    model = wb.load(inner)
    inner.enable_input_require_grads()
    getattr(inner, "activation_checkpointing_enable", inner.gradient_checkpointing_enable)()
    model.train().requires_grad_(True)
    np.testing.assert_allclose(MEASUREMENTS[measure](model), wanted, rtol=1e-12)


def test_hooks_that_were_left_behind_are_named():
    model = wb.load(tiny("llama"))
    model.add_hook("blocks.0.attn.hook_z", lambda z, hook: 0 * z)
    handle = model.original_model.model.layers[2].register_forward_hook(lambda *_: None)
    with pytest.warns(wb.WorkbenchWarning, match=r"act on what is measured: .*blocks\.0\.attn\.hook_z, blocks\.2\."):
        MEASUREMENTS["extreme"](model)
    row = wb.check(model).sel(check="left_hooks")
    assert row["value"] == 2 and not row["passed"]
    handle.remove()
    model.reset_hooks()
    assert not left_hooks(model)


def test_an_intervention_of_a_with_block_is_meant():
    model = wb.load(tiny("llama"))
    plain = MEASUREMENTS["extreme"](model)
    with wb.zero_heads(model, heads=[(0, 0)]):
        assert not np.allclose(MEASUREMENTS["extreme"](model), plain)


def test_what_transformer_lens_attaches_for_itself_is_no_intervention():
    """OPT's MLP has no module of its own, so TransformerLens leads its hook points through permanent hooks."""
    model = load(specimen("OPTForCausalLM"))
    assert not left_hooks(model) and not has_hooks(model)
    model.add_hook("blocks.0.hook_mlp_out", lambda out, hook: 2 * out, is_permanent=True)
    assert has_hooks(model) and len(left_hooks(model)) == 1
