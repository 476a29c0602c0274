"""Selection of misled examples: the student answers incorrectly and the teacher correctly.

The student answers first, and the teacher is asked only where the student was wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.leaf.asking import Match, ask
from workbench.leaf.examples import Example, check_examples
from workbench.leaf.vocabularies import MODELS, teacher_examples
from workbench.models.state import measures
from workbench.names import Alignment
from workbench.prompts.texts import words
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize


@dataclass(frozen=True)
class ExampleSelection:
    """The misled examples of a set.

    Attributes:
        examples: those that the student gets wrong and the teacher right.
        index: where each stands among the examples that were given.
        answers: `reply` and `correct` (model, example) of all of them; correct is 1 or 0, NaN where a model was not
            asked.
        counts: how many there were, how many the student got wrong, and how many of these the teacher got right.
    """

    examples: list[Example]
    index: list[int]
    answers: xr.Dataset
    counts: dict[str, int]


@measures
def select_examples(
    student: HookedModel,
    teacher: HookedModel,
    examples: Sequence[Example],
    *,
    match: Match = "number",
    max_new_tokens: int | None = None,
    align: Alignment = "ids",
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> ExampleSelection:
    """Let both models answer, and keep the examples that mislead the student alone.

    Args:
        student: a model from `workbench.load`.
        teacher: another.
        examples: in the student's tokens.
        match: how a reply is judged, see `workbench.leaf.ask`.
        max_new_tokens: tokens a reply may have.
        align: "ids", or "characters" for models with different tokenizers.
        batch_size: prompts at a time.
        resume: a folder in which finished batches are kept; a stopped run goes on from them.
        progress: show a bar.

    Raises:
        InputError: no such example (with the counts), or what `ask` and `sensitivity` refuse.
    """
    examples = check_examples(examples)
    asking: dict[str, Any] = dict(match=match, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress)
    answers = in_turn(student, teacher, examples, False, align=align, resume=resume, **asking)
    right = answers["correct"]
    chosen = np.flatnonzero((right.sel(model="student").values == 0) & (right.sel(model="teacher").values == 1))
    counts = {
        "examples": len(examples),
        "student_wrong": int((right.sel(model="student") == 0).sum()),
        "misled": len(chosen),
    }
    if not len(chosen):
        raise InputError(_none(counts))
    return ExampleSelection([examples[i] for i in chosen], [int(i) for i in chosen], answers, counts)


def _none(counts: dict[str, int]) -> str:
    n, wrong = counts["examples"], counts["student_wrong"]
    if not wrong:
        why = "the student answers all of them correctly. Give harder examples, or a weaker student"
    else:
        why = (
            f"of the {wrong} that the student gets wrong, the teacher gets none right. Give easier examples or a "
            "stronger teacher, look at the replies (workbench.leaf.ask), and check that match= reads them and "
            "max_new_tokens= does not cut them"
        )
    return f"None of {n} examples misleads the student alone: {why}."


def said_text(model: HookedModel, said: xr.Dataset) -> list[str]:
    """Replies as text; as token ids in brackets where the model has no tokenizer."""
    if getattr(model, "tokenizer", None) is not None:
        return [str(reply) for reply in said["reply"].values]
    rows = zip(said["tokens"].values, said["n_tokens"].values, strict=True)
    return ["".join(row) for row in words(model, [tokens[:n].tolist() for tokens, n in rows])]


def in_turn(
    student: HookedModel,
    teacher: HookedModel,
    examples: Sequence[Example],
    second_if: bool,
    *,
    align: Alignment,
    resume: str | Path | None,
    **asking: Any,
) -> xr.Dataset:
    """Replies of the student to all examples, and of the teacher where the student's was right (`second_if`) or wrong.

    `reply` and `correct` (model, example); where a model was not asked the reply is "" and correct is NaN. `resume` is
    a folder; `asking` are further arguments of `ask`.
    """
    n = len(examples)
    correct, replies = np.full((2, n), np.nan), np.full((2, n), "", dtype=object)
    other = teacher_examples(student, teacher, examples, align)

    def put(row: int, model: HookedModel, those: Sequence[Example], asked: Sequence[int]) -> None:
        if asked:
            file = None if resume is None else str(Path(resume) / f"{MODELS[row]}.nc")
            said = ask(model, [those[i] for i in asked], resume=file, **asking)
            correct[row, asked], replies[row, asked] = said["correct"].values, said_text(model, said)

    put(0, student, examples, range(n))
    put(1, teacher, other or examples, np.flatnonzero(correct[0] == second_if).tolist())
    dims = ("model", "example")
    return xr.Dataset({"reply": (dims, replies), "correct": (dims, correct)}, coords={"model": list(MODELS)})
