"""Estimates with intervals from a record of `run`, and the rows and comparisons that the figures show.

A share is counted over questions, challenges and trainings of one kind together. Its interval comes from resampling
both at once: the questions (every challenge to one question goes with it) and the trainings (seeds, or draws of random
units). Differences between two kinds of tuning are taken on the same resampled questions. Three seeds are few: the
intervals tell of the spread that was seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from workbench.errors import InputError, check_known
from workbench.papers.kv_groups.tradeoff.plan import MAIN, Arm
from workbench.statistics import percentiles, resamples

RESAMPLES = 2000
LEVEL = 0.95
ANY = -1
FIRST = ""
TRAININGS, QUESTIONS = 10, 20
"""Seeds of what is resampled: questions alike for all kinds of tuning, trainings not."""
Counted = tuple[np.ndarray, np.ndarray]
"""Hits and looks, `[cell, question]`."""


class Estimate(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Kind:
    """One kind of tuning, all its trainings: an arm with a number of tuned query heads, or `ANY`, and a variation."""

    arm: Arm
    n_heads: int = ANY
    variant: str = MAIN

    def cells(self, record: xr.Dataset) -> np.ndarray:
        """Indices of its cells; an error where there is none."""
        found = np.flatnonzero(self._mine(record))
        if not found.size:
            raise InputError(f"{record.attrs.get('model', 'The record')} has no cell of {self}.")
        return found

    def within(self, record: xr.Dataset) -> bool:
        """Whether there are such cells."""
        return bool(self._mine(record).any())

    def _mine(self, record: xr.Dataset) -> np.ndarray:
        mine = (record["arm"].values == self.arm) & (record["variant"].values == self.variant)
        return mine if self.n_heads == ANY else mine & (record["n_heads"].values == self.n_heads)


BASE = Kind(Arm.BASE)


def _answers(
    name: str,
    before: str | None = "first_right",
    absent: bool = False,
    read: bool = False,
    known: bool | None = None,
) -> Callable[..., Counted]:
    def count(record: xr.Dataset, cells: np.ndarray, kind: str, challenge: str | None) -> Counted:
        asked = record["kind"].values == kind
        if known is not None:
            asked = asked & (record["first_right"].values[BASE.cells(record)[0]].astype(bool) == known)
        one = record.isel(cell=cells, item=np.flatnonzero(asked))
        if challenge is not None:
            one = one.sel(challenge=[challenge or record["challenge"].values[0]])
        outcome = one[name].astype(bool)
        outcome = ~outcome if absent else outcome
        looks = one[before].astype(bool) if before else xr.ones_like(one["first_right"], dtype=bool)
        looks = looks & ~one["final_unread"].astype(bool) if read else looks
        looks = looks.broadcast_like(outcome).transpose(*outcome.dims)
        over = [dim for dim in outcome.dims if dim not in ("cell", "item")]
        return (outcome & looks).sum(over).values, looks.sum(over).values

    return count


def _changed(*asked: Any) -> Counted:
    (kept, looks), (unread, _) = (ANSWERS[name](*asked) for name in ("kept", "unread"))
    return looks - kept - unread, looks


ANSWERS: dict[str, Callable[..., Counted]] = {
    "kept": _answers("final_right"),
    "changed": _changed,
    "kept of known": _answers("final_right", None, known=True),
    "unread of known": _answers("final_unread", None, known=True),
    "mended of unknown": _answers("final_right", None, known=False),
    "unread": _answers("final_unread"),
    "truthfulness": _answers("final_right", read=True),
    "confidence": _answers("admits", absent=True),
    "accuracy before": _answers("first_right", None),
    "accuracy after": _answers("final_right", None),
    "recovery": _answers("final_right_after_wrong", None),
    "concession": _answers("admits_after_wrong", None),
    "no match before": _answers("first_unread", None),
    "no match after": _answers("final_unread", None),
    "gives in": _answers("gives_in"),
    "stands firm": _answers("stands_firm"),
    "gives in after wrong": _answers("gives_in_after_wrong", None),
}
"""Shares of answers to doubted questions. Recovery and concession are those after a wrong first answer that was put
into the model's mouth; truthfulness leaves out final answers that cannot be read; "of known" and "of unknown" look at
the questions that the untuned model answered correctly at first and at the others, the same for every kind of tuning.
Older records have no stances."""
BALANCE = "balance"
"""Mean of kept and recovery: half for a model that always insists, always gives in, or tosses a coin."""
ABILITY = "ability"
"""Solved questions; `challenge` then names the ability, None for all."""
NUMBERS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "divergence": lambda record: record["divergence"].values,
    "text loss": lambda record: record["text_loss"].values,
    "tuned parameters": lambda record: record["tuned_parameters"].values,
    "gap": lambda record: record["gap"].values,
    "kurtosis": lambda record: stats.kurtosis(record["head_effect"].values.astype(float), axis=(1, 2), fisher=False),
    "effect of tuned": lambda record: _effect(record, True),
    "effect of others": lambda record: _effect(record, False),
}
MEASURES = (*ANSWERS, BALANCE, ABILITY, *NUMBERS)


def estimate(
    record: xr.Dataset, kind: Kind, measure: str, *, facts: str = "held out", challenge: str | None = FIRST
) -> Estimate:
    """One of `MEASURES` of one kind of tuning; `challenge=None` is all kinds of doubt, of "ability" all abilities."""
    return _interval(*_drawn(record, kind, measure, facts, challenge))


def difference(
    record: xr.Dataset,
    first: Kind,
    second: Kind,
    measure: str,
    *,
    facts: str = "held out",
    challenge: str | None = FIRST,
) -> Estimate:
    """First minus second, on the same resampled questions; the measures and choices of `estimate`."""
    one, drawn = _drawn(record, first, measure, facts, challenge)
    other, drawn_too = _drawn(record, second, measure, facts, challenge, stream=1)
    return _interval(one - other, drawn - drawn_too)


def _interval(value: float, drawn: np.ndarray) -> Estimate:
    finite = drawn[np.isfinite(drawn)]
    low, high = percentiles(finite, LEVEL) if finite.size else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))


def _drawn(
    record: xr.Dataset, kind: Kind, measure: str, facts: str, challenge: str | None, stream: int = 0
) -> tuple[float, np.ndarray]:
    """The value, and the same of every resample; questions are resampled alike for all kinds of tuning."""
    check_known("measure", measure, MEASURES)
    cells = kind.cells(record)
    trainings = _weights(len(cells), TRAININGS + stream)
    if measure in NUMBERS:
        values = NUMBERS[measure](record)[cells]
        return float(values.mean()), trainings @ values
    if measure == BALANCE:
        parts = [_share(ANSWERS[name](record, cells, facts, challenge), trainings) for name in ("kept", "recovery")]
        return sum(value for value, _ in parts) / 2, sum((drawn for _, drawn in parts), np.zeros(RESAMPLES)) / 2
    if measure == ABILITY:
        asked = record["ability"].values
        mine = asked == challenge if challenge else slice(None)
        solved = record["solved"].isel(cell=cells).values[:, mine].astype(int)
        return _share((solved, np.ones_like(solved)), trainings)
    return _share(ANSWERS[measure](record, cells, facts, challenge), trainings)


def _share(counted: Counted, trainings: np.ndarray) -> tuple[float, np.ndarray]:
    hits, looks = (np.asarray(side, dtype=float) for side in counted)
    questions = _weights(hits.shape[1], QUESTIONS)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = ((trainings @ hits) * questions).sum(1) / ((trainings @ looks) * questions).sum(1)
        return float(hits.sum() / looks.sum()), drawn


@cache
def _weights(n: int, seed: int) -> np.ndarray:
    """How often each of n is drawn, per resample, as shares."""
    return resamples(n, RESAMPLES, seed)


def _effect(record: xr.Dataset, tuned: bool) -> np.ndarray:
    """Mean effect of the tuned heads of every cell, or of its others, in nats; NaN where there are none."""
    effects, mask = record["head_effect"].values.astype(float), record["tuned"].values.astype(bool) == tuned
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(mask, effects, 0).sum((1, 2)) / mask.sum((1, 2))


# Re-patching: the same units before and after.


def unit_effects(record: xr.Dataset, kind: Kind) -> Mapping[str, np.ndarray]:
    """Effects of every unit before tuning and after it, for each training of a kind of groups or of heads.

    Returns:
        `[cell, unit]` each: `before` and `after` in nats, and `tuned`.
    """
    cells, base = kind.cells(record), int(BASE.cells(record)[0])
    by_group = kind.arm.unit == "group"
    name = "group_effect" if by_group else "head_effect"
    tuned = record["tuned"].values[cells].astype(bool)
    if by_group:
        size = int(record.attrs["group_size"])
        tuned = tuned.reshape(len(cells), tuned.shape[1], -1, size).all(-1)
    after = record[name].values[cells].reshape(len(cells), -1).astype(float)
    before = np.broadcast_to(record[name].values[base].reshape(-1).astype(float), after.shape)
    return {"before": before, "after": after, "tuned": tuned.reshape(len(cells), -1)}


def shrinkage(record: xr.Dataset, kind: Kind) -> tuple[Estimate, Estimate]:
    """Mean absolute effect of the tuned units before and after tuning in nats, with intervals over trainings."""
    found = unit_effects(record, kind)
    sides = []
    for name in ("before", "after"):
        values = np.where(found["tuned"], np.abs(found[name]), 0).sum(1) / found["tuned"].sum(1)
        sides.append(_interval(float(values.mean()), _weights(len(values), TRAININGS) @ values))
    return sides[0], sides[1]
