"""Tasks for accuracy curves: anything that runs a model and says for each example whether its answer was correct."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import xarray as xr

from workbench.errors import InputError, check_known
from workbench.evaluation import Question, harness_answers, lettered, score_choices, worded
from workbench.names import ScoreAnswers
from workbench.prompts.questions import LETTERS, MultipleChoice
from workbench.protocol import HookedModel

ModelTask = Callable[[Any], Any]
"""A function of the model that gives True or False per example, and may tell more (see `baseline_of`)."""


def choices(
    questions: Sequence[Question] | Sequence[MultipleChoice], score_answers: ScoreAnswers | None = None, **options: Any
) -> ModelTask:
    """Questions with choices as a task.

    Args:
        questions: from `evaluation.load_task` or `evaluation.own_questions`, your own, or from `prompts.read_choices`.
        score_answers: how questions of `read_choices` are asked: by "letter", with the choices listed in the prompt,
            or by "text", where the prompt lists none and the likeliest choice is taken.
        **options: for `evaluation.score_choices`, such as `normalise="characters"`.

    Raises:
        InputError: `score_answers` is unknown, or is given for questions whose continuations are already set.
    """
    asked = as_asked(questions, score_answers)

    def run(model: HookedModel) -> xr.DataArray:
        given: dict[str, Any] = {"progress": False} | options
        found = score_choices(model, asked, **given)
        return (
            found["correct"]
            .assign_coords(
                given=("example", [str(q.choices[i]) for q, i in zip(asked, found["chosen"].values, strict=True)]),
                right=("example", [str(q.choices[i]) for q, i in zip(asked, found["answer"].values, strict=True)]),
                chance=("example", [1 / len(q.choices) for q in asked]),
            )
            .assign_attrs(score_answers=_scored(asked), normalise=found.attrs["normalise"])
        )

    run.__name__ = f"choices {_digest(asked)} {sorted(options.items())}"
    return run


def as_asked(
    questions: Sequence[Question] | Sequence[MultipleChoice], score_answers: ScoreAnswers | None = None
) -> list[Question]:
    """Questions with their prompts and continuations, from those that `choices` takes; None takes letters."""
    ways = {"letter": lettered, "text": worded}
    if score_answers is not None:
        check_known("score_answers", score_answers, ways)
    bare = [question for question in questions if isinstance(question, MultipleChoice)]
    done = [question for question in questions if isinstance(question, Question)]
    if bare and done:
        raise InputError("These questions are of two kinds, some with their continuations and some without; give one.")
    if bare:
        return ways[score_answers or "letter"](bare)
    if score_answers is not None:
        raise InputError(
            f"score_answers={score_answers!r} needs questions with their choices, as prompts.read_choices gives them; "
            "the continuations of these are already set."
        )
    return done


def _scored(questions: Sequence[Question]) -> ScoreAnswers:
    """Whether all continuations are letters."""
    texts = {str(choice).strip() for question in questions for choice in question.choices}
    return "letter" if texts <= set(LETTERS) else "text"


def harnessed(tasks: str | Sequence[str], metric: str = "acc", **options: Any) -> ModelTask:
    """Tasks of lm-evaluation-harness (extra `eval`) as a task.

    Args:
        tasks: the harness's own names, such as "winogrande" or "mmlu".
        metric: that says whether an answer was right, such as "acc" or "exact_match (strict-match)".
        **options: for `evaluation.harness_answers`, such as `n_shots=5`.
    """

    def run(model: HookedModel) -> Any:
        return harness_answers(model, tasks, metric, **options)

    run.__name__ = f"harness {tasks} {metric} {sorted(options.items())}"
    return run


def task_of(task: Any) -> ModelTask:
    """A task, given as a function or as questions, as a function of the model."""
    if callable(task):
        return task
    if isinstance(task, Sequence) and task and all(isinstance(item, Question | MultipleChoice) for item in task):
        return choices(task)
    raise InputError(
        f"There is no task {str(task)[:60]!r}. Give questions, such as workbench.evaluation.load_task('mmlu', folder) "
        "or workbench.evaluation.own_questions(model), or workbench.inactive_heads.harnessed('winogrande'), or a "
        "function of the model that gives True or False per example."
    )


def describe(task: Any) -> str:
    """The task's identity in a run's configuration."""
    if task is None:
        return ""
    if callable(task):
        return str(getattr(task, "__name__", type(task).__name__))
    return _digest(task)


def _digest(thing: Any) -> str:
    return hashlib.sha256(repr(thing).encode()).hexdigest()[:16]
