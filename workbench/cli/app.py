"""The command line: the same names and defaults as the functions, and plain messages for bad input.

Everything heavy is imported inside the commands, so that `workbench --help` answers at once.
"""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro
from tyro.conf import Positional, arg

from workbench.cli.leaf import LEAF, leaf
from workbench.cli.measure import Model, Texts, dormant, eval_, extreme, patch, say, sycophancy, tradeoff, tune
from workbench.errors import InputError
from workbench.names import FigureFormat, FigureName, Metric

BAD_INPUT = 2

Models = Annotated[tuple[str, ...], arg(metavar="[MODEL ...]")]


def report(
    models: Positional[Models] = ("organism-gqa", "organism-mha"),
    out: Path = Path("workbench-report"),
    n: int = 100,
    seed: int = 0,
    questions: Path | None = None,
    confounders: Path | None = None,
    progress: bool = True,
) -> None:
    """Write one HTML page that shows which KV groups make models give in to a wrong objection.

    Example: workbench report organism-gqa --out my-report

    Args:
        models: Organism names, local folders of safetensors, or Hub ids.
        out: Folder for index.html and the measured data.
        n: Number of dialogue pairs per model.
        seed: Seed of their draw.
        questions: For chat models that are no organism: a JSON file of multiple-choice questions, each with
            "question", "choices" and "answer" (an index).
        confounders: A result of `workbench leaf find`, shown in a section of its own.
        progress: Show a bar.
    """
    import workbench as wb

    page = wb.report(models, out, n=n, seed=seed, questions=questions, confounders=confounders, progress=progress)
    say(f"The page is {page}")


def figure(
    name: Positional[Annotated[str, arg(metavar="NAME")]],
    models: Models = (),
    texts: Texts = (),
    out: Path = Path("figures"),
    metric: Metric | None = None,
    formats: tuple[FigureFormat, ...] = ("html", "json", "png", "pdf"),
    n: int = 100,
    seed: int = 0,
    questions: Path | None = None,
    progress: bool = True,
) -> None:
    """Draw a figure or table of a paper for one or more models.

    Example: workbench figure sycophancy/layer-sums --models organism-gqa --out figures

    Args:
        name: Such as sycophancy/layer-sums or active-dormant/extreme-tokens; `workbench figure list` names all.
        models: Organism names, local folders of safetensors, or Hub ids; they stand side by side. By default
            organism-gqa beside organism-mha.
        texts: For the figures that read texts: DOMAIN=FILE each, .txt or .jsonl. By default short samples.
        out: Folder for the figures; what was measured is kept in its data/ and used again.
        metric: The score. By default the logit ratio where it is sound, else the logit difference.
        formats: Which files to write. PNG and PDF need a Chrome or Chromium.
        n: Number of dialogue pairs per model.
        seed: Seed of their draw.
        questions: For chat models that are no organism: a JSON file of multiple-choice questions, each with
            "question", "choices" and "answer" (an index).
        progress: Show a bar.
    """
    from workbench.papers.catalogue import FIGURES

    if name == "list":
        say("\n".join(f"{name:40} {title}" for name, title in FIGURES.items()))
        return
    from workbench.papers import drawing
    from workbench.papers.samples import read_texts

    done = drawing.draw(
        cast(FigureName, name),
        models or None,
        out,
        texts=read_texts(texts) or None,
        metric=metric,
        formats=formats,
        n=n,
        seed=seed,
        questions=questions,
        progress=progress,
    )
    say(done.sentence)
    for path in done.files:
        say(f"  {path}")
    if done.message:
        sys.stderr.write(done.message + "\n")


def check(model: Positional[Model]) -> None:
    """Check that a model can be trusted here: logits, residual stream, attention, KV map, padding, BOS.

    Example: workbench check organism-gqa

    Args:
        model: Organism name, local folder of safetensors, or Hub id.
    """
    import workbench as wb
    from workbench.models.checks import table
    from workbench.papers.cache import quiet_load

    say(table(wb.check(quiet_load(model))))


def organism(
    action: Positional[Literal["train"]],
    kv_heads: int,
    out: Path,
    seed: int = 0,
    steps: int | None = None,
    small: bool = False,
    data: Path | None = None,
    device: str | None = None,
    keep: int = 0,
) -> None:
    """Train one of the embedded models anew, from its recipe.

    Example: workbench organism train --kv-heads 2 --out my-organism --small

    Args:
        action: What to do.
        kv_heads: KV heads for the 8 query heads: 2 (GQA), 8 (MHA) or 1 (MQA).
        out: Folder for weights, configuration, tokenizer and the record of the training.
        seed: Seed of the weights and of the order of the data.
        steps: Optimizer steps; by default the recipe's.
        small: Train the small variant, which a CPU can do.
        data: Folder with corpora, or a file of token streams.
        device: Where to train; by default the GPU if there is one.
        keep: Keep the weights of about so many steps in OUT-checkpoints, for `figure active-dormant/training`.
    """
    from workbench.organisms.recipe import FULL_RECIPE, SMALL_RECIPE
    from workbench.organisms.train import spaced_steps, train_organism

    last = steps or (SMALL_RECIPE if small else FULL_RECIPE).steps
    kept = spaced_steps(last, keep) if keep else ()
    folder = train_organism(
        kv_heads, out, seed=seed, steps=steps, small=small, data=data, device=device, keep=kept, report=_tell
    )
    say(f"The model is {folder}")


COMMANDS: dict[str, Callable[..., Any]] = {
    "report": report,
    "patch": patch,
    "figure": figure,
    "extreme": extreme,
    "dormant": dormant,
    "sycophancy": sycophancy,
    "check": check,
    "tune": tune,
    "tradeoff": tradeoff,
    "eval": eval_,
    "leaf": leaf,
    "organism": organism,
}
GROUPS: dict[str, dict[str, Callable[..., Any]]] = {"leaf": LEAF}
"""Commands that are followed by another word."""


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 2 for input that cannot be used.

    Args:
        args: The command line; None takes the program's own.
    """
    words = list(sys.argv[1:] if args is None else args)
    group = words.pop(0) if words[:1] and words[0] in GROUPS else ""
    usual = warnings.formatwarning
    warnings.formatwarning = _plainly  # ty: ignore[invalid-assignment]
    try:
        tyro.extras.subcommand_cli_from_dict(
            GROUPS.get(group, COMMANDS),
            prog=f"workbench {group}".rstrip(),
            description="Which heads, KV groups and tokens of a model cause what it does.",
            args=words,
        )
    except InputError as error:
        sys.stderr.write(f"workbench: {error}\n")
        return BAD_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        warnings.formatwarning = usual
    return 0


def _plainly(message: Warning | str, *_where: object, **_more: object) -> str:
    """A warning as one line, without the place in the code that gave it."""
    return f"workbench: {message}\n"
