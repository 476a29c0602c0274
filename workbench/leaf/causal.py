"""The causal effect of a score's first choice: remove the top-ranked span of every misled example and ask both models.

The top-ranked span is the run of candidates that holds the most confounding token. Examples were chosen because the
student is wrong on them, so that removing anything at all turns some answers: a score's share means something only
beside that of `random`, and the difference is taken example by example.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.evaluation.local import interval
from workbench.leaf.asking import Match
from workbench.leaf.examples import Example
from workbench.leaf.pruning import Pruned, spans
from workbench.leaf.thresholds import candidates, oriented
from workbench.leaf.verification import verify
from workbench.models.state import measures
from workbench.names import Alignment, Reading
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.statistics import mean_interval


@measures
def causal_check(
    student: HookedModel,
    teacher: HookedModel,
    examples: Sequence[Example],
    found: xr.Dataset,
    *,
    threshold: float = 0.10,
    reading: Reading = "quantile",
    match: Match = "number",
    max_new_tokens: int | None = None,
    align: Alignment = "ids",
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Whether an answer turns right when the span that each score ranks first is removed.

    Args:
        student: a model from `workbench.load`.
        teacher: another.
        examples: misled examples, from `select_examples`.
        found: `sensitivity` of these examples, with the scores to compare; with "random" among them the others are
            compared with it.
        threshold: a fraction: how far the span around the first token reaches.
        reading: of the threshold.
        match: how a reply is judged, see `workbench.leaf.ask`.
        max_new_tokens: tokens a reply may have.
        align: "ids", or "characters" for models with different tokenizers.
        batch_size: prompts at a time.
        resume: a folder in which finished batches are kept.
        progress: show a bar.

    Returns:
        Per score and example: `removed` (position), `turned`, whether the student is right without the span, and
        `accepted`, whether the teacher is so too; false where the span is all that may be pruned or nothing stands out.
        Per score: `turned_share`, `accepted_share` with `_low` and `_high` (Wilson), and, with "random", `turned_gain`,
        `accepted_gain` over it with intervals over resampled examples; `length`, the mean number of tokens removed.
    """
    names = [str(s) for s in found["score"].values]
    first = {name: _first_spans(found, name, threshold, reading) for name in names}
    pruned: dict[tuple[int, tuple[int, ...]], Pruned] = {}
    for rows in first.values():
        for i, span in enumerate(rows):
            if span and len(span) < len(examples[i].positions) and (i, span) not in pruned:
                pruned[i, span] = Pruned(examples[i].without(span), i, span)
    asking: dict[str, Any] = dict(match=match, max_new_tokens=max_new_tokens, align=align, batch_size=batch_size)
    proved = verify(student, teacher, list(pruned.values()), resume=resume, progress=progress, **asking)
    right = {"turned": proved["correct_after"].sel(model="student").values == 1, "accepted": proved["accepted"].values}
    removed = np.zeros((len(names), len(examples), found.sizes["position"]), dtype=bool)
    outcome = {name: np.zeros(removed.shape[:2], dtype=bool) for name in right}
    row_of = {key: row for row, key in enumerate(pruned)}
    for s, name in enumerate(names):
        for i, span in enumerate(first[name]):
            removed[s, i, list(span)] = True
            if (i, span) in row_of:
                for what, values in right.items():
                    outcome[what][s, i] = values[row_of[i, span]]
    return _summary(names, removed, outcome).assign_attrs(threshold=threshold, reading=reading)


def _first_spans(found: xr.Dataset, name: str, threshold: float, reading: Reading) -> list[tuple[int, ...]]:
    """For each example the run of candidates around the most confounding token; empty where there is no candidate."""
    values = oriented(found, name).values
    chosen = candidates(found, name, threshold=threshold, reading=reading).values
    firsts = []
    for row, mask in zip(values, chosen, strict=True):
        runs = spans(np.flatnonzero(mask).tolist())
        top = int(np.nanargmin(row))
        firsts.append(next((run for run in runs if top in run), ()))
    return firsts


def _summary(names: list[str], removed: np.ndarray, outcome: dict[str, np.ndarray]) -> xr.Dataset:
    made: dict[str, Any] = {"removed": (("score", "example", "position"), removed)}
    made["length"] = ("score", removed.sum(-1).mean(-1))
    for name, values in outcome.items():
        made[name] = (("score", "example"), values)
        share, low, high = np.array([interval(row) for row in values]).T
        made |= {f"{name}_share": ("score", share), f"{name}_low": ("score", low), f"{name}_high": ("score", high)}
        if "random" in names:
            gain = values.astype(float) - values[names.index("random")]
            ends = mean_interval(gain)
            made[f"{name}_gain"] = ("score", gain.mean(-1))
            made[f"{name}_gain_low"], made[f"{name}_gain_high"] = ("score", ends.low), ("score", ends.high)
    return xr.Dataset(made, coords={"score": names})
