"""Stage 1 of LeaF as a whole: the spans that mislead a student, each verified by removing it.

1. Keep the examples that the student gets wrong and the teacher right (`selection.py`).
2. Score every prunable token on the gold response (`scoring.py`).
3. Read the threshold: the candidates (`thresholds.py`).
4. Prune, span by span or collectively (`pruning.py`).
5. Let both models answer without the span; it is confounding where both are right (`verification.py`).
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.leaf.asking import Match
from workbench.leaf.examples import Example, check_examples, digest
from workbench.leaf.pruning import Pruned, prune, pruned
from workbench.leaf.scores import TokenScore, scores_named
from workbench.leaf.scoring import sensitivity
from workbench.leaf.selection import ExampleSelection, select_examples
from workbench.leaf.thresholds import candidates
from workbench.leaf.verification import verify
from workbench.leaf.vocabularies import identities
from workbench.models.state import measures
from workbench.names import Alignment, PruneBy, Reading, TokenScoreName
from workbench.protocol import HookedModel, TextTokenizer
from workbench.runs.batching import BatchSize
from workbench.runs.run import Run


@measures
def confounders(
    student: HookedModel,
    teacher: HookedModel,
    examples: Sequence[Example],
    *,
    score: TokenScoreName | TokenScore = "gradient_difference",
    threshold: float | Sequence[float] = 0.10,
    reading: Reading = "quantile",
    how: PruneBy = "span",
    match: Match = "number",
    max_new_tokens: int | None = None,
    selection: ExampleSelection | None = None,
    align: Alignment = "ids",
    retokenize: bool = False,
    steps: int = 16,
    seed: int = 0,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """The confounding spans of the examples that mislead the student.

    Args:
        student: a model from `workbench.load`; hooks on it are active, also for `teacher`.
        teacher: another, which reads the same token ids.
        examples: in the student's tokens, from `workbench.leaf.read_examples`, `workbench.leaf.example` or your own.
        score: the name of a score, or a `Score`.
        threshold: a fraction, or several, such as (0.05, 0.10, 0.15).
        reading: "quantile" (the released code) or "absolute" (the paper's text).
        how: "span" or "collective".
        match: how a reply is judged, see `workbench.leaf.ask`.
        max_new_tokens: tokens a reply may have.
        selection: the misled examples, where they are known from `select_examples`; `examples` are then not asked.
        align: "ids", or "characters" for models with different tokenizers.
        retokenize: tokenize the shorter text anew instead of deleting ids.
        steps: points of the integrated gradients.
        seed: of the random score.
        batch_size: examples or prompts at a time.
        resume: the netCDF file of the result: finished batches are kept beside it, and a stopped run goes on from them.
        progress: show bars.

    Returns:
        What `sensitivity` gives for the misled examples (`example` is the index among those given), with `candidate`
        (threshold, example, position) and `reply_before` and `correct_before` (model, example); what `verify` gives per
        span, with its `span_threshold`; the number of examples at every stage in the attributes that begin with n_.

    Raises:
        InputError: what the five steps refuse: no misled example (with the counts), vocabularies that differ, an answer
            that no matcher reads, a prompt that fills the context, a gradient that is NaN, everything pruned.
    """
    examples = check_examples(examples)
    wanted = scores_named(score)[0]
    thresholds = [float(t) for t in np.atleast_1d(threshold)]
    facts = {
        "method": "leaf confounders",
        **identities(student, teacher),
        "examples": digest(examples),
        **({} if selection is None else {"selected": digest(selection.examples)}),
        "score": wanted.name,
        "threshold": thresholds,
        "reading": reading,
        "how": how,
        "retokenize": retokenize,
        "match": match if isinstance(match, str) else getattr(match, "__qualname__", "a function"),
        "max_new_tokens": max_new_tokens or "default",
        "align": align,
        "steps": steps,
        "seed": seed,
    }
    common: dict[str, Any] = dict(align=align, batch_size=batch_size, progress=progress)
    asking: dict[str, Any] = dict(match=match, max_new_tokens=max_new_tokens, **common)
    with Run(resume, **facts) as run:
        if run.finished is not None:
            return run.finished
        if selection is None:
            selection = select_examples(student, teacher, examples, resume=run.beside("before"), **asking)
        kept = run.beside("sensitivity.nc")
        found = sensitivity(
            student, teacher, selection.examples, scores=[wanted], steps=steps, seed=seed, resume=kept, **common
        )
        chosen = candidates(found, threshold=thresholds, reading=reading)
        anew = student if retokenize else None
        shorter = [prune(selection.examples, one, how=how, retokenize=anew) for one in chosen]
        proved = verify(student, teacher, list(chain.from_iterable(shorter)), resume=run.beside("after"), **asking)
        result = _assembled(found, chosen, selection, shorter, proved)
        return run.finish(result, **_counts(result, selection))


def counterfactuals(
    examples: Sequence[Example],
    found: xr.Dataset,
    *,
    accepted: bool = True,
    threshold: float | None = None,
    retokenize: HookedModel | TextTokenizer | None = None,
) -> list[Pruned]:
    """The counterfactual examples of a result, once each.

    Args:
        examples: those that `confounders` was given.
        found: its result.
        accepted: only spans without which both models are right.
        threshold: only those of one threshold.
        retokenize: the model or tokenizer, where `confounders` tokenized the shorter texts anew.

    Raises:
        InputError: examples that the result does not belong to, or a tokenizer missing.
    """
    if found.attrs.get("retokenize") and retokenize is None:
        raise InputError("The shorter texts of this result were tokenized again; pass retokenize= the student.")
    wanted = found["accepted"].values.astype(bool) if accepted else np.ones(found.sizes["span"], dtype=bool)
    if threshold is not None:
        wanted = wanted & (abs(found["span_threshold"].values - threshold) <= 1e-9)
    made: dict[tuple[int, tuple[int, ...]], Pruned] = {}
    for row in np.flatnonzero(wanted):
        origin, removed = int(found["origin"][row]), tuple(np.flatnonzero(found["removed"][row]).tolist())
        if origin >= len(examples) or len(examples[origin].context) <= removed[-1]:
            raise InputError(
                f"The result removes position {removed[-1]} of example {origin}, which these {len(examples)} examples "
                "do not have. Give the examples that workbench.leaf.confounders was given."
            )
        if (origin, removed) not in made:
            made[origin, removed] = pruned(examples[origin], origin, removed, retokenize)
    return list(made.values())


def _assembled(
    found: xr.Dataset,
    chosen: xr.DataArray,
    selection: ExampleSelection,
    shorter: list[list[Pruned]],
    proved: xr.Dataset,
) -> xr.Dataset:
    index = np.array(selection.index)
    before = selection.answers.isel(example=index)
    width = found.sizes["position"]
    proved = proved.pad(position=(0, width - proved.sizes["position"]), constant_values=False)
    thresholds = np.repeat(chosen["threshold"].values, [len(one) for one in shorter])
    return (
        found.assign_coords(example=index)
        .assign({name: proved[name] for name in proved.data_vars if name != "origin"})
        .assign(
            candidate=(("threshold", "example", "position"), chosen.values),
            reply_before=(("model", "example"), before["reply"].values),
            correct_before=(("model", "example"), before["correct"].values),
            origin=("span", index[proved["origin"].values]),
            span_threshold=("span", thresholds),
        )
        .assign_coords(threshold=chosen["threshold"].values)
    )


def _counts(result: xr.Dataset, selection: ExampleSelection) -> dict[str, int]:
    right = result["correct_after"].sel(model="student") == 1
    return {
        **{f"n_{name}": count for name, count in selection.counts.items()},
        "n_spans": result.sizes["span"],
        "n_student_right_after": int(right.sum()),
        "n_accepted": int(result["accepted"].sum()),
        "n_rescued": len(set(result["origin"].values[result["accepted"].values].tolist())),
    }
