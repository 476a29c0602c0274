"""Input and output types of the checks."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.models.anatomy import Anatomy, anatomy
from workbench.models.capture import capture
from workbench.models.devices import device_of
from workbench.models.exact import TOLERANCE, Agreement, agreement
from workbench.protocol import HookedModel


class NotApplicable(Exception):
    """This check does not concern this model; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What a check found: fine where `value` is at most `limit`."""

    value: float | int
    limit: float | int
    measured: str
    cause: str


@dataclass(frozen=True)
class CheckContext:
    """The model under test and what several checks need of it."""

    model: HookedModel
    sequences: list[list[int]]
    reference: Any = None

    @cached_property
    def parts(self) -> Anatomy:
        """Its anatomy."""
        return anatomy(self.model)

    @cached_property
    def agreement(self) -> Agreement:
        """Its recomputed parts against itself."""
        return agreement(self.model)

    @cached_property
    def logits(self) -> Tensor:
        """Its logits on the first sequence."""
        return self.model(self.tokens)

    @property
    def tokens(self) -> Tensor:
        """The first sequence as a batch of one."""
        return torch.tensor(self.sequences[:1], device=device_of(self.model))

    @property
    def dtype(self) -> str:
        """The dtype of its parameters, such as "float32"."""
        dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        return str(dtype).removeprefix("torch.")

    @property
    def tolerance(self) -> float:
        """The largest relative error that its dtype explains."""
        return TOLERANCE.get(self.dtype, 0.1)

    def seen(self, *words: str) -> list[dict[str, Tensor]]:
        """For each layer that has heads, the activations at the named hooks on the first sequence."""
        layers = self.head_layers
        wanted = {f"blocks.{i}.{word}": lambda t: t for word in words for i in layers}
        kept = capture(self.model, self.sequences[:1], wanted)
        return [{word: kept[f"blocks.{i}.{word}"] for word in words} for i in layers]

    @property
    def head_layers(self) -> tuple[int, ...]:
        """The layers that have heads.

        Raises:
            NotApplicable: there are none.
        """
        if not self.parts.head_layers:
            raise NotApplicable("No layer has attention heads that can be reached.")
        return self.parts.head_layers


def worst(errors: Iterable[float]) -> float:
    """The largest error; NaN if any is NaN."""
    return float(np.max(np.fromiter(errors, dtype=float)))
