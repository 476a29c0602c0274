"""HTML view of prompts with tokens coloured by score, verified confounding spans struck out, and the answers.

Plain HTML with styles of its own, so that it shows in a notebook, in a report and on paper.
"""

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.leaf.thresholds import oriented
from workbench.plot.html import Html, render
from workbench.plot.theme import RULE, SOFT, TOWARDS

NEEDED = ("sensitivity", "word", "reply_before", "reply_after", "accepted", "removed", "origin", "candidate")
LONGEST = 160
"""Characters of a reply that are shown; the whole of it is in the hover text."""


def confounders(
    result: xr.Dataset, *, n: int = 6, examples: list[int] | None = None, threshold: float | None = None
) -> Html:
    """The prompts of a stage-1 result as text.

    The redder a token, the more confounding it is by the score; candidates are underlined; spans without which both
    models answer correctly are struck out, and the answers without each of them are given below.

    Args:
        result: from `workbench.leaf.confounders`.
        n: how many examples, those with a proved span first.
        examples: which ones instead, by their index among those that were given.
        threshold: which threshold's spans, where the result has several; None takes the smallest.

    Raises:
        InputError: a Dataset of another kind, or an example or threshold that is not in it.
    """
    missing = [name for name in NEEDED if name not in result]
    if missing:
        raise InputError(
            f"confounders needs a result of workbench.leaf.confounders; this Dataset lacks {', '.join(missing)}."
        )
    tau = _threshold(result, threshold)
    found = result.isel(span=np.flatnonzero(np.isclose(result["span_threshold"].values, tau)))
    return render(
        "workbench.plot",
        "confounders",
        examples=[_example(found.sel(example=i), found, i, tau) for i in _chosen(found, n, examples)],
        ramp=[_shade(level) for level in (1.0, 0.75, 0.5, 0.25, 0.0)],
        summary=summary(result),
        soft=SOFT,
        rule=RULE,
    )


def summary(result: xr.Dataset) -> str:
    """The counts of a result of `workbench.leaf.confounders` as a sentence."""
    count = {name: int(result.attrs[f"n_{name}"]) for name in ("examples", "student_wrong", "misled", "spans")}
    accepted, rescued = int(result.attrs["n_accepted"]), int(result.attrs["n_rescued"])
    return (
        f"Of {count['examples']} examples {result.attrs['student']} got {count['student_wrong']} wrong, and "
        f"{result.attrs['teacher']} {count['misled']} of these right. {accepted} of {count['spans']} candidate spans "
        f"are verified: both models answer correctly without them. "
        f"They are in {rescued} of the {count['misled']} examples."
    )


def _threshold(result: xr.Dataset, threshold: float | None) -> float:
    known = [float(t) for t in result["threshold"].values]
    if threshold is None:
        return min(known)
    near = [t for t in known if abs(t - threshold) < 1e-9]
    if not near:
        raise InputError(f"threshold={threshold} is not in this result; it has {known}.")
    return near[0]


def _chosen(found: xr.Dataset, n: int, examples: list[int] | None) -> list[int]:
    known = [int(i) for i in found["example"].values]
    if examples is not None:
        wrong = [i for i in examples if i not in known]
        if wrong:
            raise InputError(f"Example {wrong[0]} is not in this result; it has {known[:12]}.")
        return examples
    proved = {int(i) for i in found["origin"].values[found["accepted"].values.astype(bool)]}
    return sorted(known, key=lambda i: (i not in proved, i))[:n]


def _example(one: xr.Dataset, found: xr.Dataset, index: int, tau: float) -> dict:
    """One example as the template takes it: its tokens, and the answers with and without each span."""
    spans = found.isel(span=np.flatnonzero(found["origin"].values == index))
    proved = spans.isel(span=np.flatnonzero(spans["accepted"].values))
    struck = np.any(proved["removed"].values, axis=0)
    chosen = one["candidate"].sel(threshold=tau, method="nearest").values.astype(bool)
    levels = oriented(found).sel(example=index).values
    tokens = [
        _token(str(word), float(level), bool(chosen[i]), bool(struck[i]))
        for i, (word, level) in enumerate(zip(one["word"].values, levels, strict=True))
        if word != ""
    ]
    return {"name": str(one["identifier"].item()) or str(index), "tokens": tokens, "answers": _answers(one, spans)}


def _token(word: str, level: float, candidate: bool, struck: bool) -> dict[str, str]:
    fixed = bool(np.isnan(level))
    return {
        "word": word,
        "shade": f"color:{SOFT};" if fixed else _shade(level),
        "line": "line-through" if struck else "underline" if candidate else "",
        "title": "may not be pruned" if fixed else f"{level:.3f}",
    }


def _shade(level: float) -> str:
    """Red where the level is 0, no colour where it is 1."""
    red, green, blue = (int(TOWARDS[i : i + 2], 16) for i in (1, 3, 5))
    return f"background:rgba({red},{green},{blue},{0.75 * (1 - level) ** 2:.3f});"


def _answers(one: xr.Dataset, spans: xr.Dataset) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """What both models answered with everything, and without each span."""
    rows = [("with everything", one["reply_before"].values, one["correct_before"].values)]
    for row in range(spans.sizes["span"]):
        span = spans.isel(span=row)
        words = "".join(str(w) for w in one["word"].values[span["removed"].values.astype(bool)])
        rows.append((f"without “{words.strip()}”", span["reply_after"].values, span["correct_after"].values))
    return [
        (label, [_reply(str(reply), float(mark)) for reply, mark in zip(replies, right, strict=True)])
        for label, replies, right in rows
    ]


def _reply(reply: str, right: float) -> tuple[str, str, str]:
    """The mark of a reply ("" where the model was not asked), the whole of it, and what is shown."""
    mark = "" if np.isnan(right) else "✓" if right else "✗"
    return mark, reply, reply if len(reply) <= LONGEST else "… " + reply[-LONGEST:]
