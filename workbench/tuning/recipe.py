"""Tuning settings: those of the paper's released code, with every deviation and its reason."""

from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.errors import InputError, check_known
from workbench.names import LossOn

LOSSES = get_args(LossOn)


@dataclass(frozen=True)
class TuningRecipe:
    """Settings of a tuning run; the defaults are those of Chen et al. 2024 (released code).

    Two things deviate. Weight decay pulls slices back to the weights they began with instead of to zero, since a slice
    is stored as a delta; `leak` gives the other. Dropout is off, so that a run is decided by its seed (the paper's
    models have none).

    Attributes:
        steps: updates by AdamW.
        batch: dialogues per update.
        micro_batch: dialogues per forward pass; gradients of a batch add up, whatever this is.
        learning_rate: of the first update; 3e-5 suits models of billions of parameters.
        end_rate: the learning rate that the decay ends at.
        power: of the polynomial decay; 1 is a straight line.
        weight_decay: of AdamW.
        clip: the gradient's norm is cut to this; the trainer's default under the released code.
        max_length: dialogues with more tokens are left out.
        loss_on: "reply", the last turn, or "dialogue", all tokens: a mistake whose cost one may want to know.
        leak: let weight decay shrink the frozen rest of every touched matrix too, as it does where gradients are
            masked and the optimizer holds whole matrices. Then the rest is not bit-identical.
        seed: of the order of the dialogues.
    """

    steps: int = 120
    batch: int = 128
    micro_batch: int = 8
    learning_rate: float = 3e-5
    end_rate: float = 1e-7
    power: float = 1.0
    weight_decay: float = 0.1
    clip: float = 1.0
    max_length: int = 2048
    loss_on: LossOn = "reply"
    leak: bool = False
    seed: int = 0

    def __post_init__(self):
        """Refuse what cannot be trained."""
        if min(self.steps, self.batch, self.micro_batch) < 1:
            raise InputError(
                f"steps={self.steps}, batch={self.batch} and micro_batch={self.micro_batch} must be at least 1."
            )
        if not 0 <= self.end_rate <= self.learning_rate or self.learning_rate == 0:
            raise InputError(
                f"learning_rate={self.learning_rate} must be positive and end_rate={self.end_rate} between 0 and it."
            )
        if self.weight_decay < 0 or self.clip <= 0 or self.power <= 0:
            raise InputError(
                f"weight_decay={self.weight_decay} must not be negative; clip={self.clip} and power={self.power} must "
                "be positive."
            )
        check_known("loss_on", self.loss_on, LOSSES)

    def rate(self, step: int) -> float:
        """Learning rate of the update after `step` others: a polynomial from the first rate to the last."""
        left = 1 - step / self.steps
        return self.end_rate + (self.learning_rate - self.end_rate) * left**self.power

    def settings(self) -> dict[str, Any]:
        """What decides the outcome; how a batch is cut into forward passes does not."""
        return {name: value for name, value in asdict(self).items() if name != "micro_batch"}

    def order(self, n: int) -> Int[Tensor, "step batch"]:
        """Dialogues of every update: shuffled passes over all `n` of them."""
        generator = torch.Generator().manual_seed(self.seed)
        passes = -(-self.steps * self.batch // n)
        order = torch.cat([torch.randperm(n, generator=generator) for _ in range(passes)])
        return order[: self.steps * self.batch].view(self.steps, self.batch)
