"""lm-evaluation-harness on a model with its hooks: the harness's own tasks, prompts and metrics (extra `eval`).

The harness gets the Hugging Face module inside the Bridge, whose modules carry the hook points. While hooks are on the
model they may look at whole sequences, so batches are of one, and text is generated without a cache of keys and values.
"""

import copy
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError, suggest
from workbench.evaluation.tasks import HARNESS_SEED
from workbench.models.anatomy import anatomy, kind_of
from workbench.models.attention import has_hooks
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.prompts.templates import tokenizer_of
from workbench.protocol import HookedModel
from workbench.runs.results import package_version
from workbench.runs.run import Run

UNSAFE = ("humaneval", "mbpp")


@measures
def run_harness(
    model: HookedModel,
    tasks: str | Sequence[str],
    *,
    n_shots: int | None = None,
    limit: int | None = None,
    seed: int = HARNESS_SEED,
    batch_size: int | None = None,
    chat: bool = False,
    include: str | Path | None = None,
    resume: str | Path | None = None,
) -> xr.Dataset:
    """Run tasks of lm-evaluation-harness on a model; hooks that are on it are active.

    Args:
        model: a TransformerBridge with a tokenizer.
        tasks: the harness's names, such as `["mmlu", "winogrande", "piqa", "gsm8k", "arc_challenge", "hellaswag"]`;
            most are fetched from the Hugging Face Hub.
        n_shots: worked examples; by default the task's own number.
        limit: the first so many questions of each (sub)task.
        seed: of the draw of examples.
        batch_size: requests at a time; by default 8, and 1 while hooks are on the model.
        chat: put prompts into the model's chat template, with examples as turns of their own.
        include: a folder of your own task files (*.yaml), which may read local data.
        resume: a netCDF file: the results of finished tasks are kept beside it, and a stopped run goes on from them.

    Returns:
        `value(task, metric)` and its standard error `stderr(task, metric)`, NaN where a task has no such metric, and
        `n_examples(task)`. Metrics are the harness's, such as `acc` or `exact_match (strict-match)`; groups stand
        beside their members.

    Raises:
        InputError: the extra is not installed, an unknown task, one that runs programs, a HookedTransformer, or a
            resumed run of another configuration.
    """
    parts = anatomy(model)
    names = _names(tasks)
    options: dict[str, Any] = {"n_shots": n_shots, "limit": limit, "seed": seed, "chat": chat, "include": include}
    facts = {
        "method": "lm-evaluation-harness",
        "lm_eval_version": package_version("lm_eval"),
        "model": parts.name,
        "weights": fingerprint(model),
        "tasks": names,
        "hooks_active": has_hooks(model),
        "dtype": parts.dtype,
    }

    with Run(resume, **facts, **options) as run:
        if run.finished is not None:
            return run.finished
        wrapped = harness_model(model, batch_size)
        _require_known(names, include)
        pieces = [run.piece(name, lambda name=name: _dataset(_run(wrapped, [name], **options))) for name in names]
        whole = xr.concat(pieces, "task", data_vars="minimal", join="outer").drop_duplicates("task")
        return run.finish(whole.sortby("metric"), device=parts.device)


@measures
def harness_answers(model: HookedModel, tasks: str | Sequence[str], metric: str = "acc", **options: Any) -> np.ndarray:
    """Whether each question of the harness's tasks was answered correctly, in the harness's order.

    Args:
        model: a TransformerBridge with a tokenizer.
        tasks: names of tasks that have the metric, or of groups of such tasks.
        metric: as `run_harness` calls it, such as "acc" or "exact_match (strict-match)"; 0 or 1 for each question.
        **options: those of `run_harness`.

    Raises:
        InputError: a metric that the tasks don't have, or that is not 0 or 1 for each question; else as `run_harness`.
    """
    names, wrapped = _names(tasks), harness_model(model, options.pop("batch_size", None))
    found = _run(wrapped, names, samples=True, **options)
    rows = [row for some in found["samples"].values() for row in sorted(some, key=lambda row: row["doc_id"])]
    labels = [_label(f"{name},{row.get('filter', 'none')}") for row in rows for name in row.get("metrics", ())]
    values = [row[name] for row in rows for name in row["metrics"] if _label(f"{name},{row['filter']}") == metric]
    if not values or not all(isinstance(v, int | float | np.number) and v in (0, 1) for v in values):
        raise InputError(
            f"{metric!r} does not say of each question whether it was answered correctly; these tasks have "
            f"{', '.join(dict.fromkeys(labels))}."
        )
    return np.array(values, dtype=bool)


def _run(
    wrapped: Any,
    names: Sequence[str],
    *,
    n_shots: int | None = None,
    limit: int | None = None,
    seed: int = HARNESS_SEED,
    chat: bool = False,
    include: str | Path | None = None,
    samples: bool = False,
) -> dict[str, Any]:
    """What the harness returns, with every question's result if `samples`."""
    manager = _require_known(names, include)
    found = import_module("lm_eval.evaluator").simple_evaluate(
        wrapped,
        tasks=list(names),
        num_fewshot=n_shots,
        limit=limit,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        task_manager=manager,
        log_samples=samples,
        random_seed=None,
        numpy_random_seed=None,
        torch_random_seed=None,
        fewshot_random_seed=seed,
    )
    return dict(found or {})


def harness_model(model: HookedModel, batch_size: int | None = None) -> Any:
    """The model as the harness's `HFLM`, for `lm_eval.simple_evaluate` with settings of your own.

    By default it takes 8 requests at a time, and 1 while hooks are on the model.
    """
    if kind_of(model) == "hooked":
        raise InputError(
            "lm-evaluation-harness needs the Hugging Face module inside a TransformerBridge, and this is a "
            "HookedTransformer. Load it with backend='bridge', or score local files with score_choices."
        )
    try:
        base = import_module("lm_eval.models.huggingface").HFLM
    except ImportError as error:
        raise InputError(
            "lm-evaluation-harness is not installed. Install the extra, pip install 'workbench[eval]', or score local "
            f"files with load_task and score_choices, which need nothing more. ({error})"
        ) from error

    class Hooked(base):
        """HFLM that gives hooks whole sequences."""

        def _model_generate(self, context: Any, max_length: int, stop: list[str], **given: Any) -> Any:
            generate = self.model.generate

            def without_cache(**keywords: Any) -> Any:
                return generate(**(keywords | {"use_cache": False}))

            if not has_hooks(model):
                return super()._model_generate(context, max_length, stop, **given)
            self.model.generate = without_cache
            try:
                return super()._model_generate(context, max_length, stop, **given)
            finally:
                del self.model.generate

    size = batch_size or (1 if has_hooks(model) else 8)
    tokenizer = copy.deepcopy(tokenizer_of(model))
    return Hooked(pretrained=model.original_model, tokenizer=tokenizer, backend="causal", batch_size=size)


@cache
def _manager(include: str) -> Any:
    """The harness's index of tasks; it reads thousands of files, so it is made once."""
    return import_module("lm_eval.tasks").TaskManager(include_path=include or None)


def _require_known(names: Sequence[str], include: str | Path | None) -> Any:
    """The harness's index of tasks, which must have all of these."""
    manager = _manager("" if include is None else str(include))
    unknown = next((name for name in names if not manager.match_tasks([name])), None)
    if unknown is not None:
        near = suggest(unknown, manager.all_tasks).split("Known:")[0]  # there are thousands
        hint = (near or "look it up with `lm_eval ls tasks`. ").strip()
        raise InputError(f"lm-evaluation-harness knows no task {unknown!r}; {hint}")
    return manager


def _names(tasks: str | Sequence[str]) -> list[str]:
    """Names of tasks, each once, none of which runs programs."""
    names = [tasks] if isinstance(tasks, str) else list(dict.fromkeys(tasks))
    if not names:
        raise InputError("No tasks: give at least one of the harness's names, such as 'arc_easy'.")
    unsafe = next((name for name in names if name.startswith(UNSAFE)), None)
    if unsafe is not None:
        raise InputError(
            f"The harness runs the programs of {unsafe!r} unconfined. Use score_programs with "
            "load_task('humaneval', …) instead, which confines them."
        )
    return names


def _dataset(found: dict[str, Any]) -> xr.Dataset:
    results = {**found.get("results", {}), **found.get("groups", {})}
    metrics = sorted({_label(k) for r in results.values() for k in r if "," in k and "_stderr" not in k})
    tasks = list(results)
    value, stderr = (np.full((len(tasks), len(metrics)), np.nan) for _ in range(2))
    for i, name in enumerate(tasks):
        for key, number in results[name].items():
            if "," in key and isinstance(number, int | float):
                table = stderr if "_stderr" in key else value
                table[i, metrics.index(_label(key.replace("_stderr", "")))] = number
    counts = found.get("n-samples", {})
    n = [int(counts.get(name, {}).get("effective", 0)) for name in tasks]
    dims = ("task", "metric")
    return xr.Dataset(
        {"value": (dims, value), "stderr": (dims, stderr), "n_examples": ("task", n)},
        coords={"task": tasks, "metric": metrics},
    )


def _label(key: str) -> str:
    """`acc,none` as acc, `exact_match,strict-match` as exact_match (strict-match)."""
    name, chosen = key.split(",", 1)
    return name if chosen == "none" else f"{name} ({chosen})"
