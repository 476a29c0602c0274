"""What accuracy curves say: the baseline, how many heads can go, what a tenth of them costs, and how scores rank.

`curves` are always of `inactive_heads.ablation_curve`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from scipy import stats

from workbench.inactive_heads import loss_at, unusable
from workbench.inactive_heads.curves import RANDOM_BY_LAYER
from workbench.inactive_heads.summary import RANDOM, UNSEEN
from workbench.papers.inactive_heads.published import published
from workbench.plot.inactive import label

SCORE = "AHON_LN"
"""The score that leads the paper's ranking, by which heads are judged where one score is asked for."""


def baseline_line(curves: xr.Dataset) -> str:
    """What the accuracy is before anything is zeroed, and what can be seen with so many questions."""
    n = curves.sizes["example"]
    parts = [f"95% interval {_span(curves, 'baseline')}"] if "baseline_low" in curves else []
    if np.isfinite(curves.get("chance", np.nan)):
        parts.append(f"chance {float(curves['chance']):.1%}")
    if np.isfinite(curves.get("commonest", np.nan)):
        parts.append(f"the commonest answer is given to {float(curves['commonest']):.1%}")
    parts.append(f"one question is {100 / n:.2g} points")
    scored = curves.attrs.get("score_answers")
    if scored:
        by = curves.attrs.get("normalise", "none")
        length = "not divided by their length" if by == "none" else f"divided by their {by}"
        parts.append(f"answers scored as {'letters' if scored == 'letter' else 'text'}, {length}")
    return f"{float(curves['baseline']):.1%} of {n} questions are answered correctly ({'; '.join(parts)})."


def curve_line(curves: xr.Dataset) -> str:
    """How many heads the model can lose, in one sentence."""
    problem = unusable(curves)
    if problem is not None:
        return f"nothing can be said of its heads: {problem}."
    best, *beside = quoted(curves)
    n = curves.sizes["example"]
    others = ", ".join(f"{label(name)} {free_words(curves, name)}" for name in beside)
    known = [f"95% interval {_span(curves, 'baseline')}"] if "baseline_low" in curves else []
    known += [f"chance {float(curves['chance']):.1%}"] if np.isfinite(curves.get("chance", np.nan)) else []
    told = f" ({'; '.join(known)})" if known else ""
    unseen = UNSEEN / n
    doubt = "" if unseen <= 0.01 else f" With {n} questions a loss below {100 * unseen:.1f} points cannot be excluded."
    return (
        f"chosen by {label(best)}, {free_words(curves, best)} of the heads can go within one point of "
        f"{float(curves['baseline']):.1%} accuracy on {n} questions{told}, "
        f"{free_words(curves, best, 0.005)} within half a point; {others}. {_gain_words(curves, best)} (95% intervals "
        f"over questions).{doubt}"
    )


def quoted(curves: xr.Dataset) -> list[str]:
    """The scores whose free shares `curve_line` tells: the one with the largest, `SCORE`, AWFT and random choice."""
    measured = curves["score"].values.tolist()
    free = curves["free_share"].sel(loss=0.01)
    best = max((s for s in measured if not s.startswith(RANDOM)), key=lambda s: float(free.sel(score=s)))
    return [best, *(name for name in (SCORE, "AWFT", RANDOM) if name != best and name in measured)]


def key_line(curves: xr.Dataset) -> str:
    """What the lines and bars of the accuracy curves are."""
    matched = label(str(curves.attrs.get("matched", SCORE)))
    return (
        "Grey lines: accuracy with nothing zeroed (solid) and one point less (dashed). Bars: 95% intervals over "
        f'questions. "{label(RANDOM_BY_LAYER)}" zeroes as many heads of each layer as {matched}, chosen at random.'
    )


def asked_line(found: Mapping[str, xr.Dataset]) -> str:
    """What one's own models, whose curves are given by name, and the paper's were asked."""
    groups: dict[str, list[str]] = {}
    for name, one in found.items():
        if "example" in one.dims:
            asked = f"{one.sizes['example']} {one.attrs.get('asked', 'questions')}"
            groups.setdefault(asked, []).append(name)
    own = [f"{', '.join(names)}: {asked}; " for asked, names in groups.items()]
    return (
        f"Questions: {''.join(own)}the paper's models: MMLU, without intervals, since single answers are not released."
    )


def labels(scores: Sequence[str]) -> str:
    """Names of scores, joined."""
    return "; ".join(label(name) for name in scores)


def ranks_line(name: str, ranks: xr.Dataset, paper: xr.DataArray) -> str:
    """Which score ranks first, where the paper's first one is, and whether the order is the paper's."""
    one = ranks["rank"]
    first = str(one["score"].values[int(np.nanargmin(one.values))])
    between = [float(ranks[f"rank_{end}"].sel(score=SCORE)) for end in ("low", "high") if f"rank_{end}" in ranks]
    interval = f" (95% interval {between[0]:g} to {between[1]:g})" if between else ""
    ranked = interval if first == SCORE else f", AHON (LN) {float(one.sel(score=SCORE)):g}{interval}"
    both = one.notnull()
    alike, low, high = rank_correlation(one.where(both, drop=True).values, paper.where(both, drop=True).values)
    return (
        f"In {name} {label(first)} ranks first{ranked}; its order of {int(both.sum())} scores correlates with "
        f"the paper's mean ranks by {alike:.2f} (Spearman; {low:.2f} to {high:.2f}, bootstrap over scores)."
    )


def rank_correlation(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Spearman's correlation with its 95 % interval over resampled pairs."""
    drawn = np.random.default_rng(0).integers(len(first), size=(5000, len(first)))
    places = np.vstack([np.arange(len(first)), drawn])
    x, y = (stats.rankdata(values[places], axis=-1) - (len(first) + 1) / 2 for values in (first, second))
    with np.errstate(invalid="ignore"):
        found = (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    low, high = np.nanpercentile(found[1:], [2.5, 97.5])
    return float(found[0]), float(low), float(high)


def left_out_lines(found: Mapping[str, xr.Dataset], paper: xr.Dataset) -> list[str]:
    """Which measured scores have no rank, as the paper has no curves of them, and where one has the largest area."""
    known = paper["score"].values.tolist()
    extra = list(dict.fromkeys(s for one in found.values() for s in one["score"].values.tolist() if s not in known))
    if not extra:
        return []
    lines = [f"Measured but not ranked, since the paper has no curves of them: {labels(extra)}."]
    for name, one in found.items():
        first = str(one["score"].values[np.nanargmax(one["auc"].values)])
        if first in extra:
            ends = [float(one[f"rank_{end}"].sel(score=first)) for end in ("low", "high") if f"rank_{end}" in one]
            interval = f" (95% interval of its rank {ends[0]:g} to {ends[1]:g})" if ends else ""
            lines.append(f"In {name} {label(first)} has the largest area of all{interval}.")
    return lines


def free_words(curves: xr.Dataset, score: str, loss: float = 0.01) -> str:
    """The free share of a score with its interval; "at least" where its curve ends within the loss."""
    one = curves.sel(score=score, loss=loss)
    if not bool((one["share"] > 0).any()):
        return "selects no head"
    middle, low, high = (100 * float(one[f"free_share{end}"]) for end in ("", "_low", "_high"))
    least = "at least " if bool(one.get("free_share_at_least", False)) else ""
    upper = " or more" if bool(one.get("free_share_high_at_least", False)) else f" to {high:.1f}"
    return f"{least}{middle:.1f}% ({low:.1f}{upper})"


def _gain_words(curves: xr.Dataset, score: str) -> str:
    one, control = (curves.sel(score=name, loss=0.01) for name in (score, RANDOM))
    if bool(control.get("free_share_at_least", False)):
        return "Random choice stays within one point to the end of its curve too, so a gain over it is not known"
    middle, low, high = (100 * float(one[f"gain{end}"]) for end in ("", "_low", "_high"))
    least = "at least " if bool(one.get("free_share_at_least", False)) else ""
    more = f"{least}{middle:.1f}% ({low:.1f} to {high:.1f})"
    return f"That is {more} of the heads more than at random, on the same questions"


def _span(curves: xr.Dataset, name: str) -> str:
    return f"{float(curves[f'{name}_low']):.1%} to {float(curves[f'{name}_high']):.1%}"


WORDS = {"within": "confirmed", "beyond": "refuted", "open": "open", "not reached": "not measured"}


def claim_line(curves: xr.Dataset) -> str:
    """Whether a tenth of the heads, chosen by `SCORE` and at random, can go within half a point of accuracy."""
    problem = unusable(curves)
    if problem is not None:
        return f"whether a tenth of its heads can go within half a point is open: {problem}."
    found = loss_at(curves)
    parts = []
    for name in [s for s in (SCORE, RANDOM) if s in found["score"].values]:
        one = found.sel(score=name)
        lost, low, high = (100 * float(one[f"lost{end}"]) for end in ("", "_low", "_high"))
        cost = "" if np.isnan(lost) else f", {lost:z.1f} points lost ({low:z.1f} to {high:z.1f})"
        parts.append(f"{label(name)} {WORDS[str(one['verdict'].item())]}{cost}")
    return (
        f"that a tenth of the heads can go within half a point is, on {curves.sizes['example']} questions: "
        f"{'; '.join(parts)} (95% intervals)."
    )


def paper_line() -> str:
    """The same of the paper's models."""
    paper = published()
    theirs = [loss_at(paper.sel(model=m)).sel(score=SCORE) for m in paper["model"].values]
    losses = np.array([100 * float(one["lost"]) for one in theirs])
    kept = sum(str(one["verdict"].item()) == "within" for one in theirs)
    return (
        f"In the paper's curves on MMLU {label(SCORE)} keeps within half a point with a tenth of the heads zeroed in "
        f"{kept} of {len(theirs)} models and loses {np.nanmedian(losses):.1f} points in the median "
        f"({np.nanmin(losses):.1f} to {np.nanmax(losses):.1f})."
    )


def curve_table(curves: xr.Dataset) -> str:
    """The baseline, every score and the random controls in one table, each with its questions and chance."""
    n, at = curves.sizes["example"], loss_at(curves)
    chance = f"{float(curves['chance']):.1%}" if np.isfinite(curves["chance"]) else "unknown"
    head = ("heads zeroed by", "n", "chance", "within 1 point", "within 0.5 points", "points lost at 10% of heads")
    rows = [head, ("(none)", str(n), chance, f"{float(curves['baseline']):.1%} correct ({_span(curves, 'baseline')})")]
    for name in curves["score"].values.tolist():
        lost, low, high = (100 * float(at[f"lost{end}"].sel(score=name)) for end in ("", "_low", "_high"))
        cost = "not reached" if np.isnan(lost) else f"{lost:z.1f} ({low:z.1f} to {high:z.1f})"
        rows.append((label(name), str(n), chance, *(free_words(curves, name, loss) for loss in (0.01, 0.005)), cost))
    widths = [max(len(row[i]) for row in rows if len(row) == len(head)) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "\n".join([baseline_line(curves), *lines])
