"""The commands of LeaF, `workbench leaf find|distill|toy`, with the names and defaults of the functions they call."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from workbench.cli.measure import say
from workbench.names import Alignment, PruneBy, Reading, TokenScoreName

Name = Annotated[str, arg(metavar="MODEL")]


def find(
    student: Name,
    teacher: Name,
    data: str | None = None,
    n: int | None = 100,
    split: str = "train",
    level: Literal["instruction", "response"] = "instruction",
    segments: int = 2,
    suffix: str = "",
    cut_last: int = 0,
    score: TokenScoreName = "gradient_difference",
    threshold: tuple[float, ...] = (0.10,),
    reading: Reading = "quantile",
    how: PruneBy = "span",
    match: str = "number",
    max_new_tokens: int | None = None,
    align: Alignment = "ids",
    retokenize: bool = False,
    seed: int = 0,
    out: Path = Path("confounders.nc"),
    resume: bool = False,
    progress: bool = True,
) -> None:
    """Find the tokens that confound a student and not its teacher, and prove each by taking it out.

    Beside the result lie a page that shows the prompts, and the counterfactual examples as JSON lines.

    Example: workbench leaf find --student organism-mqa --teacher organism-gqa --out found.nc

    Example: workbench leaf find --student my-1b --teacher my-8b --data gsm8k/train.jsonl --threshold 0.05 0.10 0.15

    Args:
        student: Organism name, local folder of safetensors, or Hub id.
        teacher: Another, which reads the same token ids.
        data: A .jsonl, .json or .csv file of questions and answers, as GSM8K's, or a data set of the Hub. By default
            word problems for organisms, with a sentence that does not matter.
        n: The first so many rows.
        split: Of a data set of the Hub.
        level: What may be pruned: instruction, or the response's own earlier part.
        segments: At response level, into how many parts each response is split.
        suffix: A request behind every instruction; it is not pruned.
        cut_last: So many of the last tokens of the instruction are not pruned.
        score: One of the scores of workbench.leaf.SCORES.
        threshold: Fractions.
        reading: What a threshold means: quantile (the released code) or absolute (the paper's text).
        how: One counterfactual per span, or a collective one.
        match: How an answer is read: letter, number, yes_no, gsm8k_strict or gsm8k_flexible.
        max_new_tokens: Tokens of a reply; by default 256.
        align: ids, or characters for models with different tokenizers.
        retokenize: Tokenize the shorter texts anew instead of deleting ids.
        seed: Of the random score and of the word problems.
        out: File for the result.
        resume: Keep finished pieces beside `out`, and go on from them if the run was stopped.
        progress: Show bars.
    """
    from workbench import leaf
    from workbench.papers.cache import quiet_load
    from workbench.plot.confounders import confounders, summary
    from workbench.reporting import page
    from workbench.runs.files import check_writable, write_text
    from workbench.runs.results import save_result

    check_writable(out.parent)
    models = quiet_load(student), quiet_load(teacher)
    if data is None:
        examples = leaf.word_problems(models[0], n or 100, seed)
    else:
        examples = leaf.read_examples(models[0], data, n=n, split=split, suffix=suffix, cut_last=cut_last)
    if level == "response":
        examples = leaf.split_responses(models[0], examples, segments)
    found = leaf.confounders(
        *models,
        examples,
        score=score,
        threshold=threshold,
        reading=reading,
        how=how,
        match=match,
        max_new_tokens=max_new_tokens,
        align=align,
        retokenize=retokenize,
        seed=seed,
        resume=str(out) if resume else None,
        progress=progress,
    )
    if not resume:
        save_result(found, out)
    shown = page.document("Confounding tokens", f"<main>{confounders(found)}</main>", plots=False)
    html = write_text(out.with_suffix(".html"), shown)
    made = leaf.counterfactuals(examples, found, retokenize=models[0] if retokenize else None)
    pairs = leaf.write_examples([p.example for p in made], out.with_suffix(".counterfactuals.jsonl"))
    say(summary(found))
    for path in (out, html, pairs):
        say(f"  {path}")


def distill(
    student: Name,
    teacher: Name,
    data: str,
    out: Path,
    counterfactuals: Path | None = None,
    n: int | None = None,
    split: str = "train",
    mix: float | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    cache: Path | None = None,
    steps: int | None = None,
    epochs: float = 3.0,
    learning_rate: float = 1e-5,
    batch_size: int = 32,
    micro_batch: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Distil a copy of the student on data and on counterfactuals, and save it as a Hugging Face checkpoint.

    Example: workbench leaf distill --student my-1b --teacher my-8b --data gsm8k/train.jsonl
    --counterfactuals confounders.counterfactuals.jsonl --top-k 64 --out distilled

    Args:
        student: Organism name, local folder of safetensors, or Hub id.
        teacher: Another, which reads the same token ids.
        data: A .jsonl, .json or .csv file of questions and answers, or a data set of the Hub: the originals.
        out: Folder for the checkpoint; the run's state lies beside it, and a run that was stopped goes on.
        counterfactuals: JSON lines that `workbench leaf find` wrote. Without them this is plain distillation.
        n: The first so many rows of the data.
        split: Of a data set of the Hub.
        mix: The weight of the originals' loss, from 0 to 1; by default originals and counterfactuals are one pile.
        temperature: Of both distributions.
        top_k: Keep so many of the teacher's likeliest tokens on disk instead of running it in the loop.
        cache: Folder for them; by default beside `out`.
        steps: Updates; by default `epochs`.
        epochs: Passes over the data.
        learning_rate: The highest; it falls to zero along a cosine.
        batch_size: Examples per update.
        micro_batch: Examples per forward pass.
        seed: Of the order.
        progress: Show bars.
    """
    import workbench as wb
    from workbench import leaf
    from workbench.papers.cache import quiet_load
    from workbench.runs.files import check_writable
    from workbench.runs.results import save_result
    from workbench.tuning.checkpoint import refuse_taken

    def beside(ending: str) -> Path:
        return out.with_name(out.name + ending)

    check_writable(out.parent)
    refuse_taken(out)
    models = quiet_load(student), quiet_load(teacher)
    examples = leaf.read_examples(models[0], data, n=n, split=split)
    others = leaf.read_examples(models[0], counterfactuals) if counterfactuals else []
    made = leaf.distill(
        *models,
        examples,
        others,
        mix="concat" if mix is None else mix,
        temperature=temperature,
        top_k=top_k,
        cache=cache or beside(".teacher"),
        steps=steps,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        micro_batch=micro_batch,
        seed=seed,
        resume=beside(".state"),
        progress=progress,
    )
    record = save_result(made.record, beside(".nc"))
    loss = made.record["loss"].values
    say(f"{len(examples)} originals and {len(others)} counterfactuals, {len(loss)} updates.")
    say(f"The loss went from {loss[0]:.4f} to {loss[-1]:.4f}.")
    for path in (wb.save_pretrained(made.model, out), record):
        say(f"  {path}")


def toy(
    out: Path = Path("leaf-toy.nc"),
    regimes: tuple[str, ...] = ("B",),
    seeds: tuple[int, ...] = (0,),
    small: bool = False,
    every_arm: bool = False,
    processes: int = 2,
    progress: bool = True,
) -> None:
    """Run the planted experiment: train teachers and students, find the planted tokens, prune, distil, compare.

    A regime and seed takes about a minute on one core, and schooling as much before, which --small does not shorten.
    A run that was stopped goes on.

    Example: workbench leaf toy --regimes B A N P D --seeds 1 2 3 4 5 6 --processes 16 --out record.nc

    Args:
        out: File for the result; the models lie in `models` beside it.
        regimes: B (strongly misled), A (weakly), S (small corpus), N (unseen noise), P (the same, prompts learnt),
            D (smaller student).
        seeds: One teacher each, and one student per regime.
        small: Fewer updates, examples, tests and arms.
        every_arm: Distil in every way that was tried, not only in those that were taken over to fresh students.
        processes: Cells at a time.
        progress: Show bars.
    """
    from workbench import leaf
    from workbench.papers.leaf.figures import findings

    size = leaf.toy.SMALL if small else leaf.toy.Size()
    if every_arm:
        size = dataclasses.replace(size, arms=tuple(leaf.toy.WAYS))
    found = leaf.toy.run(out, regimes, seeds, size=size, processes=processes, progress=progress)
    for line in findings(found):
        say(line)
    say(f"The result is {out}")


LEAF: dict[str, Callable[..., Any]] = {"find": find, "distill": distill, "toy": toy}
"""What follows `workbench leaf`."""


def leaf() -> None:
    """Find what distracts a student from its teacher's answers, and distil: `workbench leaf find|distill|toy`."""
