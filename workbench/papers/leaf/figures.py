"""LeaF (arXiv 2506.07851): the paper's figures on the planted task as named recipes, and the published numbers.

They are drawn from the experiment that comes with the package (`workbench.leaf.toy.measured`), and what the sentences
say is computed from it. The hypotheses, and which of them were written before what, stand in
`workbench/leaf/toy/assets/README.md`.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from workbench.leaf import toy
from workbench.leaf.baselines import paired
from workbench.leaf.toy.arms import RELEASED, VARIANTS
from workbench.papers.leaf import published
from workbench.papers.leaf.comparisons import ARMS, comparisons
from workbench.papers.recipes import Drawn, FigureRecipe
from workbench.plot import compose
from workbench.plot import toys as plots
from workbench.plot.differences import differences
from workbench.plot.theme import INK, OTHERS

TITLES = {name: f"{name}: {one.title}" for name, one in toy.REGIMES.items()}
TICKS = {name: "<br>".join(textwrap.wrap(title, 16)) for name, title in TITLES.items()}
CHOSEN_BY = {
    "gradient_difference": "gradient difference",
    "student_gradient": "student's gradient",
    "perplexity": "perplexity",
    "random": "random",
    "oracle": "oracle",
}
SHOWN = {score: title for score, title in CHOSEN_BY.items() if score != "student_gradient"}
PILE = ("LeaF", "LeaF collective", "random", "perplexity", "oracle", "teacher-only filter")
"""Ways to distil on originals and counterfactuals in one pile."""
READERS = {"teacher": "teacher", "student": "before"} | {
    arm: ARMS.get(arm, arm) for arm in ("KD", "LeaF", "misled, half", "released")
}


def pruning_gain() -> Drawn:
    """Figures 1 and 2: misled answers that turn right, and that turn right with the teacher's still right."""
    found = toy.measured()
    after, rescued = (_by_selector(found, name) for name in ("student_after", "rescued"))
    panels = {
        "The student's answer turns right when the span goes (0 before)": plots.bars(
            after, label="Share of removed spans"
        ),
        "Some span of the example goes and both models are right": plots.bars(
            rescued, label="Share of misled examples"
        ),
    }
    figure = compose.stack(panels, title="What pruning is worth, by what chose the spans")
    selectors = [f"instruction {score}" for score in ("gradient_difference", "random", "oracle")]
    ours, chance, oracle = (_mean(found["rescued"].sel(selector=name)) for name in selectors)
    broken = _mean(found["teacher_breaks"].sel(selector=selectors[0]))
    return Drawn(
        figure,
        f"Spans by gradient difference rescue {_per(ours)} of the misled examples, random ones {_per(chance)}, the "
        f"planted clause {_per(oracle)} (regimes {', '.join(ours)}). Where the student is right after a span by "
        f"gradient difference went, the teacher is wrong in {_per(broken)}: without verification these would be kept. "
        f"{_students(found)}",
    )


def masking_strategies() -> Drawn:
    """Figure 7: hit of every score by regime, and the difference to KD of every way to distil."""
    found = toy.measured()
    hit = found["hit"].sel(level="instruction")
    shown = {s: title for s, title in SHOWN.items() if s in hit["score"].values}
    bars = {title: _by_regime(hit.sel(score=s)) for s, title in (shown | {"occlusion": "occlusion"}).items()}
    panels = {
        "The most confounding token is a planted one": plots.bars(bars, label="Share of examples"),
        "Accuracy on conflicts after distillation, difference to KD (95 % for all kinds together)": _forest(
            found, "conflict"
        ),
    }
    figure = compose.stack(panels, title="Are the planted tokens found, and does it pay?", legends="rows")
    return Drawn(figure, " ".join([*findings(found), _students(found)]))


def response_level() -> Drawn:
    """Figure 8: response-level repair, and what its counterfactuals add."""
    found = toy.measured()
    hit = found["hit"].sel(level="response")
    rescued = {t: _by_regime(found["rescued"].sel(selector=f"response {s}")) for s, t in SHOWN.items()}
    ways = {"KD": "KD", "LeaF": "prompts", "LeaF response": "responses", "LeaF instruction + response": "both"}
    values = found["value"].sel(measure="response")
    distilled = {way: _by_regime(values.sel(arm=arm)) for arm, way in ways.items()}
    panels = {
        "Distractor in the response: both models are right without the span": plots.bars(
            rescued, label="Share of misled examples"
        ),
        "Right in conflicts in the response, by what counterfactuals were made of": plots.bars(
            distilled, label="Accuracy", colours=OTHERS
        ),
    }
    figure = compose.stack(panels, title="Distractors in the response", legends="rows")
    apart = _paired(found, "response")
    both = _with_intervals(apart, "LeaF instruction + response", found)
    alone = _with_intervals(apart, "LeaF", found)
    ours = _mean(found["rescued"].sel(selector="response gradient_difference"))
    return Drawn(
        figure,
        f"With two of the three prefix tokens as candidates, pruning by gradient difference rescues {_per(ours)}; its "
        f"first token is planted in {_per(_mean(hit.sel(score='gradient_difference')))}, by chance in two of three. "
        f"On conflicts in the response, counterfactuals of both levels change KD by {both}; of prompts alone by "
        f"{alone}. The paper has prompts alone < two segments, in a figure without numbers. {_students(found)}",
    )


def threshold_sensitivity() -> Drawn:
    """Figures 9 and 10: rescued examples and accuracies after distillation, by threshold, for every regime."""
    found = toy.measured()
    endings = {"0.05": " at 0.05", "0.10": "", "0.15": " at 0.15"}
    selectors = {t: f"instruction gradient_difference{ending}" for t, ending in endings.items()}
    arms = {t: f"LeaF{ending}" for t, ending in endings.items()} | {"KD": "KD"}
    values = found["value"].sel(measure="conflict")
    rescued = {t: _by_regime(found["rescued"].sel(selector=s)) for t, s in selectors.items()}
    after = {t: _by_regime(values.sel(arm=arm)) for t, arm in arms.items()}
    panels = {
        "Rescued by spans, by threshold": plots.bars(rescued, label="Share of misled examples"),
        "Right in conflicts after distillation": plots.bars(after, label="Accuracy"),
    }
    figure = compose.stack(panels, title="How much to prune")
    told = ", ".join(f"{size} {value:.2f}" for size, value in published.BEST_THRESHOLD["instruction"].items())
    means = {t: _mean(found["rescued"].sel(selector=s)) for t, s in selectors.items()}
    high = _paired(found, "conflict", "LeaF at 0.05")
    return Drawn(
        figure,
        f"Rescued at 0.05: {_per(means['0.05'])}; at 0.15: {_per(means['0.15'])}. On conflicts after distillation 0.15 "
        f"is apart from 0.05 by {_with_intervals(high, 'LeaF at 0.15', found)}. The published best thresholds fall "
        f"with the student's size ({told}); B and D differ in nothing else. {_students(found)}",
    )


def objectives() -> Drawn:
    """Every way to distil that was tried, on the development student."""
    tried = toy.measured("development")
    values = tried["value"].sel(regime="B").isel(seed=0)
    order = values.sel(measure="conflict").sortby(values.sel(measure="conflict"), ascending=False)["arm"].values
    arms = [str(arm) for arm in order]
    measures = {"conflicts": "conflict", "with a marker not in the lessons": "sister"}
    tried = {arm: {title: float(values.sel(arm=arm, measure=m)) for title, m in measures.items()} for arm in arms}
    rows = {
        ARMS.get(arm, arm): {title: (value, value, value) for title, value in row.items()} for arm, row in tried.items()
    }
    ours = [ARMS.get(arm, arm) for arm in arms if arm in RELEASED]
    kd, misled = (float(values.sel(arm=arm, measure="conflict")) for arm in ("KD", "misled, half"))
    figure = differences(rows, label="Accuracy", marked=ours, title="What was tried, on one student", zero=False)
    return Drawn(
        figure,
        f"On the development student KD has {kd:.3f} on conflicts and up-weighted misled originals {misled:.3f}. The "
        f"best three are {'; '.join([*rows][:3])}. Pruned prompts, whoever chose the spans, are within "
        f"{_largest_gap(values):.3f} of KD.",
    )


def case_study() -> Drawn:
    """Figure 11: shares of attention and gradient on planted and asked tokens, for models before and after."""
    found = toy.measured()
    looks = {
        "Attention on the planted clause, of all prunable tokens": ("attention", "planted"),
        "Attention on the clauses that are asked for": ("attention", "asked"),
        "Gradient on the planted clause": ("gradient", "planted"),
    }
    panels = {}
    for heading, (look, tokens) in looks.items():
        share = found["share"].sel(look=look, tokens=tokens)
        bars = {title: _by_regime(share.sel(reader=reader)) for reader, title in READERS.items()}
        panels[heading] = plots.bars(bars, label=f"Share of {look}")
    figure = compose.stack(panels, title="Where models look in conflicts, before and after")
    attention = found["share"].sel(look="attention", tokens="planted")
    means = {title: _mean(attention.sel(reader=reader)) for reader, title in READERS.items()}
    return Drawn(
        figure,
        "Attention on the planted clause: "
        + "; ".join(f"{title} {_per(mean)}" for title, mean in means.items())
        + ". How the paper aggregates attention is not known; this is the mean over response positions, heads, layers. "
        + _students(found),
    )


def as_published() -> Drawn:
    """The repository's table: what LeaF adds to KD, by benchmark and student."""
    names = [name for group in published.BENCHMARKS.values() for name in group]
    sizes = [n for group in published.BENCHMARKS.values() for n in group.values()]
    rows: dict[str, dict[str, tuple[float, float, float]]] = {}
    for i, (name, n) in enumerate(zip(names, sizes, strict=True)):
        rows[name] = {}
        for student, table in published.ACCURACY.items():
            a, b = table["LeaF instruction + response"][i] / 100, table["KD"][i] / 100
            error = 1.96 * np.sqrt(a * (1 - a) / n + b * (1 - b) / n)
            rows[name][student] = (100 * (a - b), 100 * (a - b - error), 100 * (a - b + error))
    flat = [one for row in rows.values() for one in row.values()]
    clear = sum(low > 0 for _, low, _ in flat)
    gains = list(published.gains().values())
    math, code = (sum(one) / len(gains) for one in zip(*gains, strict=True))
    return Drawn(
        differences(rows, label="Points over KD (unpaired binomial 95 %)", title="LeaF over KD as published"),
        f"The published table has LeaF {math:.2f} points over KD on math and {code:.2f} on code. {clear} of "
        f"{len(flat)} cells are significant by themselves, one run each, without the pairing by questions.",
    )


def findings(found: xr.Dataset) -> list[str]:
    """The outcome of each hypothesis in one sentence, computed from a record of `workbench.leaf.toy.run`."""
    hit = found["hit"].sel(level="instruction")
    told = [
        "Hit (most confounding token planted): "
        + "; ".join(f"{CHOSEN_BY[s]} {_per(_mean(hit.sel(score=s)))}" for s in tuple(CHOSEN_BY)[:4])
        + "."
    ]
    told.append("Only students of P have learnt prompts too; to the others no word of a prompt is a surprise.")
    own = found["own_output_hit"].sel(level="instruction")
    told.append(f"Scored on the student's own output instead of the gold response: {_per(_mean(own))}.")
    if found.sizes["seed"] < 2:
        base = found["value"].sel(measure="conflict")
        shown = [a for a in ("KD", "LeaF", "misled, half", "released") if a in base["arm"].values]
        return [
            *told,
            "Conflicts: " + "; ".join(f"{ARMS.get(arm, arm)} {_per(_mean(base.sel(arm=arm)))}" for arm in shown) + ".",
        ]
    compared = comparisons(found)
    told.append(
        f"On conflicts, over {compared[0].kinds} kinds of students as random effects (by itself: where one kind's "
        "difference is not 0, corrected for kinds and comparisons): "
        + "; ".join(one.sentence() for one in compared if one.named)
        + ". Not named beforehand: "
        + "; ".join(one.sentence() for one in compared if not one.named)
        + "."
    )
    apart = _paired(found, "conflict")
    pile = [arm for arm in PILE if arm in apart["arm"].values]
    gaps = apart["difference"].sel(arm=pile)
    told.append(f"Counterfactuals in one pile, whoever chose the spans, are within {float(abs(gaps).max()):.3f} of KD.")
    return told


def _largest_gap(values: xr.DataArray) -> float:
    """How far counterfactuals in one pile take a student from KD, at most."""
    conflict = values.sel(measure="conflict")
    return float(abs(conflict.sel(arm=list(PILE)) - conflict.sel(arm="KD")).max())


def _paired(found: xr.Dataset, measure: str, reference: str = "KD") -> xr.Dataset:
    """Differences with intervals that hold for all kinds of students together (Bonferroni)."""
    return paired(found["value"].sel(measure=measure, drop=True), reference, level=1 - 0.05 / found.sizes["regime"])


def _forest(found: xr.Dataset, measure: str):
    apart = _paired(found, measure)
    arms = [str(arm) for arm in apart["arm"].values if arm not in ("KD", *VARIANTS)]
    rows = {ARMS.get(arm, arm): _row(apart, arm, found) for arm in arms}
    ours = [ARMS.get(arm, arm) for arm in arms if arm in RELEASED]
    known = {name: row for name, row in rows.items() if row}
    return differences(known, label="Difference to KD", marked=ours, colours=(*OTHERS, INK))


def _row(apart: xr.Dataset, arm: str, found: xr.Dataset) -> dict[str, tuple[float, float, float]]:
    rows = {str(r): apart.sel(regime=r, arm=arm) for r in found["regime"].values}
    ends = {r: (float(one["difference"]), float(one["low"]), float(one["high"])) for r, one in rows.items()}
    return {r: row for r, row in ends.items() if np.isfinite(row[1])}


def _by_selector(found: xr.Dataset, name: str) -> dict[str, dict[str, Sequence[float]]]:
    chosen = {title: found[name].sel(selector=f"instruction {s}") for s, title in CHOSEN_BY.items()}
    return {title: _by_regime(values) for title, values in chosen.items()}


def _by_regime(values: xr.DataArray) -> dict[str, Sequence[float]]:
    seeds = {str(r): values.sel(regime=r).dropna("seed").values.tolist() for r in values["regime"].values}
    return {TICKS[r]: numbers for r, numbers in seeds.items() if numbers}


def _students(found: xr.Dataset) -> str:
    return f"{found.sizes['seed']} students of each kind (dots); 95 % intervals, of differences for all kinds together."


def _mean(values: xr.DataArray) -> dict[str, float]:
    means = (values.mean("seed") if "seed" in values.dims else values).dropna("regime")
    return dict(zip(means["regime"].values.astype(str).tolist(), means.values.tolist(), strict=True))


def _per(means: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.2f} ({r})" for r, value in means.items())


def _with_intervals(apart: xr.Dataset, arm: str, found: xr.Dataset) -> str:
    rows = _row(apart, arm, found)
    return "; ".join(f"{mean:+.3f} ({low:+.3f} to {high:+.3f}) in {r}" for r, (mean, low, high) in rows.items())


RECIPES = (
    FigureRecipe("leaf/pruning-gain", pruning_gain),
    FigureRecipe("leaf/masking-strategies", masking_strategies),
    FigureRecipe("leaf/response-level", response_level),
    FigureRecipe("leaf/threshold-sensitivity", threshold_sensitivity),
    FigureRecipe("leaf/case-study", case_study),
    FigureRecipe("leaf/objectives", objectives),
    FigureRecipe("leaf/published", as_published),
)
