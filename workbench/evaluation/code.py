"""HumanEval: programs that a model writes, run against their tests in `sandbox`, only when the caller says so."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.evaluation.generation import generate
from workbench.evaluation.local import accuracy
from workbench.evaluation.questions import Question
from workbench.evaluation.sandbox import check_sandbox, run_program
from workbench.evaluation.tasks import task
from workbench.models.state import measures
from workbench.prompts.templates import render, tokenizer_of
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.runs.progress import hidden
from workbench.runs.results import text_array

HUMANEVAL = task("humaneval")


@measures
def score_programs(
    model: HookedModel,
    questions: Sequence[Question],
    *,
    run_code: bool = False,
    chat: bool = False,
    template_kwargs: Mapping[str, Any] | None = None,
    max_new_tokens: int | None = None,
    stop: Sequence[str] | None = None,
    seconds: float = 5.0,
    memory_mb: int = 512,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Let the model complete every program, and run it against its tests.

    Args:
        model: a TransformerLens model with a tokenizer; hooks on it are active.
        questions: from `load_task("humaneval", …)`.
        run_code: that programs which no one has reviewed may run on this machine, confined as `sandbox` says.
        chat: ask in the model's chat template, the reply begun for it, as the harness's `humaneval_instruct`.
        template_kwargs: further variables of the chat template, see `workbench.prompts.render`.
        max_new_tokens: tokens a program may have.
        stop: strings that end one; by default the harness's.
        seconds: processor time of each program.
        memory_mb: its memory.
        batch_size: prompts at a time.
        resume: the netCDF file of the replies, see `generate`.
        progress: show a bar.

    Returns:
        What `generate` returns, with `correct` and `reason` per example; attrs: `accuracy` (pass@1) with its interval.

    Raises:
        InputError: `run_code` is not set, a machine that cannot confine programs, or a question without tests.
    """
    if not run_code:
        raise InputError(
            "HumanEval runs programs that the model writes and no one has reviewed. They run confined (no network, no "
            "files, no processes, little time and memory); pass run_code=True to allow it."
        )
    check_sandbox()
    without = next((q for q in questions if not q.target), None)
    if without is not None:
        raise InputError(f"Question {without.id!r} has no tests as its target, so its program cannot be judged.")
    said = generate(
        model,
        [_in_chat(model, question, template_kwargs) for question in questions] if chat else questions,
        max_new_tokens=max_new_tokens or HUMANEVAL.new_tokens,
        stop=HUMANEVAL.stop if stop is None else stop,
        batch_size=batch_size,
        resume=resume,
        progress=progress,
    )
    bar = tqdm(questions, desc="Running programs", disable=hidden(progress))
    outcomes = [
        run_program(program(question, str(reply)), seconds=seconds, memory_mb=memory_mb)
        for question, reply in zip(bar, said["reply"].values, strict=True)
    ]
    correct = np.array([outcome.passed for outcome in outcomes])
    return said.assign(
        correct=("example", correct),
        reason=("example", text_array([outcome.reason for outcome in outcomes])),
        id=("example", text_array([q.id for q in questions])),
    ).assign_attrs(accuracy(correct), tasks=sorted({q.task for q in questions}), metric="pass@1")


def program(question: Question, reply: str) -> str:
    """The program to run: the prompt's own code, its completion up to the end of a code block, and the tests."""
    return f"{question.prompt}{reply.split('```')[0]}\n\n{question.target}\n"


def _in_chat(model: HookedModel, question: Question, template_kwargs: Mapping[str, Any] | None) -> Question:
    asked = (
        "Write a solution to the following problem and make sure that it passes the tests:\n"
        f"```python\n{question.prompt}\n```\n"
    )
    begun = f"Here is the completed function:\n```python\n{question.prompt}\n"
    messages = [{"role": "user", "content": asked}]
    rendered = render(tokenizer_of(model), messages, template_kwargs=template_kwargs)
    return replace(question, prompt=rendered + begun)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that one of `k` draws from `n` programs for one problem, `correct` of them right, is right."""
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise InputError(f"pass@{k} of {correct} right programs among {n}: give 0 <= correct <= n and 1 <= k <= n.")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)
