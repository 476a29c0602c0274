"""HTML view of prompts with tokens coloured by score, verified confounding spans struck out, and the answers.

Plain HTML with styles of its own, so that it shows in a notebook, in a report and on paper.
"""

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.leaf.thresholds import oriented
from workbench.plot.html import Html, render
from workbench.plot.theme import RULE, SOFT, TOWARDS

NEEDED = ("sensitivity", "word", "gold", "answer_before", "answer_after", "accepted", "removed", "control_accepted")
LONGEST = 160
"""Characters of a reply that are shown; the whole of it is in the hover text."""


def confounders(
    result: xr.Dataset, *, n: int = 6, examples: list[int] | None = None, threshold: float | None = None
) -> Html:
    """The prompts of a stage-1 result as text, below a table of what the spans rescue and what chance does.

    The redder a token, the more confounding it is by the score; candidates are underlined; spans without which both
    models answer correctly are struck out, and the answers without each of them are given below.

    Args:
        result: from `workbench.leaf.confounders`.
        n: how many examples of each threshold, those first that have a span without which both models are right.
        examples: which ones instead, by their index among those that were given.
        threshold: the spans of this one alone, where the result has several.

    Raises:
        InputError: a Dataset of another kind, or an example or threshold that is not in it.
    """
    missing = [name for name in NEEDED if name not in result]
    if missing:
        raise InputError(
            f"confounders needs a result of workbench.leaf.confounders; this Dataset lacks {', '.join(missing)}."
        )
    return render(
        "workbench.plot",
        "confounders",
        thresholds=[_spans_of(result, tau, n, examples) for tau in _thresholds(result, threshold)],
        ramp=[_shade(level) for level in (1.0, 0.75, 0.5, 0.25, 0.0)],
        summary=summary(result),
        chance=chance_rows(result),
        control=CONTROL,
        draws=result.sizes["draw"],
        misled=result.sizes["example"],
        soft=SOFT,
        rule=RULE,
    )


def summary(result: xr.Dataset) -> str:
    """The counts of a result of `workbench.leaf.confounders`, and what its spans rescue beyond chance."""
    count = {name: int(result.attrs[f"n_{name}"]) for name in ("examples", "student_wrong", "misled", "spans")}
    together = result.isel(tried=-1)
    excess, low, high = (100 * float(together[name]) for name in ("excess", "excess_low", "excess_high"))
    verdict = "beyond chance" if low > 0 else "worse than chance" if high < 0 else "not clear of chance"
    cut = [int(result.attrs[f"n_{name}_cut"]) for name in ("student", "teacher")]
    share = count["misled"] / max(1, count["student_wrong"])
    guess = f", where a guess among the options gets {result.attrs['guess']:.0%}" if "guess" in result.attrs else ""
    left = f" {cut[0]} of its and {cut[1]} of the teacher's first replies were cut and count as neither." * any(cut)
    return (
        f"Of {count['examples']} examples {result.attrs['student']} got {count['student_wrong']} wrong, and "
        f"{result.attrs['teacher']} {count['misled']} of these right ({share:.0%}{guess}).{left} Both answer "
        f"correctly without one of {result.attrs['n_accepted']} of {count['spans']} candidate spans, which rescues "
        f"{result.attrs['n_rescued']} of the {count['misled']} ({float(together['rescued_share']):.0%}). As many "
        "random spans of the same lengths "
        f"rescue {float(together['chance_share']):.0%} (mean of {result.sizes['draw']} draws): {excess:+.0f} points, "
        f"{verdict} (95 % interval {low:+.0f} to {high:+.0f})."
    )


CONTROL = (
    "Random spans lie in the same prompts, where tokens may be pruned, and clear of the found spans as far as there is "
    "room. A prompt counts as rescued if both models answer correctly without at least one of its spans; in each draw "
    "it has as many random ones. Intervals: 95 %, over prompts, of matched proportions (Agresti and Min 2005)."
)


def chance_rows(result: xr.Dataset) -> list[tuple[str, ...]]:
    """Threshold, spans, accepted spans, prompts rescued by found and by random spans, excess and its interval."""
    rows = []
    for tried in result["tried"].values:
        one = result.sel(tried=tried)
        n, share = one.sizes["example"], float(one["rescued_share"])
        excess, low, high = (100 * float(one[name]) for name in ("excess", "excess_low", "excess_high"))
        rows.append(
            (
                str(tried),
                f"{int(one['n_spans'])}",
                f"{int(one['n_accepted'])}",
                f"{int(one['rescued'].sum())} of {n} ({share:.0%})",
                f"{float(one['rescued_by_chance'].sum()):.1f} of {n} ({float(one['chance_share']):.0%})",
                f"{excess:+.0f} ({low:+.0f} to {high:+.0f})",
            )
        )
    return rows


def _thresholds(result: xr.Dataset, threshold: float | None) -> list[float]:
    known = [float(t) for t in result["threshold"].values]
    if threshold is None:
        return known
    near = [t for t in known if abs(t - threshold) < 1e-9]
    if not near:
        raise InputError(f"threshold={threshold} is not in this result; it has {known}.")
    return near


def _spans_of(result: xr.Dataset, tau: float, n: int, examples: list[int] | None) -> dict:
    """The examples with one threshold's spans as the template takes them."""
    found = result.isel(span=np.flatnonzero(np.isclose(result["span_threshold"].values, tau)))
    shown = [_example(found.sel(example=i), found, i, tau) for i in _chosen(found, n, examples)]
    return {"name": f"{tau:g}", "examples": shown}


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
    name, gold = str(one["identifier"].item()) or str(index), str(one["gold"].item())
    return {"name": name, "gold": gold, "tokens": tokens, "answers": _answers(one, spans)}


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


Answered = tuple[str, list[dict[str, str]], str]


def _answers(one: xr.Dataset, spans: xr.Dataset) -> list[Answered]:
    """What both models answered with everything, and without each span; and what random spans in its place do."""
    rows = [("with everything", _replies(one, "before"), "")]
    for row in range(spans.sizes["span"]):
        span = spans.isel(span=row)
        chance = f"both right in {int(span['control_accepted'].sum())} of {spans.sizes['draw']}"
        rows.append((f"without “{_words(one, span['removed'].values)}”", _replies(span, "after"), chance))
    return rows


def _words(one: xr.Dataset, removed: np.ndarray) -> str:
    return "".join(str(word) for word in one["word"].values[removed.astype(bool)]).strip()


ENDS = {"end": "end token", "stop": "stop string", "length": "cut: most tokens", "context": "cut: context full"}


def _replies(one: xr.Dataset, when: str) -> list[dict[str, str]]:
    """For each model the mark of its reply, the answer read in it, how it ended, the whole and what is shown of it."""
    shown = []
    for row in range(one.sizes["model"]):
        reply, answer, ending = (str(one[f"{name}_{when}"].values[row]) for name in ("reply", "answer", "ending"))
        right = float(one[f"correct_{when}"].values[row])
        mark = "" if not ending else "–" if np.isnan(right) else "✓" if right else "✗"
        short = reply if len(reply) <= LONGEST else f"{reply[: LONGEST // 2]} … {reply[-LONGEST // 2 :]}"
        ended = ENDS.get(ending, ending)
        shown.append({"mark": mark, "answer": answer, "ending": ended, "whole": reply, "short": short})
    return shown
