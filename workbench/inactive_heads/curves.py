"""Accuracy against the share of heads zeroed, for every score: which scores find heads that do nothing?

1. The task runs once, unchanged: its answers are the baseline, and the scores of every sequence that it runs are kept.
   Where this baseline is at chance, or one answer dominates, the curve is refused (`baseline`).
2. Thresholds are fitted on these scores (as in the paper), or on other texts or another task (`fit=`).
3. For each score and quantile the task runs again with the heads beyond the threshold zeroed online.
4. Two random controls: the same share everywhere, and with the share of each layer that the best-known score takes;
   each is the mean of `draws` draws.
5. `summary.summarize` adds what the curves say.

Zeroing changes the stream that later heads are judged on, so the realised share differs from the quantile: curves are
drawn and compared over the realised one.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.inactive_heads.baseline import WORTH, baseline_of, unusable, way_out
from workbench.inactive_heads.cutoffs import QUANTILES, inactive_head_thresholds
from workbench.inactive_heads.definitions import HeadScore, scores_named
from workbench.inactive_heads.passes import watching
from workbench.inactive_heads.scores import head_scores, labelled
from workbench.inactive_heads.summary import LOSSES, RANDOM, summarize
from workbench.inactive_heads.tasks import ModelTask, describe, task_of
from workbench.inactive_heads.zeroing import online, zero_heads
from workbench.models.anatomy import anatomy
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.names import HeadScoreName
from workbench.protocol import HookedModel
from workbench.runs.progress import hidden
from workbench.runs.run import Run
from workbench.statistics import mean_interval

RANDOM_BY_LAYER = "Random_by_layer"
MATCHED = "AHON_LN"
"""The score whose share of each layer the second random baseline takes, where it is measured; else the first one."""


class Recorded:
    """Scores of every sequence that the model has run, in the order in which it ran them."""

    def __init__(self, scores: list[HeadScore]):
        self._scores = scores
        self._passes: list[list[Tensor]] = []

    def add(self, layer: int, found: dict[str, Tensor]) -> None:
        """Keep one layer's scores, [score, batch, head]."""
        if layer == 0:
            self._passes.append([])
        self._passes[-1].append(torch.stack([found[s.name] for s in self._scores]).cpu())

    @property
    def scores(self) -> xr.DataArray:
        """All of them (score, sequence, layer, head)."""
        if not self._passes:
            raise InputError("The task never ran the model, so there are no scores to fit thresholds on.")
        values = torch.cat([torch.stack(layers, 2) for layers in self._passes], 1).numpy()
        return labelled(values, self._scores, [0] * values.shape[1], {}).drop_vars("length")


@contextmanager
def recording(
    model: HookedModel,
    scores: Iterable[HeadScoreName | HeadScore] | HeadScoreName | HeadScore | None = None,
    *,
    padding: int | None = None,
) -> Generator[Recorded]:
    """Score the heads on whatever runs the model inside the `with` block, and change nothing.

    Args:
        model: a TransformerLens model.
        scores: as for `head_scores`.
        padding: as for `zero_heads`.
    """
    recorded = Recorded(wanted := scores_named(scores))
    with watching(model, padding) as passes, online(model, wanted, passes, recorded.add):
        yield recorded


@measures
@torch.no_grad()
def ablation_curve(
    model: HookedModel,
    task: Any,
    scores: Iterable[HeadScoreName | HeadScore] | HeadScoreName | HeadScore | None = None,
    quantiles: Sequence[float | int] = QUANTILES,
    *,
    fit: Any = None,
    losses: Sequence[float] = LOSSES,
    draws: int = 1,
    seed: int = 0,
    padding: int | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Measure what a task loses when the heads that each score calls inactive are zeroed.

    Args:
        model: a TransformerLens model.
        task: a function of the model that gives True or False per example, or questions as `choices` takes them.
        scores: as for `head_scores`.
        quantiles: shares of heads to ask for; 0 is the baseline and is always there.
        fit: what thresholds are fitted on: None for the task itself, another task, or texts.
        losses: points of accuracy, as shares, that count as unharmed.
        draws: how often each random control is drawn; its `correct` is the mean over them.
        seed: of the random controls and of the resampling.
        padding: as for `zero_heads`.
        resume: file of the result; finished runs of the task are kept beside it and used again.
        progress: show a bar.

    Returns:
        A Dataset over (score, threshold), the paper's scores and "Random" and "Random_by_layer": `tau`, realised
        `share`, `accuracy` with its interval, `drop` from the baseline with its paired interval, `correct` per
        example, `layer_share` per layer, `baseline_correct`, and what `baseline_of` and `summarize` give.

    Raises:
        InputError: a baseline at chance or with one answer to most questions; a task that is none or gives no answers,
            quantiles outside [0, 1], no draws, unknown scores, or a file that belongs to another run.
    """
    wanted, answer = scores_named(scores), task_of(task)
    asked = sorted({0.0, *(float(q) for q in quantiles)})
    if draws < 1:
        raise InputError(f"draws={draws} must be 1 or more: the random controls are the mean of so many draws.")
    if not all(0 <= q <= 1 for q in asked):
        raise InputError(
            f"quantiles={list(quantiles)} must be shares from 0 to 1, such as 0.1 for a tenth of the heads."
        )
    parts = anatomy(model)
    names = [s.name for s in wanted]
    matched = MATCHED if MATCHED in names else names[0]
    config: dict[str, Any] = {
        "model": parts.name,
        "weights": fingerprint(model),
        "task": describe(task),
        "fit": describe(fit),
        "scores": names,
        "quantiles": asked,
        "draws": draws,
        "seed": seed,
    }
    with Run(resume, **config) as run:
        if run.finished is not None:
            return run.finished
        bar = tqdm(
            total=(len(wanted) + 2 * draws) * (len(asked) - 1) + 1, desc="Ablation curve", disable=hidden(progress)
        )

        def answered(key: str, work: Callable[..., xr.Dataset], *given: Any, **options: Any) -> xr.Dataset:
            found = run.piece(key, lambda: work(model, answer, *given, **options))
            bar.update(1)
            return found

        start = answered("baseline", _baseline, wanted, asked, fit, padding)
        problem = unusable(start)
        if problem is not None:
            raise InputError(f"No curve from here: {problem}. {way_out(start.attrs.get('score_answers', ''))}")
        for q in asked[1:]:
            for s in wanted:
                tau = float(start["tau"].sel(score=s.name, threshold=q))
                answered(f"{s.name} {q}", _run, score=s, tau=tau, padding=padding)
            shares = run.pieces[f"{matched} {q}"]["layer_share"].values
            for k in range(draws):
                answered(f"{RANDOM} {q}{_nth(k)}", _run, random=q, seed=seed + 2 * k)
                answered(f"{RANDOM_BY_LAYER} {q}{_nth(k)}", _run, random=shares, seed=seed + 2 * k + 1)
        bar.close()
        out = _with_intervals(_assembled(run.pieces, start, [*names, RANDOM, RANDOM_BY_LAYER], asked, draws), seed)
        summary = summarize(out, losses=losses, seed=seed)
        facts = {"scores": ", ".join(names), "matched": matched, **start.attrs, **parts.facts}
        return run.finish(out.merge(summary), **facts, **summary.attrs)


def _nth(draw: int) -> str:
    """What tells the later draws of a control from the first."""
    return f" draw {draw + 1}" if draw else ""


def _baseline(
    model: HookedModel, run: ModelTask, scores: list[HeadScore], quantiles: list[float], fit: Any, padding: int | None
) -> xr.Dataset:
    """The task unchanged, and the thresholds."""
    if fit is None:
        with recording(model, scores, padding=padding) as recorded:
            answers = _answers(run, model)
        found = recorded.scores
    else:
        answers, found = _answers(run, model), _scores_of(model, fit, scores, padding)
    fitted = inactive_head_thresholds(found, quantiles).drop_vars("inactive")
    worth = baseline_of(answers)
    return fitted.assign(correct=("example", answers.values)).merge(worth).drop_attrs().assign_attrs(worth.attrs)


def _scores_of(model: HookedModel, fit: Any, scores: list[HeadScore], padding: int | None) -> xr.DataArray:
    """Scores on texts, or on the questions of another task."""
    try:
        other = task_of(fit)
    except InputError:
        return head_scores(model, fit, scores, progress=False)
    with recording(model, scores, padding=padding) as recorded:
        other(model)
    return recorded.scores


def _run(model: HookedModel, run: ModelTask, **options: Any) -> xr.Dataset:
    """The task with heads zeroed."""
    with zero_heads(model, **options) as zeroed:
        answers = _answers(run, model)
    shares = zeroed.frequency.mean(1).numpy()
    return xr.Dataset({"correct": ("example", answers.values), "layer_share": ("layer", shares)})


def _answers(run: ModelTask, model: HookedModel) -> xr.DataArray:
    given = run(model)
    answers = given.cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if answers.ndim != 1 or not len(answers) or not np.isin(answers, (0, 1)).all():
        raise InputError(
            f"A task gives one True or False per example; this one gave {type(given).__name__} of shape "
            f"{list(answers.shape)}."
        )
    found = given if isinstance(given, xr.DataArray) else xr.DataArray(answers, dims="example")
    return found.astype(bool, keep_attrs=True)


def _assembled(
    done: dict[str, xr.Dataset], start: xr.Dataset, names: list[str], quantiles: list[float], draws: int
) -> xr.Dataset:
    """All runs in one Dataset, draws averaged; at quantile 0 stands the baseline, with nothing zeroed."""

    def at(name: str, quantile: float) -> xr.Dataset:
        keys = [f"{name} {quantile}{_nth(k)}" for k in range(draws if name.startswith(RANDOM) else 1)]
        return xr.concat([done[key].astype(float) for key in keys], dim="draw", join="exact").mean("draw")

    n_layers = next((len(piece["layer"]) for key, piece in done.items() if key != "baseline"), 0)
    first = xr.Dataset({"correct": start["correct"], "layer_share": ("layer", np.zeros(n_layers))})
    rows = [xr.concat([first, *(at(name, q) for q in quantiles[1:])], dim="threshold", join="exact") for name in names]
    out = xr.concat(rows, dim="score", join="exact").assign_coords(score=names, threshold=quantiles)
    out = out.assign_coords(layer=np.arange(n_layers))
    correct = out["correct"].astype(bool if draws == 1 else float)
    return out.assign(
        correct=correct,
        tau=start["tau"].reindex(score=names),
        share=out["layer_share"].mean("layer"),
        accuracy=correct.mean("example"),
        baseline_correct=start["correct"].astype(bool),
    ).merge(start[list(WORTH)])


def _with_intervals(out: xr.Dataset, seed: int) -> xr.Dataset:
    """Intervals of accuracy, and of its drop, from the same resampled examples with and without zeroing."""
    correct = out["correct"].transpose("score", "threshold", "example").values.astype(float)
    drop = out["baseline_correct"].values.astype(float) - correct
    dims = ("score", "threshold")
    found = {"drop": (dims, drop.mean(-1))}
    for name, values in (("accuracy", correct), ("drop", drop)):
        interval = mean_interval(values, seed=seed)
        found |= {f"{name}_low": (dims, interval.low), f"{name}_high": (dims, interval.high)}
    return out.assign(found)
