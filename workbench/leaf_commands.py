"""The commands of LeaF: `workbench leaf find`, each with the names and the defaults of the function that it calls."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from workbench.commands import say

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
    score: str = "gradient_difference",
    threshold: tuple[float, ...] = (0.10,),
    reading: Literal["quantile", "absolute"] = "quantile",
    how: Literal["span", "collective"] = "span",
    match: str = "number",
    max_new_tokens: int | None = None,
    align: Literal["ids", "characters"] = "ids",
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
    from workbench import leaf, results
    from workbench.papers.keeping import quiet_load
    from workbench.plots import page
    from workbench.plots.confounders import confounders, summary

    results.check_writable(out.parent)
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
        results.save(found, out)
    shown = page.document("Confounding tokens", f"<main>{confounders(found)}</main>", plots=False)
    html = results.write_text(out.with_suffix(".html"), shown)
    made = leaf.counterfactuals(examples, found, retokenize=models[0] if retokenize else None)
    pairs = leaf.write_examples([p.example for p in made], out.with_suffix(".counterfactuals.jsonl"))
    say(summary(found))
    for path in (out, html, pairs):
        say(f"  {path}")


LEAF: dict[str, Callable[..., Any]] = {"find": find}
"""What follows `workbench leaf`."""


def leaf() -> None:
    """Find what distracts a student model from its teacher's answers: `workbench leaf find`."""
