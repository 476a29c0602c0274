"""Trainable deltas for slices of frozen weights, and merging them.

1. A module with chosen outputs (queries, keys, values) or inputs (the output projection) gets a delta in the shape of
   that slice, zero at first, in float32 at least; the module's own weight and bias stay frozen.
2. A hook adds what the delta contributes, `x · delta` on the chosen outputs or `x[chosen] · delta`. So the gradient of
   the delta is the slice of the full gradient, and neither the full gradient nor optimizer state for it ever exists.
   Weight decay acts on the delta alone: it pulls towards the weights that tuning began with.
3. Merging adds the delta to its slice. Every other entry keeps its bits.

The deltas are registered on the modules whose outputs they change, so whatever shards a block's parameters shards
them too. PEFT has no adapter for this. LoRA, also by `target_parameters`, puts low-rank matrices over a whole
projection; trainable tokens are rows of an embedding; SHiRA trains the entries under a mask, but as many as a LoRA of
some rank has, in nn.Linear alone (not GPT-2's Conv1D), without biases, and with the whole matrix and its gradient made
anew in every pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from workbench.errors import InputError
from workbench.tuning.slices import Slice, Slices

WEIGHT, BIAS, INDEX = "slice_weight", "slice_bias", "slice_index"


@dataclass(frozen=True)
class Attached:
    """One module with its delta."""

    module: nn.Module
    axis: int
    handle: RemovableHandle


class Tunable:
    """A Hugging Face model, not wrapped, of which the chosen slices alone are trainable, in place and until `merge`."""

    def __init__(self, hf: nn.Module, slices: Slices):
        hf.requires_grad_(False)
        self.attached = [_attach(hf.get_submodule(part.module), part) for part in slices.parts]
        for name in slices.whole:
            hf.get_parameter(name).requires_grad_(True)
        self._hf = hf
        self.count = sum(p.numel() for p in self.parameters.values())
        if not self.count:
            raise InputError("No parameter is left to tune: the chosen units have none in this model.")

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What an optimizer gets, by name; sharding puts others in their places."""
        return {name: p for name, p in self._hf.named_parameters() if p.requires_grad}

    @property
    def touched(self) -> list[Any]:
        """The frozen matrices that have a trained slice."""
        return [attached.module.weight for attached in self.attached]

    @property
    def sharded(self) -> bool:
        """Whether the parameters lie on several processes."""
        return any(isinstance(p, DTensor) for p in self.parameters.values())

    @torch.no_grad()
    def merge(self) -> float:
        """Add every delta to its slice and leave plain modules.

        Returns:
            The share of the deltas' norm that rounding to the weights' dtype lost.
        """
        lost = total = 0.0
        for attached in self.attached:
            module, index = attached.module, attached.module.get_buffer(INDEX)
            for own, delta, axis in _pairs(module, attached.axis):
                wanted = own.index_select(axis, index).to(delta.dtype) + delta
                rounded = wanted.to(own.dtype)
                lost += float((rounded.to(delta.dtype) - wanted).square().sum())
                total += float(delta.square().sum())
                own.index_copy_(axis, index, rounded)
            attached.handle.remove()
            for name in (WEIGHT, BIAS):
                module._parameters.pop(name, None)
            del module._buffers[INDEX]
            module._non_persistent_buffers_set.discard(INDEX)
        self._hf.requires_grad_(False)
        return (lost / total) ** 0.5 if total else 0.0


def _attach(module: nn.Module, part: Slice) -> Attached:
    weight: Any = module.weight
    transposed = type(module).__name__ == "Conv1D"
    axis = int((part.side == "in") != transposed)
    wide = torch.promote_types(weight.dtype, torch.float32)
    index = torch.tensor(part.index, device=weight.device)
    shape = list(weight.shape)
    shape[axis] = len(part.index)
    module.register_buffer(INDEX, index, persistent=False)
    module.register_parameter(WEIGHT, nn.Parameter(weight.new_zeros(shape, dtype=wide)))
    if part.side == "out" and getattr(module, "bias", None) is not None:
        module.register_parameter(BIAS, nn.Parameter(weight.new_zeros(len(part.index), dtype=wide)))
    hook = _add_outputs if part.side == "out" else _add_inputs
    return Attached(module, axis, module.register_forward_hook(hook))


def _add_outputs(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    x = args[0]
    bias = getattr(module, BIAS, None)
    added = nn.functional.linear(x, _matrix(module, x), None if bias is None else bias.to(x.dtype))
    return output.index_add(-1, module.slice_index, added.to(output.dtype))


def _add_inputs(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    x = args[0].index_select(-1, module.slice_index)
    return output + nn.functional.linear(x, _matrix(module, x)).to(output.dtype)


def _matrix(module: Any, x: Tensor) -> Tensor:
    delta = module.slice_weight.to(x.dtype)
    return delta.T if type(module).__name__ == "Conv1D" else delta


def _pairs(module: Any, axis: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """The module's own tensors with their deltas, and the axis of the slice."""
    yield module.weight, module.slice_weight, axis
    if (bias := getattr(module, BIAS, None)) is not None:
        yield module.bias, bias, 0
