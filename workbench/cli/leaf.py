"""`workbench leaf find|check|distill|toy`, with the names and defaults of the functions they call."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

import workbench as wb
from workbench.cli.options import Data, File, Folder, Output, Progress, Resumable, Seed, Source, finish, say, writable
from workbench.names import Alignment, ExampleMatch, PruneBy, Reading, ScoreAnswers, TokenScoreName

Student = Annotated[Source, arg(help="Name of an embedded model, local folder of safetensors, or Hub id.")]
Teacher = Annotated[Source, arg(help="Another, which reads the same token ids.")]
Rows = Annotated[int | None, arg(help="The first so many rows.")]
Split = Annotated[str, arg(help="Of a data set of the Hub.")]


@dataclasses.dataclass(frozen=True)
class Questions:
    """The examples that both models are given.

    Attributes:
        data: A .jsonl, .json or .csv file of questions and answers, as GSM8K's or CommonsenseQA's, or a data set of
            the Hub. By default word problems for embedded models, with a sentence that does not matter.
        level: What may be pruned: the instruction, or the response's own earlier part.
        segments: At response level, into how many parts each response is split.
        suffix: A request after every instruction; it is not pruned.
        cut_last: So many of the last tokens of the instruction are not pruned.
        protect: What is not pruned: options, numbers, or regular expressions. Nothing: --protect alone.
        choices: Ask questions with choices for the letter of a listed one (--match letter) or for a text (--match
            text).
    """

    data: Data | None = None
    n: Rows = 100
    split: Split = "train"
    level: Literal["instruction", "response"] = "instruction"
    segments: int = 2
    suffix: str = ""
    cut_last: int = 0
    protect: tuple[str, ...] = ("options",)
    choices: ScoreAnswers = "letter"

    def examples(self, student: Source, teacher: Source, seed: int) -> tuple[list, list]:
        """Both models and the examples in the student's tokens; refused before anything is loaded."""
        from workbench.papers import cache

        first = cache.Source(student)
        if self.data is None:
            first.require_own_questions("give --data FILE.", "it was not taught these word problems")
        models = [first.model, cache.quiet_load(teacher)]
        if self.data is None:
            made = wb.leaf.word_problems(models[0], self.n or 100, seed)
        else:
            options = {name: getattr(self, name) for name in ("n", "split", "suffix", "cut_last", "protect", "choices")}
            made = wb.leaf.read_examples(models[0], self.data, **options)
        if self.level == "response":
            made = wb.leaf.split_responses(models[0], made, self.segments)
        return models, made


@dataclasses.dataclass(frozen=True)
class Asking:
    """How replies are made and judged, and how many random spans stand beside each found one.

    Attributes:
        match: How an answer is read.
        max_new_tokens: Tokens of a reply; by default 256. A reply that is cut counts neither as right nor as wrong.
        stop: Strings that end a reply, beside Question: for models without a chat template.
        align: characters for models with different tokenizers.
        reading: What a threshold means: quantile (the released code) or absolute (the paper's text).
        draws: Random spans of the same length per candidate span, verified alike as the control.
        seed: Of the random score, the random spans and the word problems.
    """

    match: ExampleMatch = "number"
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    align: Alignment = "ids"
    reading: Reading = "quantile"
    draws: int = 5
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Pruning(Asking):
    """How confounding tokens are found and verified.

    Attributes:
        score: By what tokens are ranked.
        threshold: Fractions.
        how: One counterfactual per span, or a collective one.
        retokenize: Tokenize the shorter texts anew instead of deleting ids.
    """

    score: TokenScoreName = "gradient_difference"
    threshold: tuple[float, ...] = (0.10,)
    how: PruneBy = "span"
    retokenize: bool = False


def find(
    student: Student,
    teacher: Teacher,
    questions: Questions = Questions(),
    pruning: Pruning = Pruning(),
    output: Resumable = Resumable(Path("confounders.nc")),
) -> None:
    """Which tokens mislead a student but not its teacher? Each is verified by removing it, and beside random ones.

    Beside the result lie a page that shows the prompts, and the counterfactual examples as JSON lines, a file for each
    threshold. With --resume a stopped run goes on.

    Example: workbench leaf find --student organism-mqa --teacher organism-gqa --out found.nc

    Example: workbench leaf find --student my-1b --teacher my-8b --data gsm8k/train.jsonl --threshold 0.05 0.10 0.15

    Example: workbench leaf find --student my-1b --teacher my-8b --data csqa.jsonl --match letter --protect options
    """
    from workbench.plot.confounders import chance_rows, confounders, summary
    from workbench.reporting import page
    from workbench.runs.files import write_text

    out = output.out
    writable(out)
    models, examples = questions.examples(student, teacher, pruning.seed)
    options = dataclasses.asdict(pruning)
    found = wb.leaf.confounders(*models, examples, **options, resume=output.journal, progress=output.progress)
    shown = page.document("single", "Confounding tokens", plots=False, content=confounders(found))
    lines = [summary(found), f"  {write_text(out.with_suffix('.html'), shown)}"]
    several, anew = len(pruning.threshold) > 1, models[0] if pruning.retokenize else None
    for tau, row in zip(pruning.threshold, chance_rows(found), strict=False):
        pairs = out.with_suffix(f".{tau:g}.counterfactuals.jsonl" if several else ".counterfactuals.jsonl")
        made = wb.leaf.counterfactuals(examples, found, threshold=tau, retokenize=anew)
        if several:
            lines.append(f"Threshold {tau:g}: rescued {row[3]}, by random spans {row[4]}, {row[5]} points.")
        if made:
            lines.append(f"  {wb.leaf.write_examples([p.example for p in made], pairs)}")
        else:
            pairs.unlink(missing_ok=True)
            lines.append("  No span is verified, so there are no counterfactual examples to write.")
    finish(found, out, *lines)


def check(
    student: Student,
    teacher: Teacher,
    questions: Questions = Questions(),
    scores: tuple[TokenScoreName, ...] = (),
    threshold: float = 0.10,
    asking: Asking = Asking(),
    output: Resumable = Resumable(Path("causal-check.nc")),
) -> None:
    """Does an answer turn right without the span that a score ranks first, and more often than without a random one?

    Beside the result lies its figure.

    Example: workbench leaf check --student organism-mqa --teacher organism-gqa --n 400 --out check.nc

    Args:
        scores: By default all of them.
        threshold: A fraction: how far the span around the first token reaches.
    """
    from workbench.plot.causal import causal_check
    from workbench.plot.export import save_figure

    out = output.out
    writable(out)
    models, examples = questions.examples(student, teacher, asking.seed)
    options: dict[str, Any] = dict(scores=scores or "all", threshold=threshold, **dataclasses.asdict(asking))
    checked = wb.leaf.check_scores(*models, examples, **options, resume=output.journal, progress=output.progress)
    title = f"{checked.attrs['student']} misled, {checked.attrs['teacher']} not: what each score finds"
    [drawn], _ = save_figure(causal_check(checked, title=title), out.with_suffix(""), ("html",))
    rows = []
    for score in checked.sortby("excess", ascending=False)["score"].values:
        one = checked.sel(score=score)
        right, chance, excess, low, high = (
            100 * float(one[name]) for name in ("accepted_share", "chance_share", "excess", "excess_low", "excess_high")
        )
        rows.append(f"  {score:<28}{right:6.0f} %{chance:8.0f} %{excess:+8.0f} ({low:+.0f} to {high:+.0f})")
    counts = {name: checked.attrs[f"n_{name}"] for name in ("examples", "misled")}
    finish(
        checked,
        out,
        f"{counts['misled']} of {counts['examples']} examples mislead {checked.attrs['student']} and not "
        f"{checked.attrs['teacher']}. Both are right without the span that a score ranks first, and without random "
        f"spans of the same lengths ({asking.draws} draws):",
        f"  {'score':<28}{'first':>8}{'random':>10}{'excess in points (95 %)':>27}",
        *rows,
        f"  {drawn}",
    )


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
    arms: tuple[str, ...] = (),
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
        arms: Ways to distil by name, such as KD "misled, half" "disagreeing, half"; none: all.
        small: Fewer updates, examples, tests and arms.
        processes: Trainings at a time.
    """
    from workbench.papers.leaf.figures import findings

    writable(output.out)
    size = wb.leaf.toy.SMALL if small else wb.leaf.toy.Size()
    size = dataclasses.replace(size, arms=arms or size.arms)
    found = wb.leaf.toy.run(output.out, regimes, seeds, size=size, processes=processes, progress=output.progress)
    say(*findings(found), f"The result is {output.out}")
