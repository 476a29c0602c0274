"""Sensitivity scores of every token of the user's message for a student and its teacher.

1. Both models read prompt and gold response (teacher forcing); the loss is the mean over the response's tokens.
2. Each score (`scores.py`) gives one number per prunable token; the paper's is the norm of the loss's gradient with
   respect to the token's embedding, min-max per model, teacher minus student, min-max again.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.leaf.examples import Example, check_examples, digest
from workbench.leaf.scores import Batch, TokenScore, scores_named
from workbench.leaf.views import View, prunable_mask
from workbench.leaf.vocabularies import MODELS, check_lengths, identities, teacher_examples
from workbench.models.anatomy import anatomy
from workbench.models.devices import devices_of
from workbench.models.state import measures
from workbench.names import Alignment, TokenScoreName
from workbench.prompts.texts import words
from workbench.protocol import HookedModel
from workbench.runs.batching import Batches, BatchSize
from workbench.runs.progress import hidden
from workbench.runs.results import text_array
from workbench.runs.run import Run


@measures
def sensitivity(
    student: HookedModel,
    teacher: HookedModel,
    examples: Sequence[Example],
    *,
    scores: Iterable[TokenScoreName | TokenScore] | TokenScoreName | TokenScore | Literal["all"] = (
        "gradient_difference",
    ),
    align: Alignment = "ids",
    steps: int = 16,
    seed: int = 0,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Scores of every prunable token.

    Args:
        student: a model from `workbench.load`; hooks on it are active, also for `teacher`.
        teacher: a model that reads the same token ids.
        examples: in the student's tokens.
        scores: names or `TokenScore`s, see `workbench.leaf.scores`; "all" for those that come with workbench.
        align: "ids", or "characters" for models with different tokenizers and examples made from text.
        steps: points of the integrated gradients.
        seed: of the random score.
        batch_size: examples at a time; "auto" measures how many fit.
        resume: the netCDF file of the result: finished batches are kept beside it, and a stopped run goes on from them.
        progress: show a bar.

    Returns:
        `sensitivity` (score, example, position), NaN where a token may not be pruned, with `confounding(score)` "low"
        or "high"; `loss` (model, example), the mean -log p of the gold response; `token` (example, position; -1 after
        the end) and `word`, the context.

    Raises:
        InputError: no examples, none of whose tokens may be pruned, one longer than a model's context; an unknown
            score; vocabularies that differ; a gradient that is NaN; a resumed run of another configuration.
    """
    examples, wanted = check_examples(examples), scores_named(scores)
    other = teacher_examples(student, teacher, examples, align)
    _refuse(examples, student, "student")
    _refuse(other or examples, teacher, "teacher")
    parts = {"student": anatomy(student), "teacher": anatomy(teacher)}
    facts = {
        "method": "leaf sensitivity",
        **identities(student, teacher),
        **{f"{name}_dtype": part.dtype for name, part in parts.items()},
        "examples": digest(examples),
        "scores": [s.name for s in wanted],
        "align": align,
        "steps": steps,
        "seed": seed,
    }

    def work(some: list[int]) -> xr.Dataset:
        own = [examples[i] for i in some]
        ours = View(student, parts["student"], own)
        if other is None:
            theirs = View(teacher, parts["teacher"], own)
        else:
            theirs = View(teacher, parts["teacher"], [other[i] for i in some], onto=own)
        return _piece(Batch(own, ours, theirs, prunable_mask(own), seed, steps), wanted)

    with Run(resume, **facts) as run:
        if run.finished is not None:
            return run.finished
        left = sorted(run.left(len(examples)), key=lambda i: -len(examples[i].tokens))
        done = len(examples) - len(left)
        bar = tqdm(total=len(examples), initial=done, desc="Sensitivity", disable=hidden(progress))
        run.over(left, Batches(devices_of(teacher), batch_size), work, bar.update)
        bar.close()
        found = (
            run.joined(len(examples), "position")
            .assign(context_of(student, examples))
            .assign_coords(
                confounding=("score", [s.confounding for s in wanted]),
                identifier=("example", text_array([e.identifier for e in examples])),
            )
        )
        return run.finish(found, device=parts["student"].device)


def _piece(batch: Batch, wanted: list[TokenScore]) -> xr.Dataset:
    values = []
    for score in wanted:
        found = score.compute(batch).double().cpu()
        if tuple(found.shape) != tuple(batch.prunable.shape):
            raise InputError(
                f"The score {score.name!r} gave values of shape {list(found.shape)} for {len(batch.examples)} examples "
                f"of {batch.prunable.shape[1]} context tokens; it must give one per example and position."
            )
        _refuse_nan(score, found, batch)
        values.append(torch.where(batch.prunable, found, torch.nan).numpy())
    return xr.Dataset(
        {
            "sensitivity": (("score", "example", "position"), np.stack(values)),
            "loss": (("model", "example"), torch.stack([batch.student.loss, batch.teacher.loss]).numpy()),
        },
        coords={"score": [s.name for s in wanted], "model": list(MODELS)},
    )


def _refuse_nan(score: TokenScore, found: torch.Tensor, batch: Batch) -> None:
    bad = (~torch.isfinite(found) & batch.prunable).nonzero()
    if len(bad):
        row, position = (int(n) for n in bad[0])
        raise InputError(
            f"The score {score.name!r} of example {batch.examples[row].identifier!r} is NaN or infinite at position "
            f"{position}, a token that may be pruned. A ratio of zeros gives that; let the score return finite numbers."
        )


def context_of(model: HookedModel, examples: Sequence[Example]) -> dict[str, Any]:
    """The context of examples as variables `token` (-1 after the end) and `word` (example, position)."""
    width = max(len(e.context) for e in examples)
    spoken = words(model, [e.context for e in examples])
    tokens = np.array([[*e.context, *[-1] * (width - len(e.context))] for e in examples])
    shown = text_array([[*row, *[""] * (width - len(row))] for row in spoken])
    return {"token": (("example", "position"), tokens), "word": (("example", "position"), shown)}


def _refuse(examples: Sequence[Example], model: HookedModel, name: str) -> None:
    fixed = next((e for e in examples if not any(e.prunable)), None)
    if fixed is not None:
        raise InputError(
            f"Example {fixed.identifier!r} has no token that may be pruned, so there is nothing to score. Its words "
            "are white space only, or cut_last is longer than they are; leave it out."
        )
    check_lengths(model, examples, name)
