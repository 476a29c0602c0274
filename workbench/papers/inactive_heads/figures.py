"""Inactive heads: the paper's figures, drawn for any model, as named recipes.

1. `accuracy-curves` (figure 4 and appendix): accuracy against the share of zeroed heads, by score.
2. `auc-ranks` (figure 3): ranks of the scores by area, one's own models below the paper's fourteen.
3. `a-tenth-zeroed`: what the paper's models and one's own lose with a tenth of the heads zeroed.
4. `frequency`: how often each head is inactive, layer by head.
5. `domains`: the same on each kind of text, with the heads that differ.
6. `training`: dormant heads over training, of the embedded models, a folder of checkpoints or a model on the Hub.
7. `score-overlap`: do two scores select the same heads?
8. `threshold-transfer`: what a threshold selects on another kind of text or another task than it was fitted on, and
   what accuracy is left under thresholds that were fitted on other questions.
9. `distances`: how far one model's scores are from those of others: base and tuned, small and large, early and late.

The paper is "Identifying and Evaluating Inactive Heads in Pretrained LLMs" (arXiv 2504.03889).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.inactive_heads import (
    compare_curves,
    distances,
    frequency,
    inactive_head_thresholds,
    loss_at,
    overlap,
    summarize,
    transfer,
)
from workbench.inactive_heads.summary import RANDOM
from workbench.models.checkpoints import local_checkpoints
from workbench.papers.cache import Source
from workbench.papers.inactive_heads.measures import (
    HELD_OUT_SCORES,
    SHARE,
    curves_of,
    domain_frequencies,
    held_out_curves,
    lives_of,
    question_scores,
    scores_of,
)
from workbench.papers.inactive_heads.published import published
from workbench.papers.inactive_heads.sentences import (
    SCORE,
    asked_line,
    claim_line,
    curve_line,
    key_line,
    labels,
    left_out_lines,
    paper_line,
    quoted,
    ranks_line,
)
from workbench.papers.recipes import PAIR, TRIO, Drawn, FigureRecipe, FigureRequest, Panel, each, side_by_side, told
from workbench.plot import compose, inactive
from workbench.plot import inactive_scores as dormancy
from workbench.plot.theme import OTHERS


def curve_panel(curves: xr.Dataset, scores: Sequence[str] | None = None, *, alone: bool = False) -> Panel:
    """Accuracy against the share of zeroed heads.

    Args:
        curves: from `ablation_curve`.
        scores: which are drawn; None draws those that the sentence quotes, and the random controls.
        alone: no other panel stands beside it: the sentence begins with a capital and says what the lines are.
    """
    figure = inactive.accuracy_curves(curves, scores=curves_drawn([curves]) if scores is None else scores)
    line = curve_line(curves)
    told = f"{line[0].upper()}{line[1:]} {key_line(curves)}" if alone else line
    return Panel(figure, told, "Accuracy against the share of zeroed heads")


def curves_drawn(found: Sequence[xr.Dataset]) -> list[str]:
    """The scores that the sentences on any of the curves quote, and the random controls last."""
    quotes = dict.fromkeys(name for one in found for name in quoted(one) if name != RANDOM)
    return [*quotes, *dict.fromkeys(s for one in found for s in one["score"].values.tolist() if s.startswith(RANDOM))]


def accuracy_curves(found: Mapping[str, xr.Dataset]) -> Drawn:
    """The scores that the sentences quote and the random controls, a column per model."""
    scores = curves_drawn([*found.values()])
    empty = {
        name: [s for s in scores if not bool((one["share"].sel(score=s) > 0).any())] for name, one in found.items()
    }
    panels = [curve_panel(one, [s for s in scores if s not in empty[name]]) for name, one in found.items()]
    title = "Accuracy without the heads that a score calls inactive"
    drawn = side_by_side([*found], panels, title=title, same_y=True)
    lines = [drawn.sentence, key_line(next(iter(found.values())))]
    lines += [
        f"Not drawn in {name}, since no head is selected: {labels(some)}." for name, some in empty.items() if some
    ]
    return Drawn(drawn.figure, " ".join(lines))


def auc_ranks(found: Mapping[str, xr.Dataset]) -> Drawn:
    """Ranks of the fourteen curves in the paper's models and one's own."""
    paper = published()
    theirs = {str(m): _ranks(paper.sel(model=m), paper) for m in paper["model"].values}
    own = {name: _ranks(curves, paper) for name, curves in found.items()}
    table = xr.concat([one["rank"].drop_vars("model", errors="ignore") for one in (theirs | own).values()], dim="model")
    table = table.assign_coords(model=[*theirs, *own])
    figure = inactive.auc_ranks(table, own=list(own), title="Rank of the scores by area under the accuracy curve")
    mean = table.sel(model=list(theirs)).mean("model")
    lines = [
        f"Ranks among {paper.sizes['score']} scores, 1 the best (the largest area). Of the paper's models AHON (LN) "
        f"has the mean rank {float(mean.sel(score=SCORE)):.2f}."
    ]
    lines += [ranks_line(name, one, mean) for name, one in own.items()]
    if bool(table.isnull().any()):
        lines.append("A dash on grey: the score selects no head, so it has no rank.")
    return Drawn(figure, " ".join([*lines, *left_out_lines(found, paper), asked_line(found)]))


def tenth_zeroed(found: Mapping[str, xr.Dataset]) -> Drawn:
    """What a tenth of the heads costs, chosen by the paper's leading score and at random."""
    paper, scores = published(), [SCORE, RANDOM]
    theirs = {str(m): paper.sel(model=m, drop=True) for m in paper["model"].values}
    losses = [loss_at(one).sel(score=scores) for one in (theirs | dict(found)).values()]
    table = xr.concat(losses, dim="model", combine_attrs="override").assign_coords(model=[*theirs, *found])
    title = "Accuracy lost with a tenth of the heads zeroed"
    line = f"{told([*found], [claim_line(one) for one in found.values()])} {paper_line()} {asked_line(found)}"
    return Drawn(inactive.losses_at(table, own=list(found), title=title), line)


def _ranks(curves: xr.Dataset, paper: xr.Dataset) -> xr.Dataset:
    """Ranks among the fourteen curves that the paper has, with intervals where there are examples."""
    kept = [name for name in ("share", "accuracy", "baseline", "correct", "baseline_correct") if name in curves]
    return summarize(curves[kept].sel(score=paper["score"].values))


def frequency_maps(found: Mapping[str, xr.DataArray]) -> Drawn:
    """How often each head is inactive, a column per model."""
    title = f"Share of texts on which a head is inactive ({inactive.label(SCORE)})"
    return side_by_side([*found], [_frequency_panel(scores) for scores in found.values()], title=title)


def _frequency_panel(scores: xr.DataArray) -> Panel:
    scores = scores.sel(score=[SCORE])
    often = frequency(scores, inactive_head_thresholds(scores, [SHARE])["tau"].isel(threshold=0)).isel(score=0)
    always, ever = float((often > 0.95).mean()), float((often > 0).mean())
    return Panel(
        inactive.frequency_map(often, int(scores.attrs["group_size"])),
        f"of its heads {always:.1%} are inactive on nearly every one of {scores.sizes['sequence']} texts and "
        f"{ever:.1%} on some, under a threshold that selects {SHARE:.0%} of all.",
    )


def domain_maps(found: Mapping[str, xr.Dataset]) -> Drawn:
    """Frequencies by kind of text, a row per model."""
    rows = list(found.values())
    first = str(rows[0]["domain"].values[0])
    title = f"Share of texts on which a head is inactive ({inactive.label(SCORE)}); crosses differ from {first}"
    line = told([*found], [domain_line(one) for one in rows])
    if len(rows) == 1:
        return Drawn(inactive.domain_maps(rows[0], title=title), line)
    titles = [[f"{name}: {kind}" for kind in one["domain"].values] for name, one in found.items()]
    return Drawn(compose.grid([inactive.domain_cells(one) for one in rows], titles, title=title, gap=0.06), line)


def domain_line(found: xr.Dataset) -> str:
    """How many heads differ between kinds of text, in one sentence."""
    parts = [
        f"{int((found['p_corrected'].sel(pair=pair) < 0.05).sum())} between {pair.replace(' − ', ' and ')}"
        for pair in found["pair"].values.tolist()
    ]
    return (
        f"of {found.sizes['layer'] * found.sizes['head']} heads these many are inactive on another share of the texts: "
        f"{', '.join(parts)} (permutation tests, corrected for the number of heads)."
    )


def training(found: Mapping[str, xr.Dataset]) -> Drawn:
    """Dormant heads over training, a row per run."""
    titles = [dormancy.training_titles(one) for one in found.values()]
    if len(found) > 1:
        titles = [[f"{name}, {text}" for text in row] for name, row in zip(found, titles, strict=True)]
    panels = [dormancy.training_panels(one) for one in found.values()]
    title = f"Dormant heads over training: {', '.join(found)}"
    figure = compose.grid(panels, titles, title=title).update_layout(barmode="relative")
    return Drawn(figure, told([*found], [lives_line(one) for one in found.values()]))


def lives_line(found: xr.Dataset) -> str:
    """When heads became dormant, and whether they stayed so, in one sentence."""
    share, inactive_share, steps = found["share_dormant"], found["share_inactive"].values, found["step"].values
    i = int((inactive_share >= inactive_share[-1] / 2).argmax())
    half = f"between steps {int(steps[i - 1]):,} and {int(steps[i]):,}" if i else f"by step {int(steps[0]):,}"
    n = found.sizes["layer"] * found.sizes["head"]
    ever = int(found["dormant"].any("step").sum())
    near = found["distance"].values[:-1] <= 2 * float(found["floor"])
    close = int(near[::-1].cumprod().sum())
    like = (
        f"the scores are within twice the noise of their last distribution from step {int(steps[-1 - close]):,} on"
        if close
        else "the scores move until the end"
    )
    often = float(found.attrs["usually"])
    return (
        f"of all heads and texts {inactive_share[0]:.1%} are below the threshold at step {int(steps[0])} and "
        f"{inactive_share[-1]:.1%} at step {int(steps[-1]):,}, half of it reached {half}; "
        f"{round(float(share[-1]) * n)} of {n} heads end up dormant (inactive on more than {often:.0%} of the texts), "
        f"{ever} ever were, and {int((found['switches'] > 1).sum())} switched more than once; {like}."
    )


def score_overlap(found: Mapping[str, xr.DataArray]) -> Drawn:
    """IoU between the heads that two scores select, a column per model; names and colour bar stand there once."""
    panels = [_overlap_panel(scores, numbers=len(found) == 1) for scores in found.values()]
    for panel in panels[1:]:
        panel.figure.update_yaxes(showticklabels=False)
    for panel in panels[:-1]:
        panel.figure.update_traces(showscale=False)
    title = f"Overlap of the heads that two scores select ({SHARE:.0%} each; intersection over union)"
    return side_by_side([*found], panels, title=title, gap=0.04)


def _overlap_panel(scores: xr.DataArray, *, numbers: bool) -> Panel:
    one = overlap(scores, SHARE)
    iou = one["iou"].sel(score=SCORE)
    return Panel(
        inactive.score_overlap(one, numbers=numbers),
        f"AHON (LN) shares {float(iou.sel(other='AWFT')):.2f} of its union with AWFT and "
        f"{float(iou.sel(other='LTHON_LN')):.2f} with LTHON (LN); chance is {float(one['chance'][0, 1]):.2f} "
        f"({scores.sizes['sequence']} texts).",
    )


def measure_transfer(source: Source, request: FigureRequest) -> tuple[xr.Dataset, ...]:
    """Thresholds carried between kinds of text and between tasks, and accuracy under own and others' thresholds."""
    texts = moved(scores_of(source, request), "domain")
    tasks = moved(question_scores(source, request), "task")
    return texts, tasks, *held_out_curves(source, request)


def threshold_transfer(found: Mapping[str, tuple[xr.Dataset, ...]]) -> Drawn:
    """Shares that thresholds select elsewhere, and accuracy under thresholds of other questions; a row per model."""
    rows, titles, lines = [], [], []
    for name, (texts, tasks, own, held_out) in found.items():
        rows.append(
            [
                dormancy.threshold_transfer(texts),
                dormancy.threshold_transfer(tasks, palette=OTHERS),
                dormancy.accuracy_changes(carried(own, held_out)),
            ]
        )
        titles.append([f"{name}: between kinds of text", "between tasks", "between questions"])
        lines.append(
            f"between kinds of text {transfer_line(texts)} between tasks {transfer_line(tasks)} "
            f"{held_out_line(own, held_out)}"
        )
    title = f"Thresholds that select {SHARE:.0%} of the heads where they were fitted, applied elsewhere"
    figure = compose.grid(rows, titles, title=title, gap=0.12, legends="columns")
    return Drawn(figure, told([*found], lines))


def moved(scores: xr.DataArray, kind: str) -> xr.Dataset:
    """`transfer` between all kinds of sequences, with what half of each kind selects on its other half (`held_out`)."""
    groups = {
        str(name): scores.isel(sequence=np.flatnonzero(scores[kind] == name))
        for name in dict.fromkeys(scores[kind].values.tolist())
    }
    halves = [inactive_head_thresholds(one, [SHARE], held_out=True)["selected"] for one in groups.values()]
    return transfer(groups, [SHARE]).assign(held_out=xr.concat(halves, "fit").assign_coords(fit=list(groups)))


def transfer_line(found: xr.Dataset) -> str:
    """Which score's thresholds move least and most, in one sentence."""
    off = 100 * abs(found["selected"].isel(threshold=0) - SHARE).max(["fit", "applied"])
    half = 100 * float(abs(found["held_out"] - SHARE).max())
    least, most = (str(off["score"].values[i]) for i in (off.values.argmin(), off.values.argmax()))
    return (
        f"{inactive.label(least)} moves least (at most {float(off.min()):.1f} points from {SHARE:.0%}) and "
        f"{inactive.label(most)} most ({float(off.max()):.1f} points), where two halves of one kind differ by at most "
        f"{half:.1f} points;"
    )


def carried(own: xr.Dataset, held_out: xr.Dataset) -> xr.Dataset:
    """The change of accuracy under thresholds of other questions, without quantile 0, where nothing is zeroed."""
    return compare_curves(own, held_out).sel(score=list(HELD_OUT_SCORES)).isel(threshold=slice(1, None))


def held_out_line(own: xr.Dataset, held_out: xr.Dataset) -> str:
    """How much accuracy changes under thresholds of other questions, in one sentence."""
    change = carried(own, held_out)
    parts = []
    for name in HELD_OUT_SCORES:
        one = change.sel(score=name)
        worst = one.isel(threshold=int(abs(one["change"].values).argmax()))
        low, high = (100 * float(worst[end]) for end in ("change_low", "change_high"))
        parts.append(f"{inactive.label(name)} {100 * float(worst['change']):+.1f} ({low:+.1f} to {high:+.1f})")
    return (
        f"thresholds of the other half of the questions change accuracy by at most, in points with a 95% interval "
        f"(plus: more are correct than under own thresholds): {', '.join(parts)}, on {own.sizes['example']} questions."
    )


def measure_distances(sources: Sequence[Source], request: FigureRequest) -> tuple[dict[str, xr.DataArray], xr.Dataset]:
    """The scores of every model, a folder of checkpoints unfolded, and the distances between them."""
    groups = each(lambda source, request: comparable(scores_of(source, request)))(unfolded(sources), request)
    return groups, distances(groups, seed=request.seed)


def score_distances(measured: tuple[dict[str, xr.DataArray], xr.Dataset]) -> Drawn:
    """Distributions of one score in every model, and distances from the first model for all that compare."""
    groups, found = measured
    figure = compose.beside(
        [
            dormancy.score_distributions({name: one.sel(score=SCORE) for name, one in groups.items()}, share=SHARE),
            dormancy.score_distances(found),
        ],
        [f"how {inactive.label(SCORE)} is distributed", f"distance from {next(iter(groups))}"],
        title="Are the heads' scores distributed alike?",
        gap=0.16,
    )
    texts = " and ".join(dict.fromkeys(f"{one.sizes['sequence']}" for one in groups.values()))
    return Drawn(figure, f"{distances_line(found)} Measured on {texts} texts per model.")


def unfolded(sources: Sequence[Source]) -> list[Source]:
    """Two models or more, and in place of a folder of checkpoints its last, first and middle one."""
    found = []
    for source in sources:
        folder = Path(str(source.source)) if source.named else None
        if folder is None or not folder.is_dir() or (folder / "config.json").is_file():
            found.append(source)
            continue
        checkpoints = local_checkpoints(folder)
        steps = list(checkpoints)
        found += [Source(checkpoints[step]) for step in dict.fromkeys((steps[-1], steps[0], steps[len(steps) // 2]))]
    if len(found) < 2:
        raise InputError("inactive-heads/distances compares models: name two or more, or a folder of checkpoints.")
    return found


def comparable(scores: xr.DataArray) -> xr.DataArray:
    """The normalised scores, which do not depend on a model's width."""
    return scores.sel(score=[name for name in scores["score"].values.tolist() if "_" in name])


def distances_line(found: xr.Dataset) -> str:
    """How far the other models are from the first, in one sentence."""
    first, *others = found["first"].values.tolist()
    parts = []
    for name in others:
        distance = found["distance"].sel(first=first, second=name)
        noise = found["floor"].sel(first=[first, name]).max("first")
        times = float((distance / noise).sel(score=SCORE))
        parts.append(
            f"{name} is {float(distance.sel(score=SCORE)):.3f} from {first} in {inactive.label(SCORE)}, {times:.1f} "
            f"times what two halves of one's texts differ by; beyond that noise lie {int((distance > noise).sum())} of "
            f"{distance.size} scores"
        )
    return f"{'; '.join(parts)}."


RECIPES = (
    FigureRecipe("inactive-heads/accuracy-curves", accuracy_curves, each(curves_of), TRIO),
    FigureRecipe("inactive-heads/auc-ranks", auc_ranks, each(curves_of), TRIO),
    FigureRecipe("inactive-heads/a-tenth-zeroed", tenth_zeroed, each(curves_of), TRIO),
    FigureRecipe("inactive-heads/frequency", frequency_maps, each(scores_of), TRIO),
    FigureRecipe("inactive-heads/domains", domain_maps, each(domain_frequencies), TRIO),
    FigureRecipe("inactive-heads/training", training, each(lives_of), PAIR[:1]),
    FigureRecipe("inactive-heads/score-overlap", score_overlap, each(scores_of), TRIO),
    FigureRecipe("inactive-heads/threshold-transfer", threshold_transfer, each(measure_transfer), PAIR, 3),
    FigureRecipe("inactive-heads/distances", score_distances, measure_distances, TRIO),
)
