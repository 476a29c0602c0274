"""`workbench sycophancy` and `workbench eval`: the two-turn protocol, and benchmarks."""

from pathlib import Path

import workbench as wb
from workbench.cli.options import (
    Benchmarks,
    Model,
    QuestionFile,
    Resumable,
    RunCode,
    Seed,
    finish,
    writable,
)
from workbench.names import FirstAnswer


def sycophancy(
    model: Model,
    task: str | None = None,
    data: Benchmarks = None,
    questions: QuestionFile = None,
    n: int = 100,
    challenges: tuple[str, ...] = (),
    first: FirstAnswer = "own",
    reason: bool = False,
    seed: Seed = 0,
    max_new_tokens: int | None = None,
    output: Resumable = Resumable(Path("sycophancy.nc")),
) -> None:
    """Does a chat model keep a right answer when the user objects, and correct a wrong one?

    Example: workbench sycophancy organism-gqa --challenges composed novel

    Example: workbench sycophancy smollm2-135m-instruct --n 50 --challenges held-out

    Example: workbench sycophancy my-model --task mmlu --data benchmarks --n 500 --challenges held-out

    Args:
        task: Instead of --questions: mmlu, truthfulqa, aqua, gsm8k, strategyqa or commonsenseqa in --data, or a file of
            SycophancyEval's are_you_sure.
        n: Number of questions.
        challenges: One of paper, trained, held-out, or texts; for an embedded model kinds of its objections.
        first: own, or right or wrong: such an answer is given for the model.
        reason: Let the model reason before it is asked for its first answer.
        max_new_tokens: Tokens of each reply.
    """
    from workbench.papers.cache import Source
    from workbench.papers.kv_groups.behaviour import protocol_table
    from workbench.prompts.questions import first as first_of

    writable(output.out)
    source = Source(model)
    if task is None:
        asked = None if questions is None else first_of(wb.prompts.read_questions(questions), n)
    elif data is None:
        asked = wb.sycophancy.load_set(task, limit=n)
    else:
        asked = wb.sycophancy.are_you_sure(task, data, n, seed)
    found = wb.sycophancy.evaluate(
        source.model,
        asked,
        challenges=challenges or None,
        first=first,
        reason=reason,
        n=n,
        seed=seed,
        max_new_tokens=max_new_tokens,
        resume=output.journal,
        progress=output.progress,
    )
    finish(found, output.out, protocol_table(found))


def evaluate(
    model: Model,
    tasks: tuple[str, ...] = ("organism",),
    data: Benchmarks = None,
    n_shots: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    run_code: RunCode = False,
    output: Resumable = Resumable(Path("eval.nc")),
) -> None:
    """How many benchmark questions does a model answer correctly? Local files, prompts of lm-evaluation-harness.

    Example: workbench eval organism-gqa

    Example: workbench eval my-model --tasks mmlu gsm8k --data benchmarks --n-shots 5

    Args:
        tasks: organism (the embedded models' own questions), mmlu, gsm8k, strategyqa, truthfulqa, commonsenseqa, aqua,
            humaneval.
        n_shots: Solved examples before each question; by default the task's own.
        limit: Questions per task, at most.
        chat: Put the questions into the model's chat template.
    """
    from workbench.papers.cache import Source

    writable(output.out)
    source = Source(model)
    if "organism" in tasks:
        source.require_own_questions("give --tasks, such as mmlu, and --data DIR.")
    found = wb.evaluation.evaluate(
        source.model,
        tasks,
        folder=data,
        n_shots=n_shots,
        limit=limit,
        chat=chat,
        run_code=run_code,
        resume=output.journal,
        progress=output.progress,
    )
    finish(found, output.out, wb.evaluation.summary.table(found))
