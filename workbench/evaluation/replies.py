"""Accuracy of generated replies: generate, read the answer with a matcher, compare with the target."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from workbench.errors import InputError, suggest
from workbench.evaluation.answers import MATCHERS, in_form
from workbench.evaluation.generation import NEXT_QUESTION, generate
from workbench.evaluation.local import accuracy
from workbench.evaluation.questions import Question
from workbench.evaluation.tasks import TASKS
from workbench.models.state import measures
from workbench.names import ReplyMatch
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.runs.results import text_array


@measures
def score_replies(
    model: HookedModel,
    questions: Sequence[Question],
    *,
    match: ReplyMatch | Callable[[str], str | None] | None = None,
    max_new_tokens: int | None = None,
    stop: Sequence[str] | None = None,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Let the model answer every question in words, and count the right answers.

    Args:
        model: a TransformerLens model with a tokenizer; hooks on it are active.
        questions: each with a `target`, from `load_task` or your own.
        match: reads the answer out of a reply, and out of the target: "letter", "number", "yes_no", "gsm8k_strict",
            "gsm8k_flexible", or a function that gives None where there is no answer; by default the task's own.
        max_new_tokens: tokens a reply may have; by default the task's own, else 256.
        stop: strings that end a reply; by default the task's own, or the next "Question:".
        batch_size: prompts at a time.
        resume: the netCDF file of the replies, see `generate`.
        progress: show a bar.

    Returns:
        What `generate` returns, with `given` (the answer read, "" for none), `target`, `matched` and `correct` per
        example; attrs: `accuracy` with `accuracy_low` and `accuracy_high`, and `no_match`, the share without an answer.

    Raises:
        InputError: a question without a target, an unknown matcher, or none for these questions.
    """
    without = next((q for q in questions if not q.target), None)
    if without is not None:
        raise InputError(
            f"Question {without.id!r} has no target to compare a reply with. Use score_choices for choices."
        )
    own = next((task for task in TASKS if questions and task.name == questions[0].task), None)
    read = _matcher(match or (own.replies if own else ""))
    said = generate(
        model,
        questions,
        max_new_tokens=max_new_tokens or (own.new_tokens if own else 256),
        stop=stop if stop is not None else (own.stop if own else NEXT_QUESTION),
        batch_size=batch_size,
        resume=resume,
        progress=progress,
    )
    return judge_replies(said, questions, read)


def judge_replies(
    said: xr.Dataset, questions: Sequence[Question], match: ReplyMatch | Callable[[str], str | None]
) -> xr.Dataset:
    """Replies from `generate` with what was read out of them, whether it is right, and the accuracy.

    `questions` are what was asked, in the same order, and `match` is as in `score_replies`.
    """
    read = _matcher(match)
    given = [read(str(reply)) for reply in said["reply"].values]
    forms = [in_form(read, q.target) for q in questions]
    wanted = [q.target if form is None else form for q, form in zip(questions, forms, strict=True)]
    matched = np.array([g is not None for g in given])
    correct = np.array([g is not None and g == w for g, w in zip(given, wanted, strict=True)])
    return said.assign(
        given=("example", text_array([g or "" for g in given])),
        target=("example", text_array(wanted)),
        matched=("example", matched),
        correct=("example", correct),
        id=("example", text_array([q.id for q in questions])),
    ).assign_attrs(accuracy(correct), no_match=float((~matched).mean()), tasks=sorted({q.task for q in questions}))


def _matcher(match: str | Callable[[str], str | None]) -> Callable[[str], str | None]:
    if not isinstance(match, str):
        return match
    if match == "humaneval":
        raise InputError("HumanEval's replies are programs; run them with score_programs(…, run_code=True).")
    if match not in MATCHERS:
        raise InputError(f"match={match!r} is not a known reply matcher; {suggest(match, MATCHERS)}")
    return MATCHERS[match]
