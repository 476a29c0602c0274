"""Verification: a span is confounding only if both models answer correctly without it.

The student answers first, the teacher only what the student gets right: the criterion wants both, in any order.
Counterfactuals that occur more than once are answered once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.leaf.asking import Match
from workbench.leaf.examples import Example
from workbench.leaf.pruning import Pruned
from workbench.leaf.selection import in_turn
from workbench.leaf.vocabularies import MODELS
from workbench.models.state import measures
from workbench.names import Alignment
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.runs.results import text_array


@measures
def verify(
    student: HookedModel,
    teacher: HookedModel,
    pruned: Sequence[Pruned],
    *,
    match: Match = "number",
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    align: Alignment = "ids",
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Let both models answer counterfactuals.

    Args:
        student: a model from `workbench.load`.
        teacher: another.
        pruned: from `workbench.leaf.prune`.
        match: how a reply is judged, see `workbench.leaf.ask`.
        max_new_tokens: tokens a reply may have.
        stop: further strings that end a reply.
        align: "ids", or "characters" for models with different tokenizers.
        batch_size: prompts at a time.
        resume: a folder in which finished batches are kept.
        progress: show a bar.

    Returns:
        Per span: `origin`, the index of its example; `start` and `stop`, its first and one after its last position;
        `removed` (span, position); `text_after`, the shorter instruction; `reply_after`, `answer_after`, `ending_after`
        and `correct_after` (model, span; NaN where a reply was cut or the teacher not asked); `accepted`, whether both
        are right; `round_trip`, whether the shorter text has the same tokens (NaN where ids were deleted).
    """
    distinct: dict[Example, int] = {}
    which = [distinct.setdefault(p.example, len(distinct)) for p in pruned]
    asking: dict[str, Any] = dict(match=match, max_new_tokens=max_new_tokens, stop=stop, batch_size=batch_size)
    said = in_turn(student, teacher, list(distinct), True, align=align, resume=resume, progress=progress, **asking)
    return _records(pruned, said.isel(example=which))


def _records(pruned: Sequence[Pruned], said: xr.Dataset) -> xr.Dataset:
    width = 1 + max((p.removed[-1] for p in pruned), default=0)
    removed = np.zeros((len(pruned), width), dtype=bool)
    for row, one in enumerate(pruned):
        removed[row, list(one.removed)] = True
    trip = [np.nan if p.round_trip is None else float(p.round_trip) for p in pruned]
    return xr.Dataset(
        {
            "origin": ("span", np.array([p.origin for p in pruned], dtype=int)),
            "start": ("span", np.array([p.removed[0] for p in pruned], dtype=int)),
            "stop": ("span", np.array([p.removed[-1] + 1 for p in pruned], dtype=int)),
            "removed": (("span", "position"), removed),
            "text_after": ("span", text_array([p.example.text or "" for p in pruned])),
            **{f"{name}_after": (("model", "span"), said[name].values) for name in said.data_vars},
            "accepted": ("span", (said["correct"].values == 1).all(0)),
            "round_trip": ("span", np.array(trip, dtype=float)),
        },
        coords={"model": list(MODELS)},
    )
