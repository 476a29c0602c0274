"""Tasks for accuracy curves: anything that runs a model and says for each example whether its answer was correct."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from workbench.errors import InputError
from workbench.evaluation import Question, harness_answers, score_choices
from workbench.protocol import HookedModel

ModelTask = Callable[[Any], Any]
"""A function of the model that gives True or False per example."""


def choices(questions: Sequence[Question], **options: Any) -> ModelTask:
    """Questions with choices as a task.

    Args:
        questions: from `evaluation.load_task` or `evaluation.own_questions`, or your own.
        **options: for `evaluation.score_choices`.
    """
    asked = list(questions)

    def run(model: HookedModel) -> Any:
        given: dict[str, Any] = {"progress": False} | options
        return score_choices(model, asked, **given)["correct"].values

    run.__name__ = f"choices {_digest(asked)} {sorted(options.items())}"
    return run


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
    """A task as a function of the model.

    Raises:
        InputError: neither a function nor questions.
    """
    if callable(task):
        return task
    if isinstance(task, Sequence) and task and all(isinstance(item, Question) for item in task):
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
