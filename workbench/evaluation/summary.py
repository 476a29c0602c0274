"""Accuracy on several tasks in one call, each by choices, generated replies or programs as the task defines it."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.evaluation.code import score_programs
from workbench.evaluation.embedded_questions import OWN, own_questions
from workbench.evaluation.local import score_choices
from workbench.evaluation.questions import Question, in_chat
from workbench.evaluation.replies import score_replies
from workbench.evaluation.tasks import HARNESS_SEED, load_task
from workbench.models.anatomy import anatomy
from workbench.models.attention import has_hooks
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.runs.run import Run


@measures
def evaluate(
    model: HookedModel,
    tasks: str | Sequence[str],
    *,
    folder: str | Path | None = None,
    n_shots: int | None = None,
    limit: int | None = None,
    seed: int = HARNESS_SEED,
    chat: bool = False,
    run_code: bool = False,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Accuracy of a model on tasks from local files, or on an embedded model's own questions.

    Args:
        model: a TransformerLens model with a tokenizer; hooks on it are active.
        tasks: names that `load_task` knows, and "organism" for the embedded models' own questions.
        folder: holds one folder per benchmark; not needed for "organism".
        n_shots: worked examples, as in `load_task`.
        limit: questions of each task (of MMLU, of each subject; 200 of an embedded model's by default).
        seed: of the draw of examples, or of an embedded model's questions.
        chat: ask in the model's chat template; embedded models' own questions always are.
        run_code: allow HumanEval's programs to run, confined.
        batch_size: rows at a time.
        resume: the netCDF file of the result: finished batches are kept beside it, and a stopped run goes on from them.
        progress: show bars.

    Returns:
        Per `task`: `accuracy` with `low` and `high` (95 %), `chance` (NaN where replies are generated), `no_match` (the
        share of replies without an answer; NaN where choices are scored) and `n_examples`.

    Raises:
        InputError: an unknown task, no folder, HumanEval without `run_code`, or a resumed run of another configuration.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if not names:
        raise InputError("No tasks: give at least one, such as 'mmlu' or 'organism'.")
    asked = {name: _questions(model, name, folder, n_shots, limit, seed) for name in names}
    parts = anatomy(model)
    facts = {
        "method": "evaluate",
        "model": parts.name,
        "weights": fingerprint(model),
        "questions": {name: _digest(questions) for name, questions in asked.items()},
        "n_shots": n_shots,
        "seed": seed,
        "chat": chat,
        "hooks_active": has_hooks(model),
    }
    with Run(resume, **facts) as run:
        if run.finished is not None:
            return run.finished
        how: dict[str, Any] = {"run_code": run_code, "batch_size": batch_size, "progress": progress}
        results = {
            name: _score(model, questions, chat and name != OWN, resume=run.beside(f"{name}.nc"), **how)
            for name, questions in asked.items()
        }
        return run.finish(_table(asked, results), dtype=parts.dtype, device=parts.device)


def _table(asked: Mapping[str, Sequence[Question]], results: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """One row per task."""
    columns = {"accuracy": "accuracy", "low": "accuracy_low", "high": "accuracy_high"}
    columns |= {"chance": "chance", "no_match": "no_match"}
    table = {
        column: ("task", np.array([result.attrs.get(key, np.nan) for result in results.values()], dtype=float))
        for column, key in columns.items()
    }
    table["n_examples"] = ("task", np.array([len(questions) for questions in asked.values()]))
    return xr.Dataset(table, coords={"task": list(asked)})


def table(result: xr.Dataset) -> str:
    """The result of `evaluate` as text: the accuracy on each task with its interval and number of questions."""
    rows = []
    for task in result["task"].values:
        row = result.sel(task=task)
        interval = f"{float(row['low']):.3f} to {float(row['high']):.3f}"
        rows.append(f"{task!s:24} {float(row['accuracy']):.3f}  ({interval}, n = {int(row['n_examples'])})")
    return "\n".join(rows)


def _questions(
    model: HookedModel, name: str, folder: str | Path | None, n_shots: int | None, limit: int | None, seed: int
) -> list[Question]:
    if name == OWN:
        return own_questions(model, limit or 200, seed)
    if folder is None:
        raise InputError(
            f"The task {name!r} is read from local files: pass folder=, which holds mmlu/, gsm8k/ and so on. To fetch "
            "tasks from the Hub, use run_harness."
        )
    return load_task(name, folder, n_shots, limit, seed)


def _digest(questions: Sequence[Question]) -> str:
    return hashlib.sha256(repr(list(questions)).encode("utf-8", "replace")).hexdigest()[:16]


def _score(model: HookedModel, questions: list[Question], chat: bool, *, run_code: bool, **options: Any) -> xr.Dataset:
    if questions[0].task == "humaneval":
        return score_programs(model, questions, run_code=run_code, chat=chat, **options)
    asked = in_chat(model, questions) if chat else questions
    score = score_choices if questions[0].choices else score_replies
    return score(model, asked, **options)
