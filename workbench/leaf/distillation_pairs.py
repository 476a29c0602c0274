"""Training data of distillation: lessons (student and teacher prompts of one target), and how batches are composed.

A lesson is one distillation example: what the student reads and what the teacher reads, usually the same, before one
target. The loss is on the target's tokens alone.

concat   originals and counterfactuals are one pile (the released code); their share of the loss follows from their
         numbers
lambda   every batch has the part lambda of originals and the rest of counterfactuals, and its loss is
         lambda x (loss of the originals) + (1 - lambda) x (loss of the counterfactuals) (the paper's formula)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import InputError
from workbench.leaf.examples import Example
from workbench.leaf.pruning import Pruned

Mix = float | int | str


@dataclass(frozen=True)
class Lesson:
    """One thing to learn.

    Attributes:
        student: what the student reads.
        teacher: what the teacher reads.
        weight: how much it counts beside the lessons of its batch.
        ignored: positions of the student's context that later tokens should not attend to, such as a confounding span;
            they matter where `distill` is given `attention`.

    Raises:
        InputError: two sides with different targets, a weight below zero, or ignored positions outside the context.
    """

    student: Example
    teacher: Example
    weight: float | int = 1.0
    ignored: tuple[int, ...] = ()

    def __post_init__(self):
        if self.student.target != self.teacher.target:
            raise InputError(
                f"The two sides of lesson {self.student.identifier!r} have the targets {self.student.target[:8]} and "
                f"{self.teacher.target[:8]}; student and teacher must be compared at the same response tokens."
            )
        if not self.weight >= 0:
            raise InputError(f"A lesson's weight must be 0 or more, not {self.weight}.")
        outside = [p for p in self.ignored if not 0 <= p < len(self.student.context)]
        if outside:
            raise InputError(
                f"Lesson {self.student.identifier!r} ignores position {outside[0]}, and its context has "
                f"{len(self.student.context)} tokens."
            )

    @property
    def scored(self) -> int:
        """Tokens that the loss is on."""
        return len(self.student.target)


def lessons_of(things: Sequence[Any], what: str = "examples") -> list[Lesson]:
    """Lessons from `Example`s and `Pruned`, which both models read alike, or `Lesson`s."""
    made = []
    for thing in things:
        one = thing.example if isinstance(thing, Pruned) else thing
        if isinstance(one, Example):
            one = Lesson(one, one)
        if not isinstance(one, Lesson):
            raise InputError(
                f"{what} holds a {type(thing).__name__}, and distillation learns from Example, Pruned or Lesson "
                "values. Make examples from text with workbench.leaf.example(model, instruction, response)."
            )
        made.append(one)
    return made


@dataclass(frozen=True)
class Share:
    """Lessons of one batch whose losses are averaged, and what that average counts."""

    lessons: tuple[Lesson, ...]
    share: float


class Plan:
    """Which lessons make up each update: shuffled passes over the piles, decided by the seed alone.

    The arguments are those of `workbench.leaf.distill`; with `epochs` the last batch may be smaller.

    Raises:
        InputError: nothing to learn from, a mix that the piles don't allow, or no steps.
    """

    def __init__(
        self,
        originals: Sequence[Lesson],
        counterfactuals: Sequence[Lesson],
        *,
        mix: Mix = "concat",
        batch: int = 32,
        steps: int | None = None,
        epochs: float | int = 3,
        seed: int = 0,
    ):
        _refuse(originals, counterfactuals, mix, batch, steps, epochs)
        if mix == "concat":
            sizes, self._piles = [batch], [[*originals, *counterfactuals]]
            self._shares = [1.0]
        else:
            first = batch if mix == 1 else 0 if mix == 0 else min(max(round(batch * float(mix)), 1), batch - 1)
            parts = [(first, list(originals), float(mix)), (batch - first, list(counterfactuals), 1 - float(mix))]
            sizes, self._piles, shares = zip(*[part for part in parts if part[0]], strict=True)
            self._shares = list(shares)
        first = round(epochs * len(self._piles[0])) if steps is None else steps * sizes[0]
        self.steps = -(-first // sizes[0])
        self._orders = []
        for number, (size, pile) in enumerate(zip(sizes, self._piles, strict=True)):
            order = _order(len(pile), self.steps * size if number else first, seed + number)
            self._orders.append([order[start : start + size] for start in range(0, len(order), size)])

    def __getitem__(self, step: int) -> list[Share]:
        """The lessons of an update."""
        chosen = zip(self._piles, self._orders, self._shares, strict=True)
        return [Share(tuple(pile[i] for i in order[step]), share) for pile, order, share in chosen]

    @property
    def lessons(self) -> list[Lesson]:
        """All lessons that may come up."""
        return [lesson for pile in self._piles for lesson in pile]


def _order(n: int, length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    passes = [torch.randperm(n, generator=generator) for _ in range(-(-length // n))]
    return torch.cat(passes)[:length].tolist()


def _refuse(
    originals: Sequence[Lesson],
    counterfactuals: Sequence[Lesson],
    mix: Mix,
    batch: int,
    steps: int | None,
    epochs: float | int,
) -> None:
    if batch < 1 or (steps is not None and steps < 1) or not epochs > 0:
        raise InputError(f"batch_size={batch}, steps={steps} and epochs={epochs} must be at least 1 (epochs above 0).")
    if mix != "concat" and (isinstance(mix, str) or not 0 <= mix <= 1):
        raise InputError(f"mix={mix!r} is neither 'concat' nor a number from 0 to 1, the share of the originals.")
    if mix == "concat":
        if not (originals or counterfactuals):
            raise InputError("There is nothing to learn from: neither examples nor counterfactuals were given.")
        return
    missing = [
        name
        for name, pile, share in (("examples", originals, mix), ("counterfactuals", counterfactuals, 1 - mix))
        if share > 0 and not pile
    ]
    if missing:
        raise InputError(
            f"mix={mix} needs {' and '.join(missing)}, of which there are none. Where no counterfactual was accepted, "
            "mix=1 distils on the originals alone."
        )
    if 0 < mix < 1 and batch < 2:
        raise InputError(
            f"mix={mix} needs an original and a counterfactual in every batch; batch_size={batch} holds one."
        )
