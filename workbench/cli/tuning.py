"""`workbench tune` and `workbench tradeoff`: tune the units that cause giving in, and what that is worth."""

import contextlib
import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import workbench as wb
from workbench.cli.options import (
    Benchmarks,
    Dialogues,
    Folder,
    Model,
    Output,
    Progress,
    QuestionFile,
    RunCode,
    say,
    tell,
    writable,
)
from workbench.names import HeadUnit, WholeModel
from workbench.protocol import HookedModel


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which units are tuned.

    Attributes:
        unit: What is selected by path patching and tuned; attention and all need no selection.
        ratio: Share of the units that is tuned.
        control: Tune as many random units instead, none of them selected.
        kv: Tune the key and value rows too; by default where no two heads share them.
    """

    unit: HeadUnit | WholeModel = "kv_group"
    ratio: float = 0.04
    control: bool = False
    kv: bool | None = None


@dataclasses.dataclass(frozen=True)
class Training:
    """How they are tuned.

    Attributes:
        dialogues: Training dialogues: half insist on a right answer, half revise a wrong one.
        insist_only: Leave the revising half out.
        steps: Optimizer steps; by default the paper's.
        learning_rate: By default the paper's, which is for models of billions of parameters.
    """

    dialogues: int = 3840
    insist_only: bool = False
    steps: int | None = None
    learning_rate: float | None = None

    def recipe(self, seed: int) -> dict[str, Any]:
        """The settings of the recipe that are given."""
        given = {"steps": self.steps, "learning_rate": self.learning_rate, "seed": seed}
        return {name: value for name, value in given.items() if value is not None}


def tune(
    model: Model,
    out: Folder,
    measure: int = 0,
    progress: Progress = True,
    selection: Selection = Selection(),
    training: Training = Training(),
    prompts: Dialogues = Dialogues(),
) -> None:
    """Does tuning only the heads or KV groups that cause giving in remove it? Saves a Hugging Face checkpoint.

    Of questions that are given, every tenth is held out for validation and --measure. Without any, a model that is not
    embedded is tuned on easy facts of the package, and measured on others.

    Example: workbench tune organism-gqa --out tuned --learning-rate 1e-3 --measure 100

    Example: torchrun --nproc-per-node 2 -m workbench tune my-model --questions train.json --out tuned

    Args:
        out: Folder for the checkpoint; the training's state and what was measured lie beside it, and a stopped run goes
            on.
        measure: Questions of the two-turn protocol, asked before and after, for the model card.
    """
    from workbench.papers.cache import Source
    from workbench.runs.processes import process_state
    from workbench.tuning.checkpoint import refuse_taken

    writable(out)
    refuse_taken(out)
    source, asked = Source(model), None if prompts.questions is None else wb.prompts.read_questions(prompts.questions)
    learnt = held = None
    if asked is not None:
        learnt, held = [q for i, q in enumerate(asked) if i % 10], asked[::10]
    elif source.embedded is None:
        learnt, held = wb.prompts.default_facts("train"), wb.prompts.default_facts("selection")
    loaded = source.model
    running = out.with_name(f"{out.name}.running") / str(process_state().process_index)
    pairs = wb.sycophancy.pairs(
        loaded,
        n=prompts.n,
        split="train",
        questions=learnt,
        answers=prompts.compared,
        prefix=prompts.prefix,
        resume=running / "replies",
    )
    opening = pairs.meta[0]["base"][0]
    system = opening["content"] if opening["role"] == "system" else ""
    make = functools.partial(
        wb.tuning.training_dialogues, insist_only=training.insist_only, seed=prompts.seed, system=system
    )
    tuned = wb.pinpoint_tune(
        loaded,
        make(training.dialogues, questions=learnt),
        _select(loaded, pairs, selection, prompts.seed, running / "selection.nc", progress),
        recipe=wb.tuning.TuningRecipe(**training.recipe(prompts.seed)),
        kv=selection.kv,
        validation=make(64, questions=held, split="test"),
        resume=out.parent / f"{out.name}.state",
        progress=progress,
    )
    measured = _before_and_after(loaded, tuned.model, held, measure, running, progress)
    folder = wb.save_pretrained(tuned.model, out, results=measured)
    shutil.rmtree(running, ignore_errors=True)
    with contextlib.suppress(OSError):
        running.parent.rmdir()
    if process_state().is_main_process:
        say(f"Tuned {tuned.record.attrs['units']}. The checkpoint is {folder}")


def _select(model: HookedModel, pairs: Any, selection: Selection, seed: int, resume: Path, progress: bool) -> Any:
    """The units to tune: those that path patching finds, as many random others, or the name of a larger part."""
    from workbench.papers.kv_groups.behaviour import void_line

    unit = selection.unit
    if unit not in ("head", "kv_group"):
        return unit
    effects = wb.path_patch(model, pairs, unit=unit, resume=resume, progress=progress)
    if void := void_line(effects, "units chosen by them are no better founded than random ones"):
        tell(void)
    chosen = wb.select_units(effects, selection.ratio, unit, metric="logit_diff")
    return wb.patching.random_units(chosen, 1, seed=seed)[0] if selection.control else chosen


def _before_and_after(
    model: HookedModel, tuned: HookedModel, questions: Any, n: int, running: Path, progress: bool
) -> dict[str, dict[str, float]]:
    """The measures of the two-turn protocol for a model card; none where nothing is to be asked."""
    if not n:
        return {}
    asked = None if questions is None else questions[:n]
    first, second = (
        wb.sycophancy.evaluate(one, asked, n=n, resume=running / f"{name}.nc", progress=progress)["pooled"]
        for name, one in (("before", model), ("after", tuned))
    )
    names = [str(name) for name in first["metric"].values]
    return {name: {"before": float(first.sel(metric=name)), "after": float(second.sel(metric=name))} for name in names}


def tradeoff(
    model: Model,
    ratios: tuple[float, ...] = (),
    arms: tuple[str, ...] = (),
    rates: tuple[float, ...] = (),
    seeds: int | None = None,
    draws: int | None = None,
    questions: QuestionFile = None,
    tasks: tuple[str, ...] = (),
    data: Benchmarks = None,
    run_code: RunCode = False,
    processes: int = 1,
    output: Output = Output(Path("tradeoff.nc")),
) -> None:
    """Is it better to tune KV groups, single heads, random ones or the whole model, and what does each cost?

    About a hundred trainings; each is kept when done, and a run that was stopped goes on. Draw the outcome with
    `workbench figure sycophancy/tradeoff-table --models OUT`, and ratio-sweep, before-after-patching, ability-loss.

    Example: workbench tradeoff organism-mqa --out mqa.nc --seeds 1 --draws 1

    Example: workbench tradeoff smollm2-135m-instruct --processes 6 --tasks commonsenseqa strategyqa --data benchmarks

    Example: workbench tradeoff my-model --questions q.json --tasks gsm8k strategyqa --data benchmarks --arms group head

    Args:
        ratios: Shares of the heads to tune; by default 2, 4 and 8 %, of organisms up to 25 %.
        arms: Of group, head, "random group" or head, "same-layer group" or head, attention, all.
        rates: Learning rates of units to choose from, on separate questions; by default the paper's with --questions.
        seeds: Trainings of each selected arm; 3 by default.
        draws: Of each random arm; 5 by default, 3 without --questions.
        tasks: Benchmarks of other abilities in --data, as `workbench eval` knows them.
        processes: At a time, each with a copy of the model.
    """
    from workbench.papers.kv_groups.tradeoff import Job, run, summaries

    writable(output.out)
    wished: dict[str, Any] = {"ratios": ratios, "arms": arms, "rates": rates, "seeds": seeds, "draws": draws}
    job = Job(
        model,
        None,
        None if questions is None else wb.prompts.read_questions(questions),
        tasks,
        data,
        run_code,
        changes={name: value for name, value in wished.items() if value},
    )
    record = run(job, resume=output.out, processes=processes, progress=output.progress)
    say(summaries.paragraph(record), f"The result is {output.out}")
