"""Draw one named figure of a paper: measure what its recipe needs, draw, and write the files."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from workbench.names import FigureFormat, FigureName, FigureWidth
from workbench.papers.catalogue import recipe
from workbench.papers.recipes import FigureRequest
from workbench.plot.export import FORMATS, save_figure
from workbench.runs.files import check_writable
from workbench.runs.progress import hidden


@dataclass(frozen=True)
class Done:
    """A drawn figure: its sentence, its files, and a message if a format was left out."""

    sentence: str
    files: list[Path]
    message: str | None


def draw(
    name: FigureName,
    models: Sequence[Any] | None = None,
    out: str | Path = "figures",
    *,
    formats: Sequence[FigureFormat] = FORMATS,
    width: FigureWidth = "page",
    progress: bool = True,
    **asked: Any,
) -> Done:
    """Draw a named figure for one or more models into `out/<name>.*`.

    Args:
        name: Such as "sycophancy/layer-sums".
        models: Anything that `load` takes; the models stand side by side. None takes the figure's own.
        out: Folder for the figures. What was measured is kept in its `data/` and used again.
        formats: Any of html, json, png, pdf.
        width: What it is printed on, a "page" or a "column".
        progress: Show a bar.
        asked: Further fields of `FigureRequest`.

    Raises:
        InputError: there is no such figure, the folder cannot be written, a model is refused, or the figure cannot be
            read at this width.
    """
    chosen = recipe(name)
    out = check_writable(out)
    request = FigureRequest(out / "data", chosen.models if models is None else models, **asked)
    with progress_bar([1.0] * chosen.steps(request), progress) as step:
        drawn = chosen.make(replace(request, step=step))
        files, message = save_figure(drawn.figure, out / name, formats, root=out, width=width)
    return Done(drawn.sentence, files, message)


@contextmanager
def progress_bar(costs: Sequence[float], shown: bool) -> Generator[Callable[[str], None]]:
    """A progress bar with the time left, and the function that begins its next step with a text.

    `costs` say how long each step takes in proportion to the others, about.
    """
    style = "{desc} |{bar}| {percentage:.0f}% [{elapsed} gone, about {remaining} left]"
    with tqdm(total=sum(costs), disable=hidden(shown), bar_format=style, smoothing=0) as bar:
        ended = iter([0.0, *costs])

        def step(text: str) -> None:
            bar.update(next(ended, 0.0))
            bar.set_description_str(text)

        yield step
        bar.update(bar.total - bar.n)
        bar.set_description_str("done")
