"""A measurement that ends anywhere in an exception leaves no hook, mode, flag or gradient on the model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

import workbench as wb
from tests.tiny import bridge
from workbench.evaluation.questions import Question
from workbench.models.state import modules_of

TEXTS = [[3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [3, 8, 9, 5, 6, 4]]
PAIRS = wb.PromptPairs([[3, 4, 5, 6], [4, 5, 6]], [[3, 7, 5, 6], [4, 8, 6]], (5, 9))
QUESTIONS = [Question(tuple(text), ((1,), (2, 3)), 0) for text in TEXTS]
QUIET: dict[str, Any] = {"progress": False}
MEASUREMENTS: dict[str, Callable[[wb.HookedModel], object]] = {
    "path_patch": lambda model: wb.path_patch(model, PAIRS, metrics=("logit_diff",), **QUIET),
    "activation_patch": lambda model: wb.activation_patch(model, PAIRS, metrics=("logit_diff",), **QUIET),
    "attribution_patch": lambda model: wb.attribution_patch(model, PAIRS, metrics=("logit_diff",), **QUIET),
    "extreme_tokens": lambda model: wb.extreme_tokens(model, TEXTS, **QUIET),
    "peak_sources": lambda model: wb.extreme.peak_sources(model, TEXTS, **QUIET),
    "zeroing_sweep": lambda model: wb.extreme.zeroing_sweep(model, TEXTS, **QUIET),
    "head_scores": lambda model: wb.head_scores(model, TEXTS, **QUIET),
    "score_choices": lambda model: wb.evaluation.score_choices(model, QUESTIONS, **QUIET),
    "generate": lambda model: wb.evaluation.generate(model, TEXTS, max_new_tokens=3, **QUIET),
}
POINTS = (0.0, 0.4, 0.7, 1.0)


def state(model: wb.HookedModel) -> dict[str, Any]:
    """Everything that a measurement could forget."""
    found: dict[str, Any] = {"grad": torch.is_grad_enabled(), "dtype": torch.get_default_dtype()}
    for name, module in modules_of(model):
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        given = [len(getattr(module, hook, ())) for hook in ("fwd_hooks", "bwd_hooks")]
        found[f"{name} {id(module)}"] = (
            module.training,
            [list(kept) for kept in hooks],
            given,
            "forward" in vars(module),
        )
    found["parameters"] = [(p.requires_grad, p.grad is None, p._version) for p in model.parameters()]
    found["attention"] = model.original_model.config._attn_implementation
    return found


class Stopped(Exception):
    """What a hook of somebody else may raise."""


@pytest.mark.filterwarnings("ignore::workbench.errors.WorkbenchWarning")
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_an_exception_in_the_middle_leaves_nothing_behind(name):
    model, calls, stop = bridge("llama"), 0, -1

    def count(_module: object, _given: object) -> None:
        nonlocal calls
        calls += 1
        if calls - 1 == stop:
            raise Stopped

    MEASUREMENTS[name](model)  # What is found out, and set up, once per model.
    before = state(model)
    watch = register_module_forward_pre_hook(count)
    try:
        MEASUREMENTS[name](model)
        total = calls
        assert total > 10 and state(model) == before
        for share in POINTS:
            calls, stop = 0, round(share * (total - 1))
            with pytest.raises(Stopped):
                MEASUREMENTS[name](model)
            assert state(model) == before, f"after call {stop} of {total}"
    finally:
        watch.remove()
