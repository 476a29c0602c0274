"""Where a model computes: on one device, or layer by layer on several, over which accelerate spreads or offloads it.

Tokens go in where the embedding is, and what is kept of a run is brought back there. Whatever reads or writes an
activation does so on the device of its layer.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor, nn

P = ParamSpec("P")


def device_of(module: Any) -> torch.device:
    """Where a module computes, for a model where its tokens go in.

    Weights that accelerate offloads lie on the meta device; they compute where it brings them.
    """
    return next(_devices(module))


def devices_of(model: Any) -> list[torch.device]:
    """All devices on which a model computes, that of its tokens first."""
    inner = getattr(model, "original_model", model)
    spread = getattr(inner, "hf_device_map", None) or getattr(getattr(model, "cfg", None), "n_devices", 1) > 1
    return list(dict.fromkeys(_devices(inner))) if spread else [device_of(inner)]


def follows(branch: Callable[Concatenate[Tensor, P], Tensor], module: Any) -> Callable[Concatenate[Tensor, P], Tensor]:
    """A function of a tensor that a module computes, for a tensor on any device, to which its result goes back."""

    def following(given: Tensor, *args: P.args, **keywords: P.kwargs) -> Tensor:
        return branch(brought(given, module), *args, **keywords).to(given.device)

    return following


def brought(given: Tensor, module: Any) -> Tensor:
    """A tensor where a module computes: where it is, if the module has no weights, like the final norm of OLMo."""
    return given.to(next(_devices(module), given.device))


@contextmanager
def present(module: nn.Module) -> Generator[None]:
    """A block in which a module's own weights hold values, also where accelerate offloads them."""
    offloading = [hook for hook in _hooks(module) if getattr(hook, "offload", False)]
    for hook in offloading:
        hook.pre_forward(module)
    try:
        yield
    finally:
        for hook in offloading:
            hook.post_forward(module, None)


def _devices(module: Any) -> Iterator[torch.device]:
    for part in getattr(module, "original_model", module).modules():
        own = [parameter for parameter in part._parameters.values() if parameter is not None]
        yield from (parameter.device for parameter in own if not parameter.is_meta)
        if any(parameter.is_meta for parameter in own):
            executing = [getattr(hook, "execution_device", None) for hook in _hooks(part)]
            yield from (torch.device(device) for device in executing if device is not None)


def _hooks(module: Any) -> tuple[Any, ...]:
    """Those of accelerate on a module."""
    hook = getattr(module, "_hf_hook", None)
    return getattr(hook, "hooks", (hook,))
