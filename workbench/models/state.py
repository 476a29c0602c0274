"""The state in which a model is measured, whatever state it was left in.

Dropout is off, no parameter asks for a gradient, and hooks that are still on the model are named. Modes and
gradients are given back afterwards, also after an exception.
"""

import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

from torch import nn

from workbench.errors import WorkbenchWarning
from workbench.models.anatomy import is_transformer_lens
from workbench.protocol import HookedModel

P = ParamSpec("P")
R = TypeVar("R")
OWNERS = ("workbench", "transformers", "transformer_lens", "accelerate")
"""Packages whose own hooks on modules are meant: interventions of a `with` block, moving of offloaded weights."""


def measures(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function with every model among its arguments in the state for measuring; it says so by `measures`."""

    @functools.wraps(function)
    def measured(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            for model in filter(is_transformer_lens, (*args, *kwargs.values())):
                stack.enter_context(measuring(model))
            return function(*args, **kwargs)

    measured.__dict__["measures"] = True
    return measured


@contextmanager
def measuring(model: HookedModel) -> Generator[None]:
    """Evaluation mode without gradients of the parameters, for a block.

    Warns of hooks that were added outside a `with` block: they act on what is measured. Those of a `with` block around
    the measurement, such as `zero_heads`, are meant.
    """
    left = left_hooks(model)
    if left:
        warnings.warn(
            f"Hooks that nobody removed are on this model and act on what is measured: {', '.join(left[:3])}"
            f"{', …' if len(left) > 3 else ''}. model.reset_hooks(including_permanent=True) removes those of "
            "TransformerLens; add hooks that are meant in a `with model.hooks(...)` block.",
            WorkbenchWarning,
            stacklevel=4,
        )
    with evaluating(model), frozen(model):
        yield


@contextmanager
def evaluating(model: HookedModel) -> Generator[None]:
    """Every module in evaluation mode; those that were not are given back so."""
    training = [module for _, module in modules_of(model) if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(model: HookedModel) -> Generator[None]:
    """No parameter asks for a gradient; those that did do so again afterwards."""
    asking = [p for p in model.parameters() if p.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def without_hooks(model: HookedModel) -> Generator[None]:
    """Hook points without what TransformerLens attached to them, for a block."""
    points = {id(point): point for point in model.hook_dict.values() if hooks_of(point)}.values()
    kept = [(point, point._forward_hooks) for point in points]
    for point, hooks in kept:
        ours = {handle.hook.id for handle in hooks_of(point)}
        point._forward_hooks = OrderedDict((key, hook) for key, hook in hooks.items() if key not in ours)
    try:
        yield
    finally:
        for point, hooks in kept:
            point._forward_hooks = hooks


def hooks_of(point: Any) -> list[Any]:
    """What was attached to a hook point, but for what TransformerLens keeps there for itself, as on OPT and XGLM."""
    return [
        hook for hook in point.fwd_hooks if not (hook.is_permanent and _owner(hook.user_hook) == "transformer_lens")
    ]


def _owner(function: Any) -> str:
    return str(getattr(function, "__module__", "")).split(".")[0]


def modules_of(model: HookedModel) -> list[tuple[str, nn.Module]]:
    """All modules with their names; a bridge does not list those of the Hugging Face model that it stands before."""
    inner = getattr(model, "original_model", None)
    return [*model.named_modules(), *(inner.named_modules() if isinstance(inner, nn.Module) else ())]


def left_hooks(model: HookedModel) -> list[str]:
    """Names of hook points and modules that carry a hook which belongs to no `with` block."""
    points = {id(p): name for name, p in model.hook_dict.items() if any(h.context_level is None for h in hooks_of(p))}
    modules: dict[int, str] = {}
    for name, module in modules_of(model):
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if any(_owner(hook) not in OWNERS for hook in hooks):
            modules.setdefault(id(module), name or "the whole model")
    return [*points.values(), *modules.values()]
