"""`workbench report|figure|check|fetch`: the page, single figures, self-checks of a model, and real models by name."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

import workbench as wb
from workbench.cli.options import Dialogues, File, Folder, Model, Progress, Scored, Source, TextFiles, Width, say, tell
from workbench.errors import InputError
from workbench.names import FigureFormat, Metric

Models = Annotated[
    tuple[Source, ...], arg(metavar="[MODEL ...]", help="Names of embedded models, local folders, or Hub ids.")
]


def report(
    models: Positional[Models] = ("organism-gqa", "organism-mha"),
    out: Folder = Path("workbench-report"),
    confounders: File | None = None,
    estimates: bool = False,
    progress: Progress = True,
    prompts: Dialogues = Dialogues(),
) -> None:
    """Which KV groups make models give in to a wrong objection? One HTML page with figures and data.

    Example: workbench report organism-gqa --out my-report

    Args:
        out: Folder for index.html and the measured data.
        confounders: A result of `workbench leaf find`, shown in a section.
        estimates: Estimate the effects from gradients too, and compare them with the exact ones.
    """
    page = wb.report(
        models,
        out,
        confounders=confounders,
        estimates=estimates,
        progress=progress,
        **prompts.asked,
    )
    say(f"The page is {page}")


def figure(
    name: Positional[Annotated[str, arg(metavar="[NAME]", help="One of `workbench figure list`.")]] = "",
    all: bool = False,
    models: Models = (),
    out: Folder = Path("figures"),
    metric: Metric | None = None,
    formats: tuple[FigureFormat, ...] = ("html", "json", "png", "pdf"),
    width: Width = "page",
    texts: TextFiles = (),
    score_answers: Scored = None,
    progress: Progress = True,
    prompts: Dialogues = Dialogues(),
) -> None:
    """What does a figure or table of the papers look like for my models?

    Example: workbench figure sycophancy/layer-sums --models organism-gqa --out figures

    Example: workbench figure --all --width column --out figures-for-columns

    Args:
        all: Draw every figure, of the models that each is about.
        models: Shown side by side; by default the figure's own.
        out: Folder for the figures and measured data.
        metric: The score; by default the logit ratio where it is sound, else the logit difference.
        formats: Which files to write. PNG and PDF need a Chrome or Chromium.
    """
    from workbench.papers.catalogue import check_name

    if bool(name) == all:
        raise InputError("Name one figure of `workbench figure list`, or give --all alone.")
    names = tuple(wb.papers.FIGURES) if all else (check_name(name),)
    from workbench.papers import drawing
    from workbench.plot.narrow import TooNarrow
    from workbench.prompts.samples import read_texts

    read, messages = read_texts(texts) or None, []
    for one in names:
        try:
            done = drawing.draw(
                one,
                models or None,
                out,
                texts=read,
                metric=metric,
                formats=formats,
                width=width,
                score_answers=score_answers,
                progress=progress,
                **prompts.asked,
            )
        except TooNarrow as refusal:
            if not all:
                raise
            messages.append(f"{one}: {refusal}")
            continue
        say(done.sentence, *(f"  {path}" for path in done.files))
        messages += [done.message] if done.message else []
    for message in dict.fromkeys(messages):
        tell(message)


def list_figures() -> None:
    """Which figures and tables are there?

    Example: workbench figure list
    """
    say(*(f"{name:40} {title}" for name, title in wb.papers.FIGURES.items()))


def check(model: Model) -> None:
    """Can results on this model be trusted? Its logits, residual stream, attention, KV map, padding and BOS.

    Example: workbench check organism-gqa
    """
    from workbench.models.checks import table
    from workbench.papers.cache import quiet_load

    say(table(wb.check(quiet_load(model))))


def fetch(name: Positional[Annotated[str, arg(metavar="NAME", help="Such as smollm2-135m-instruct.")]]) -> None:
    """Which real models can be used without a network? Puts one into the cache, from where its name loads it.

    The cache is your own for this package, or the folder in WORKBENCH_CACHE.

    Example: workbench fetch smollm2-135m-instruct
    """
    from workbench.models.fetch import fetch as fetched

    say(f"The model is {fetched(name)}")
