"""The causal effect of a score's first choice: remove the top-ranked span of every misled example and ask both models.

The top-ranked span is the run of candidates that holds the most confounding token. Examples were chosen because the
student is wrong on them, so that removing anything at all turns some answers: a score's share means something only
beside that of random spans of the same lengths (`control.py`), and beside that of the score `random`, whose spans have
lengths of their own. The differences are taken example by example.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from workbench.evaluation.local import interval
from workbench.leaf.asking import Match
from workbench.leaf.control import check_draws, random_counterfactuals
from workbench.leaf.examples import Example, check_examples, digest
from workbench.leaf.pruning import Pruned, spans
from workbench.leaf.scores import TokenScore, scores_named
from workbench.leaf.scoring import sensitivity
from workbench.leaf.selection import select_examples
from workbench.leaf.thresholds import candidates, oriented
from workbench.leaf.verification import verify
from workbench.leaf.vocabularies import identities
from workbench.models.state import measures
from workbench.names import Alignment, Reading, TokenScoreName
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.runs.run import Run
from workbench.statistics import matched_interval, mean_interval


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
    stop: Sequence[str] = (),
    align: Alignment = "ids",
    draws: int = 5,
    seed: int = 0,
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
        stop: further strings that end a reply.
        align: "ids", or "characters" for models with different tokenizers.
        draws: random spans per score and example, as the control.
        seed: of the random spans.
        batch_size: prompts at a time.
        resume: a folder in which finished batches are kept.
        progress: show a bar.

    Returns:
        Per score and example: `removed` (position), `turned`, whether the student is right without the span, and
        `accepted`, whether the teacher is so too; false where the span is all that may be pruned or nothing stands out.
        Per score: `turned_share`, `accepted_share` with `_low` and `_high` (Wilson), and, with "random", `turned_gain`,
        `accepted_gain` over it with intervals over resampled examples; `length`, the mean number of tokens removed;
        `chance_share`, accepted among random spans of the same lengths, and `excess` over it with `_low` and `_high`
        (`workbench.statistics.matched_interval`).

    Raises:
        InputError: no draw.
    """
    check_draws(draws)
    names = [str(s) for s in found["score"].values]
    first = {name: _first_spans(found, name, threshold, reading) for name in names}
    chosen = {
        name: [
            Pruned(examples[i].without(span), i, span)
            for i, span in enumerate(rows)
            if span and len(span) < len(examples[i].positions)
        ]
        for name, rows in first.items()
    }
    control = {name: random_counterfactuals(examples, rows, draws, seed) for name, rows in chosen.items()}
    tried = list(dict.fromkeys(chain(*chosen.values(), *chain(*control.values()))))
    asking: dict[str, Any] = dict(match=match, max_new_tokens=max_new_tokens, stop=stop, align=align)
    proved = verify(student, teacher, tried, batch_size=batch_size, resume=resume, progress=progress, **asking)
    right = {"turned": proved["correct_after"].sel(model="student").values == 1, "accepted": proved["accepted"].values}
    removed = np.zeros((len(names), len(examples), found.sizes["position"]), dtype=bool)
    outcome = {name: np.zeros(removed.shape[:2], dtype=bool) for name in right}
    chance = np.zeros(removed.shape[:2])
    row_of = {one: row for row, one in enumerate(tried)}
    for s, name in enumerate(names):
        for i, span in enumerate(first[name]):
            removed[s, i, list(span)] = True
        for one in chosen[name]:
            for what, values in right.items():
                outcome[what][s, one.origin] = values[row_of[one]]
        for one in chain(*control[name]):
            chance[s, one.origin] += right["accepted"][row_of[one]] / draws
    return _summary(names, removed, outcome, chance).assign_attrs(threshold=threshold, reading=reading, draws=draws)


@measures
def check_scores(
    student: HookedModel,
    teacher: HookedModel,
    examples: Sequence[Example],
    *,
    scores: Sequence[TokenScoreName | TokenScore] | Literal["all"] = "all",
    threshold: float = 0.10,
    reading: Reading = "quantile",
    match: Match = "number",
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    align: Alignment = "ids",
    draws: int = 5,
    seed: int = 0,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """`causal_check` of several scores on the examples that mislead the student, which are selected first.

    Args:
        student: a model from `workbench.load`.
        teacher: another.
        examples: all of them, in the student's tokens.
        scores: names or scores.
        threshold: as for `causal_check`, like all that follows.
        reading: of the threshold.
        match: how a reply is judged.
        max_new_tokens: tokens a reply may have.
        stop: further strings that end a reply.
        align: "ids", or "characters" for models with different tokenizers.
        draws: random spans per score and example.
        seed: of the random score and the random spans.
        batch_size: prompts at a time.
        resume: the netCDF file of the result: finished batches are kept beside it, and a stopped run goes on from them.
        progress: show bars.

    Returns:
        What `causal_check` gives; `example` is the index among those given, and the number of examples at every stage
        in the attributes that begin with n_.

    Raises:
        InputError: no misled example (with the counts), or what `sensitivity` and `causal_check` refuse.
    """
    named = scores_named(scores)
    asking: dict[str, Any] = dict(match=match, max_new_tokens=max_new_tokens, stop=stop)
    common: dict[str, Any] = dict(align=align, batch_size=batch_size, progress=progress)
    facts = {
        "method": "leaf check",
        **identities(student, teacher),
        "examples": digest(check_examples(examples)),
        "scores": [one.name for one in named],
        "threshold": threshold,
        "reading": reading,
        **asking,
        "match": match if isinstance(match, str) else getattr(match, "__qualname__", "a function"),
        "max_new_tokens": max_new_tokens or "default",
        "align": align,
        "draws": draws,
        "seed": seed,
    }
    with Run(resume, **facts) as run:
        if run.finished is not None:
            return run.finished
        chosen = select_examples(student, teacher, examples, resume=run.beside("before"), **asking, **common)
        kept = run.beside("sensitivity.nc")
        found = sensitivity(student, teacher, chosen.examples, scores=named, seed=seed, resume=kept, **common)
        trial: dict[str, Any] = dict(threshold=threshold, reading=reading, draws=draws, seed=seed)
        checked = causal_check(
            student, teacher, chosen.examples, found, resume=run.beside("after"), **trial, **asking, **common
        )
        counts = {f"n_{name}": count for name, count in chosen.counts.items()}
        return run.finish(checked.assign_coords(example=chosen.index), **counts)


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


def _summary(names: list[str], removed: np.ndarray, outcome: dict[str, np.ndarray], chance: np.ndarray) -> xr.Dataset:
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
    beyond = outcome["accepted"] - chance
    low, high = matched_interval(beyond)
    made |= {"chance_share": ("score", chance.mean(-1)), "excess": ("score", beyond.mean(-1))}
    made |= {"excess_low": ("score", low), "excess_high": ("score", high)}
    return xr.Dataset(made, coords={"score": names})
