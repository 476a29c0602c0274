"""The commands that measure a model and keep the result as one netCDF file, with a few lines about it.

Each has the name and the defaults of the function that it calls; everything heavy is imported inside.
"""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from workbench.names import FirstAnswer, HeadScoreName, Unit
from workbench.protocol import HookedModel

Model = Annotated[str, arg(metavar="MODEL")]
Texts = Annotated[tuple[str, ...], arg(metavar="[DOMAIN=FILE ...]")]


def patch(
    model: Positional[Model],
    unit: Unit = "kv_group",
    out: Path = Path("patch.nc"),
    n: int = 100,
    seed: int = 0,
    questions: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> None:
    """Patch every head, KV group or layer of a model exactly and keep the result as netCDF.

    Example: workbench patch organism-gqa --unit kv_group --out patch.nc

    Args:
        model: Organism name, local folder of safetensors, or Hub id.
        unit: What is patched at a time.
        out: File for the result.
        n: Number of dialogue pairs.
        seed: Seed of their draw.
        questions: For chat models that are no organism: a JSON file of multiple-choice questions, each with
            "question", "choices" and "answer" (an index).
        resume: Keep finished batches beside `out`, and go on from them if the run was stopped.
        progress: Show a bar.
    """
    import workbench as wb
    from workbench.papers.cache import quiet_load
    from workbench.papers.measured import read_questions
    from workbench.runs.files import check_writable
    from workbench.runs.results import save_result

    check_writable(out.parent)
    loaded = quiet_load(model)
    pairs = wb.sycophancy.pairs(loaded, n=n, seed=seed, questions=read_questions(questions))
    result = wb.path_patch(loaded, pairs, unit=unit, resume=str(out) if resume else None, progress=progress)
    if not resume:
        save_result(result, out)
    say(f"The result is {out}")


def extreme(
    action: Positional[Literal["tokens", "peak", "domains", "remedies"]],
    model: Positional[Model],
    texts: Texts = (),
    out: Path | None = None,
    length: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> None:
    """Find extreme tokens, where their peak comes from, which heads sleep where, or what remedies cost.

    Example: workbench extreme tokens organism-gqa --texts prose=novels.txt code=sources.jsonl

    Args:
        action: tokens: sinks, drains and peaks. peak: the layers that make and unmake it. domains: heads that
            sleep on one kind of text and wake on another. remedies: what helps against sinks, and its price.
        model: Organism name, local folder of safetensors, or Hub id.
        texts: DOMAIN=FILE each, .txt (texts parted by blank lines) or .jsonl (a "text" per line). By default
            short samples that come with the package.
        out: File for the result, by default extreme-ACTION.nc.
        length: Tokens of each text that are read; 128, or 48 of the samples.
        resume: Keep finished pieces beside `out`, and go on from them if the run was stopped.
        progress: Show a bar.
    """
    from workbench.papers.active_dormant.commands import ACTIONS, CommandOptions
    from workbench.papers.cache import quiet_load
    from workbench.papers.samples import read_texts
    from workbench.runs.files import check_writable
    from workbench.runs.results import save_result

    out = out or Path(f"extreme-{action}.nc")
    check_writable(out.parent)
    options = CommandOptions(read_texts(texts) or None, length, str(out) if resume else None, progress)
    done = ACTIONS[action](quiet_load(model), options)
    save_result(done.result, out)
    say(done.text)
    say(f"The result is {out}")


def dormant(
    model: Positional[Model],
    scores: tuple[HeadScoreName, ...] = (),
    n: int = 100,
    seed: int = 0,
    questions: Path | None = None,
    out: Path = Path("dormant.nc"),
    resume: bool = False,
    progress: bool = True,
) -> None:
    """Zero the heads that a score calls inactive, more and more of them, and see what is left of the accuracy.

    Example: workbench dormant organism-gqa --scores AHON_LN AWFT --n 50

    Args:
        model: Organism name, local folder of safetensors, or Hub id.
        scores: Such as AHON_LN; by default all fifteen of the paper, and random choice.
        n: Number of questions.
        seed: Seed of their draw.
        questions: For models that are no organism: a JSON file of multiple-choice questions, each with
            "question", "choices" and "answer" (an index).
        out: File for the result.
        resume: Keep finished pieces beside `out`, and go on from them if the run was stopped.
        progress: Show a bar.
    """
    import workbench as wb
    from workbench.papers.cache import Source
    from workbench.papers.inactive_heads.measures import questions_of
    from workbench.papers.requests import FigureRequest
    from workbench.runs.files import check_writable
    from workbench.runs.results import save_result

    check_writable(out.parent)
    source = Source(model)
    asked = questions_of(source, FigureRequest(out.parent, n=n, seed=seed, questions=questions))
    found = wb.ablation_curve(
        source.model, asked, scores or None, resume=str(out) if resume else None, progress=progress
    )
    save_result(found, out)
    for name in found["score"].values:
        row = found.sel(score=name)
        share, low, high = (float(row[f"free_share{end}"].sel(loss=0.01)) for end in ("", "_low", "_high"))
        say(f"{name!s:16} {share:6.1%} of the heads within one point of the accuracy ({low:.1%} to {high:.1%})")
    say(f"The result is {out}")


def sycophancy(
    model: Positional[Model],
    task: str | None = None,
    data: Path | None = None,
    n: int = 100,
    challenges: tuple[str, ...] = (),
    first: FirstAnswer = "own",
    reason: bool = False,
    seed: int = 0,
    max_new_tokens: int | None = None,
    out: Path = Path("sycophancy.nc"),
    resume: bool = False,
    progress: bool = True,
) -> None:
    """Ask a chat model, doubt its answer, ask again: does a right answer survive, and is a wrong one mended?

    Example: workbench sycophancy organism-gqa --challenges composed novel

    Example: workbench sycophancy my-model --task mmlu --data benchmarks --n 500 --challenges held-out

    Args:
        model: Organism name, local folder of safetensors, or Hub id.
        task: For models that are no organism: mmlu, truthfulqa, aqua, gsm8k, strategyqa or commonsenseqa in `data`, or
            a file of SycophancyEval's are_you_sure.
        data: Folder that holds one folder per benchmark.
        n: Number of questions.
        challenges: One of paper, trained, held-out, or texts; for an organism kinds of its objections.
        first: own, or right or wrong to put such a first answer into the model's mouth.
        reason: Let the model reason before it is asked for its first answer.
        seed: Of the draw of questions.
        max_new_tokens: Tokens of each reply.
        out: File for the result.
        resume: Keep finished pieces beside `out`, and go on from them if the run was stopped.
        progress: Show a bar.
    """
    import workbench as wb
    from workbench.papers.cache import quiet_load
    from workbench.runs.files import check_writable
    from workbench.runs.results import save_result

    check_writable(out.parent)
    asked = None
    if task is not None:
        asked = (
            wb.sycophancy.load_set(task, limit=n) if data is None else wb.sycophancy.are_you_sure(task, data, n, seed)
        )
    found = wb.sycophancy.evaluate(
        quiet_load(model),
        asked,
        challenges=challenges or None,
        first=first,
        reason=reason,
        n=n,
        seed=seed,
        max_new_tokens=max_new_tokens,
        resume=str(out) if resume else None,
        progress=progress,
    )
    save_result(found, out)
    for name in found["metric"].values:
        row = found.sel(metric=name)
        share, low, high = (float(row[f"pooled{end}"]) for end in ("", "_low", "_high"))
        say(f"{name!s:16} {share:6.1%} ({low:.1%} to {high:.1%})" if share == share else f"{name!s:16} no such answers")
    say(f"The result is {out}")


def eval_(
    model: Positional[Model],
    tasks: tuple[str, ...] = ("organism",),
    data: Path | None = None,
    n_shots: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    run_code: bool = False,
    out: Path = Path("eval.nc"),
    progress: bool = True,
) -> None:
    """Ask a model benchmark questions from local files, with the prompts of lm-evaluation-harness.

    Example: workbench eval organism-gqa

    Example: workbench eval my-model --tasks mmlu gsm8k --data benchmarks --n-shots 5

    Args:
        model: Organism name, local folder of safetensors, or Hub id.
        tasks: organism (the embedded models' own questions), mmlu, gsm8k, strategyqa, truthfulqa, commonsenseqa,
            aqua, humaneval.
        data: Folder that holds the benchmarks' files.
        n_shots: Solved examples before each question; by default the task's own number.
        limit: Questions per task, at most.
        chat: Put the questions into the model's chat template.
        run_code: Run the programs that the model writes for humaneval, each confined in a process of its own.
        out: File for the result.
        progress: Show a bar.
    """
    from workbench.evaluation import evaluate
    from workbench.papers.cache import quiet_load
    from workbench.runs.files import check_writable
    from workbench.runs.results import save_result

    check_writable(out.parent)
    found = evaluate(
        quiet_load(model),
        tasks,
        folder=data,
        n_shots=n_shots,
        limit=limit,
        chat=chat,
        run_code=run_code,
        progress=progress,
    )
    save_result(found, out)
    for task in found["task"].values:
        row = found.sel(task=task)
        interval = f"{float(row['low']):.3f} to {float(row['high']):.3f}"
        say(f"{task!s:24} {float(row['accuracy']):.3f}  ({interval}, n = {int(row['n_examples'])})")
    say(f"The result is {out}")


def tune(
    model: Positional[Model],
    out: Path,
    unit: Literal["head", "kv_group", "attention", "all"] = "kv_group",
    ratio: float = 0.04,
    control: bool = False,
    kv: bool | None = None,
    dialogues: int = 3840,
    insist_only: bool = False,
    steps: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    n: int = 100,
    questions: Path | None = None,
    measure: int = 0,
    progress: bool = True,
) -> None:
    """Tune only the heads or KV groups that cause giving in, and save a Hugging Face checkpoint.

    Example: workbench tune organism-gqa --out tuned --learning-rate 1e-3 --measure 100

    Example: torchrun --nproc-per-node 2 -m workbench tune my-model --questions train.json --out tuned

    Args:
        model: Organism name, local folder of safetensors, or Hub id.
        out: Folder for the checkpoint; its training state lies beside it, and a run that was stopped goes on.
        unit: What is selected by path patching and tuned; attention and all need no selection.
        ratio: Share of the units that is tuned.
        control: Tune as many random units instead, none of them selected.
        kv: Tune the key and value rows too; by default where no two heads share them.
        dialogues: Training dialogues: half insist on a right answer, half revise a wrong one.
        insist_only: Leave the revising half out.
        steps: Optimizer steps; by default the paper's.
        learning_rate: By default the paper's, which is for models of billions of parameters.
        seed: Of the dialogues, their order and the random units.
        n: Dialogue pairs for the selection.
        questions: For chat models that are no organism: a JSON file of multiple-choice questions, each with
            "question", "choices" and "answer" (an index). Every tenth is held out for validation and --measure.
        measure: Questions of the two-turn protocol that are asked before and after, for the model card.
        progress: Show a bar.
    """
    import workbench as wb
    from workbench.papers.cache import quiet_load
    from workbench.papers.measured import read_questions
    from workbench.patching import random_units
    from workbench.runs.files import check_writable
    from workbench.runs.processes import first_process
    from workbench.tuning.checkpoint import refuse_taken

    check_writable(out.parent)
    refuse_taken(out)
    loaded, asked = quiet_load(model), read_questions(questions)
    learnt, held = (None, None) if asked is None else ([q for i, q in enumerate(asked) if i % 10], asked[::10])
    pairs = wb.sycophancy.pairs(loaded, n=n, split="train", questions=learnt)
    chosen: Any = unit
    if unit in ("head", "kv_group"):
        chosen = wb.select_units(
            wb.path_patch(loaded, pairs, unit=unit, progress=progress), ratio, unit, metric="logit_diff"
        )
        chosen = random_units(chosen, 1, seed=seed)[0] if control else chosen
    opening = pairs.meta[0]["base"][0]
    system = opening["content"] if opening["role"] == "system" else ""
    make = functools.partial(wb.tuning.training_dialogues, insist_only=insist_only, seed=seed, system=system)
    given: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate, "seed": seed}
    tuned = wb.pinpoint_tune(
        loaded,
        make(dialogues, questions=learnt),
        chosen,
        recipe=wb.tuning.TuningRecipe(**{name: value for name, value in given.items() if value is not None}),
        kv=kv,
        validation=make(64, questions=held, split="test"),
        resume=out.parent / f"{out.name}.state",
        progress=progress,
    )
    folder = wb.save_pretrained(
        tuned.model, out, results=_before_and_after(loaded, tuned.model, held, measure, progress)
    )
    if first_process():
        say(f"Tuned {tuned.record.attrs['units']}. The checkpoint is {folder}")


def _before_and_after(
    model: HookedModel, tuned: HookedModel, questions: Any, n: int, progress: bool
) -> dict[str, dict[str, float]]:
    """The measures of the two-turn protocol for a model card; none where nothing is to be asked."""
    import workbench as wb

    if not n:
        return {}
    asked = None if questions is None else questions[:n]
    first, second = (wb.sycophancy.evaluate(one, asked, n=n, progress=progress)["pooled"] for one in (model, tuned))
    names = [str(name) for name in first["metric"].values]
    return {name: {"before": float(first.sel(metric=name)), "after": float(second.sel(metric=name))} for name in names}


def tradeoff(
    model: Positional[Model],
    out: Path = Path("tradeoff.nc"),
    ratios: tuple[float, ...] = (),
    arms: tuple[str, ...] = (),
    rates: tuple[float, ...] = (),
    seeds: int | None = None,
    draws: int | None = None,
    questions: Path | None = None,
    tasks: tuple[str, ...] = (),
    data: Path | None = None,
    run_code: bool = False,
    processes: int = 1,
    progress: bool = True,
) -> None:
    """Tune by groups, by heads, at random and as a whole, and compare what each is worth and costs.

    About a hundred trainings; each is kept when done, and a run that was stopped goes on. Draw the outcome with
    `workbench figure sycophancy/tradeoff-table --models OUT`, and ratio-sweep, before-after-patching, ability-loss.

    Example: workbench tradeoff organism-mqa --out mqa.nc --seeds 1 --draws 1

    Example: workbench tradeoff my-model --questions q.json --tasks gsm8k strategyqa --data benchmarks --arms group head

    Args:
        model: Organism name, local folder of safetensors, or Hub id.
        out: File for the result.
        ratios: Shares of the heads to tune; by default 2, 4 and 8 %, of an organism up to 25 %.
        arms: Of group, head, "random group", "random head", "same-layer group", "same-layer head", attention, all.
        rates: Learning rates of heads and groups to choose from, on questions of their own; by default the paper's.
        seeds: Trainings of each selected arm; 3 by default.
        draws: Of each random arm; 5 by default.
        questions: For chat models that are no organism: a JSON file of multiple-choice questions.
        tasks: Benchmarks of other abilities in `data`, as `workbench eval` knows them.
        data: Folder that holds the benchmarks' files.
        run_code: Run the programs that the model writes for humaneval, each confined in a process of its own.
        processes: At a time, each with a copy of the model.
        progress: Show a bar.
    """
    from workbench.papers.kv_groups.tradeoff import ORGANISM, Job, Plan, run
    from workbench.papers.kv_groups.tradeoff import summaries as words
    from workbench.papers.measured import read_questions
    from workbench.runs.files import check_writable

    check_writable(out.parent)
    plan = Plan() if questions is not None else ORGANISM
    wished: dict[str, Any] = {"ratios": ratios, "arms": arms, "seeds": seeds, "draws": draws}
    changes = {name: value for name, value in wished.items() if value}
    if ratios and plan.main not in ratios:
        changes["main"] = sorted(ratios)[len(ratios) // 2]
    if rates:
        changes["rates"] = {**plan.rates, "units": rates}
    job = Job(model, dataclasses.replace(plan, **changes), read_questions(questions), tasks, data, run_code)
    record = run(job, resume=out, processes=processes, progress=progress)
    say(words.paragraph(record))
    say(f"The result is {out}")


def say(thing: object) -> None:
    """One line on the standard output."""
    sys.stdout.write(f"{thing}\n")
