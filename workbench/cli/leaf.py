"""`workbench leaf find|distill|toy`, with the names and defaults of the functions they call."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

import workbench as wb
from workbench.cli.options import Data, File, Folder, Output, Progress, Resumable, Seed, Source, finish, say, writable
from workbench.names import Alignment, PruneBy, Reading, ReplyMatch, TokenScoreName

Student = Annotated[Source, arg(help="Name of an embedded model, local folder of safetensors, or Hub id.")]
Teacher = Annotated[Source, arg(help="Another, which reads the same token ids.")]
Rows = Annotated[int | None, arg(help="The first so many rows.")]
Split = Annotated[str, arg(help="Of a data set of the Hub.")]


@dataclasses.dataclass(frozen=True)
class Questions:
    """The examples that both models are given.

    Attributes:
        data: A .jsonl, .json or .csv file of questions and answers, as GSM8K's, or a data set of the Hub. By default
            word problems for embedded models, with a sentence that does not matter.
        level: What may be pruned: the instruction, or the response's own earlier part.
        segments: At response level, into how many parts each response is split.
        suffix: A request after every instruction; it is not pruned.
        cut_last: So many of the last tokens of the instruction are not pruned.
    """

    data: Data | None = None
    n: Rows = 100
    split: Split = "train"
    level: Literal["instruction", "response"] = "instruction"
    segments: int = 2
    suffix: str = ""
    cut_last: int = 0


@dataclasses.dataclass(frozen=True)
class Pruning:
    """How confounding tokens are found and verified.

    Attributes:
        score: By what tokens are ranked.
        threshold: Fractions.
        reading: What a threshold means: quantile (the released code) or absolute (the paper's text).
        how: One counterfactual per span, or a collective one.
        match: How an answer is read.
        max_new_tokens: Tokens of a reply; by default 256.
        align: characters for models with different tokenizers.
        retokenize: Tokenize the shorter texts anew instead of deleting ids.
        draws: Random spans of the same length per candidate span, verified alike as the control.
        seed: Of the random score, the random spans and the word problems.
    """

    score: TokenScoreName = "gradient_difference"
    threshold: tuple[float, ...] = (0.10,)
    reading: Reading = "quantile"
    how: PruneBy = "span"
    match: ReplyMatch = "number"
    max_new_tokens: int | None = None
    align: Alignment = "ids"
    retokenize: bool = False
    draws: int = 5
    seed: int = 0


def find(
    student: Student,
    teacher: Teacher,
    questions: Questions = Questions(),
    pruning: Pruning = Pruning(),
    output: Resumable = Resumable(Path("confounders.nc")),
) -> None:
    """Which tokens mislead a student but not its teacher? Each is verified by removing it.

    Beside the result lie a page that shows the prompts, and the counterfactual examples as JSON lines.

    Example: workbench leaf find --student organism-mqa --teacher organism-gqa --out found.nc

    Example: workbench leaf find --student my-1b --teacher my-8b --data gsm8k/train.jsonl --threshold 0.05 0.10 0.15
    """
    from workbench.papers import cache
    from workbench.plot.confounders import confounders, summary
    from workbench.reporting import page
    from workbench.runs.files import write_text

    out, asked = output.out, questions
    writable(out)
    first = cache.Source(student)
    if asked.data is None:
        first.require_own_questions("give --data FILE.", "it was not taught these word problems")
    models = first.model, cache.quiet_load(teacher)
    if asked.data is None:
        examples = wb.leaf.word_problems(models[0], asked.n or 100, pruning.seed)
    else:
        examples = wb.leaf.read_examples(
            models[0], asked.data, n=asked.n, split=asked.split, suffix=asked.suffix, cut_last=asked.cut_last
        )
    if asked.level == "response":
        examples = wb.leaf.split_responses(models[0], examples, asked.segments)
    options = dataclasses.asdict(pruning)
    found = wb.leaf.confounders(*models, examples, **options, resume=output.journal, progress=output.progress)
    shown = page.document("single", "Confounding tokens", plots=False, content=confounders(found))
    html = write_text(out.with_suffix(".html"), shown)
    made = wb.leaf.counterfactuals(examples, found, retokenize=models[0] if pruning.retokenize else None)
    pairs = wb.leaf.write_examples([p.example for p in made], out.with_suffix(".counterfactuals.jsonl"))
    finish(found, out, summary(found), f"  {html}", f"  {pairs}")


@dataclasses.dataclass(frozen=True)
class Distilling:
    """How the student is distilled.

    Attributes:
        mix: The weight of the originals' loss, from 0 to 1; by default originals and counterfactuals are mixed as one
            set.
        temperature: Of both distributions.
        top_k: Keep so many of the teacher's likeliest tokens on disk, and run it only once.
        cache: Folder for them; by default beside --out.
        steps: Updates; by default --epochs.
        epochs: Passes over the data.
        learning_rate: The highest; it falls to zero along a cosine.
        batch_size: Examples per update.
        micro_batch: Examples per forward pass.
    """

    mix: float | None = None
    temperature: float = 1.0
    top_k: int | None = None
    cache: Folder | None = None
    steps: int | None = None
    epochs: float = 3.0
    learning_rate: float = 1e-5
    batch_size: int = 32
    micro_batch: int = 8
    seed: Seed = 0


def distill(
    student: Student,
    teacher: Teacher,
    data: Data,
    out: Folder,
    counterfactuals: File | None = None,
    n: Rows = None,
    split: Split = "train",
    progress: Progress = True,
    distilling: Distilling = Distilling(),
) -> None:
    """Does a student learn more from its teacher when distracting tokens are removed? Saves a checkpoint.

    Example: workbench leaf distill --student my-1b --teacher my-8b --data gsm8k/train.jsonl
    --counterfactuals confounders.counterfactuals.jsonl --top-k 64 --out distilled

    Args:
        data: A .jsonl, .json or .csv file of questions and answers, or a data set of the Hub.
        out: Folder for the checkpoint; the run's state lies beside it, and a stopped run goes on.
        counterfactuals: JSON lines that `workbench leaf find` wrote. Without them this is plain distillation.
    """
    from workbench.papers.cache import quiet_load
    from workbench.runs.results import save_result
    from workbench.tuning.checkpoint import refuse_taken

    def beside(ending: str) -> Path:
        return out.with_name(out.name + ending)

    writable(out)
    refuse_taken(out)
    models = quiet_load(student), quiet_load(teacher)
    examples = wb.leaf.read_examples(models[0], data, n=n, split=split)
    others = wb.leaf.read_examples(models[0], counterfactuals) if counterfactuals else []
    options = dataclasses.asdict(distilling)
    options["mix"] = "concat" if distilling.mix is None else distilling.mix
    options["cache"] = distilling.cache or beside(".teacher")
    made = wb.leaf.distill(*models, examples, others, **options, resume=beside(".state"), progress=progress)
    record = save_result(made.record, beside(".nc"))
    loss = made.record["loss"].values
    say(
        f"{len(examples)} originals and {len(others)} counterfactuals, {len(loss)} updates.",
        f"The loss went from {loss[0]:.4f} to {loss[-1]:.4f}.",
        f"  {wb.save_pretrained(made.model, out)}",
        f"  {record}",
    )


def toy(
    regimes: tuple[str, ...] = ("B",),
    seeds: tuple[int, ...] = (0,),
    small: bool = False,
    processes: int = 2,
    output: Output = Output(Path("leaf-toy.nc")),
) -> None:
    """Does pruning help where the distracting tokens are known? Train, find, prune, distil and compare small models.

    A regime and seed takes about a minute on one core, and training the teachers as much before, which --small does
    not shorten. The models lie in `models` beside the result; a run that was stopped goes on.

    Example: workbench leaf toy --regimes B A N P D --seeds 1 2 3 4 5 6 --processes 16 --out record.nc

    Args:
        regimes: B (strongly misled), A (weakly), S (small corpus), N (unseen noise), P (the same, prompts learnt), D
            (smaller student).
        seeds: One teacher each, and one student per regime.
        small: Fewer updates, examples, tests and arms.
        processes: Trainings at a time.
    """
    from workbench.papers.leaf.figures import findings

    writable(output.out)
    size = wb.leaf.toy.SMALL if small else wb.leaf.toy.Size()
    found = wb.leaf.toy.run(output.out, regimes, seeds, size=size, processes=processes, progress=output.progress)
    say(*findings(found), f"The result is {output.out}")
