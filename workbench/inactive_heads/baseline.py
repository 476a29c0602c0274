"""What a task's accuracy is worth before any head is zeroed: its interval, chance, and the answer that is given most.

1. Accuracy with its Wilson interval, and how many points one question is.
2. `chance`: one choice drawn evenly for each question. `chance_of_answers`: the same answers dealt to the questions at
   random, the sum over answers of P(given) P(right), which a model reaches that always gives one answer.
3. `commonest`: in what share of the questions the model gives its commonest answer; `commonest_right`: in what share
   that answer is right.

Zeroing heads cannot lower an accuracy at chance, so a curve from there says nothing about heads (`unusable`).
"""

from collections import Counter
from typing import Any

import numpy as np
import xarray as xr

from workbench.evaluation import interval

DOMINANT = 0.8
"""An answer given to more than this share of the questions dominates, unless it is right about as often."""
ABOUT = 0.2
"""How much oftener than right an answer may be given."""
WORTH = ("baseline", "baseline_low", "baseline_high", "chance", "chance_of_answers", "commonest", "commonest_right")
"""What `baseline_of` gives."""


def baseline_of(answers: xr.DataArray) -> xr.Dataset:
    """What the answers of a task are worth, with nothing zeroed.

    Args:
        answers: True or False per example; what is known of coordinates `given` and `right` (answers as strings) and
            `chance` (of guessing each right) is used.

    Returns:
        `baseline` with `baseline_low` and `baseline_high` (95 %, Wilson), `chance`, `chance_of_answers`, `commonest`
        and `commonest_right`, NaN where the task does not tell. attrs: `commonest_answer`, `points_per_question`.
    """
    correct = answers.values.astype(bool)
    accuracy, low, high = interval(correct)
    found = {"baseline": accuracy, "baseline_low": low, "baseline_high": high}
    found |= dict.fromkeys(WORTH[3:], np.nan)
    facts: dict[str, Any] = {"points_per_question": 100 / len(correct)}
    if "chance" in answers.coords:
        found["chance"] = float(answers["chance"].mean())
    if {"given", "right"} <= set(answers.coords):
        given, right = (Counter(answers[name].values.tolist()) for name in ("given", "right"))
        [(answer, times)] = given.most_common(1)
        found["commonest"], found["commonest_right"] = times / len(correct), right[answer] / len(correct)
        found["chance_of_answers"] = sum(given[a] * right[a] for a in given) / len(correct) ** 2
        facts["commonest_answer"] = answer
    return xr.Dataset(found, attrs=answers.attrs | facts)


def unusable(found: xr.Dataset) -> str | None:
    """Why no curve can be drawn from a baseline, in words; None where one can.

    Args:
        found: from `baseline_of`, or a result of `ablation_curve`.
    """
    if "baseline_low" not in found:
        return None
    value = {name: float(found[name]) for name in WORTH}
    even, dealt = value["chance"], value["chance_of_answers"]
    n = found.sizes.get("example") or round(100 / found.attrs["points_per_question"])
    if value["baseline_low"] <= np.nanmax([even, dealt, -1]):
        by = f"chance, {even:.1%}"
        if dealt > even:
            by = f"{dealt:.1%}, which the same answers reach when they are dealt to the questions at random"
        return (
            f"{value['baseline']:.1%} of {n} questions are answered correctly (95% interval "
            f"{value['baseline_low']:.1%} to {value['baseline_high']:.1%}), which is not above {by}"
        )
    if value["commonest"] > DOMINANT and value["commonest"] - value["commonest_right"] > ABOUT:
        return (
            f"one answer, {found.attrs['commonest_answer']!r}, is given to {value['commonest']:.1%} of {n} questions "
            f"and is right for {value['commonest_right']:.1%}"
        )
    return None


def way_out(score_answers: str) -> str:
    """What to do where a baseline is unusable; `score_answers` is "" where it is not known what is scored."""
    if score_answers == "letter":
        return (
            "A small model may know the answers and not their letters: score the answers as text, score_answers=text, "
            "with normalise=characters to divide their log-likelihoods by their length or without."
        )
    if score_answers == "text":
        return (
            "Ask easier questions or more of them, or score the answers the other way: normalise=characters divides "
            "their log-likelihoods by their length, normalise=none does not."
        )
    return "Ask easier questions or more of them."
