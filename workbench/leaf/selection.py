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
from workbench.leaf.asking import CUT, Match, ask
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
        answers: `reply`, `answer` (what was read in it), `ending` and `correct` (model, example) of all of them;
            correct is 1 or 0, NaN where a reply was cut, or a model not asked, which has no ending.
        counts: how many there were, how many the student got wrong, how many of these the teacher got right, and how
            many replies of each were cut.
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
    stop: Sequence[str] = (),
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
        stop: further strings that end a reply.
        align: "ids", or "characters" for models with different tokenizers.
        batch_size: prompts at a time.
        resume: a folder in which finished batches are kept; a stopped run goes on from them.
        progress: show a bar.

    Raises:
        InputError: no such example (with the counts), or what `ask` and `sensitivity` refuse.
    """
    examples = check_examples(examples)
    asking: dict[str, Any] = dict(match=match, max_new_tokens=max_new_tokens, stop=stop, batch_size=batch_size)
    answers = in_turn(student, teacher, examples, False, align=align, resume=resume, progress=progress, **asking)
    right = answers["correct"]
    chosen = np.flatnonzero((right.sel(model="student").values == 0) & (right.sel(model="teacher").values == 1))
    cut = answers["ending"].isin(CUT) & right.isnull()
    counts = {
        "examples": len(examples),
        "student_wrong": int((right.sel(model="student") == 0).sum()),
        "misled": len(chosen),
        **{f"{name}_cut": int(cut.sel(model=name).sum()) for name in MODELS},
    }
    if not len(chosen):
        raise InputError(_none(counts))
    return ExampleSelection([examples[i] for i in chosen], [int(i) for i in chosen], answers, counts)


def _none(counts: dict[str, int]) -> str:
    n, wrong, cut = counts["examples"], counts["student_wrong"], [counts[f"{name}_cut"] for name in MODELS]
    if not wrong and not cut[0]:
        why = "the student answers all of them correctly. Give harder examples, or a weaker student"
    elif not wrong:
        why = (
            f"the student answers {n - cut[0]} correctly, and its other {cut[0]} replies were cut before their end, so "
            "that they are neither right nor wrong. Raise max_new_tokens=, or give the strings that end a reply as "
            "stop="
        )
    else:
        why = (
            f"of the {wrong} that the student gets wrong, the teacher gets none right. Give easier examples or a "
            "stronger teacher, look at the replies (workbench.leaf.ask), and check that match= reads them"
        )
        if any(cut):
            why += (
                f"; max_new_tokens= cuts {cut[0]} replies of the student and {cut[1]} of the teacher, which count as "
                "neither right nor wrong"
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

    `reply`, `answer`, `ending` and `correct` (model, example); where a model was not asked the texts are "" and correct
    is NaN. `resume` is a folder; `asking` are further arguments of `ask`.
    """
    n = len(examples)
    texts = {name: np.full((2, n), "", dtype=object) for name in ("reply", "answer", "ending")}
    correct = np.full((2, n), np.nan)
    other = teacher_examples(student, teacher, examples, align)

    def put(row: int, model: HookedModel, those: Sequence[Example], asked: Sequence[int]) -> None:
        if asked:
            file = None if resume is None else str(Path(resume) / f"{MODELS[row]}.nc")
            said = ask(model, [those[i] for i in asked], resume=file, **asking)
            correct[row, asked], texts["reply"][row, asked] = said["correct"].values, said_text(model, said)
            for name in ("answer", "ending"):
                texts[name][row, asked] = said[name].values

    put(0, student, examples, range(n))
    put(1, teacher, other or examples, np.flatnonzero(correct[0] == second_if).tolist())
    dims = ("model", "example")
    found = {name: (dims, values) for name, values in (texts | {"correct": correct}).items()}
    return xr.Dataset(found, coords={"model": list(MODELS)})
