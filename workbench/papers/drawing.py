"""Draw one named figure of a paper: measure what its recipe needs, draw, and write the files."""

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from workbench.names import FigureFormat, FigureName, Metric, ScoreAnswers
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
    metric: Metric | None = None,
    formats: Sequence[FigureFormat] = FORMATS,
    n: int = 100,
    seed: int = 0,
    questions: Any = None,
    answers: Any = None,
    prefix: str = "",
    score_answers: ScoreAnswers | None = None,
    texts: Mapping[str, Sequence[Any]] | None = None,
    progress: bool = True,
) -> Done:
    """Draw a named figure for one or more models into `out/<name>.*`.

    Args:
        name: Such as "sycophancy/layer-sums".
        models: Anything that `load` takes; the models stand side by side. None takes the figure's own.
        out: Folder for the figures. What was measured is kept in its `data/` and used again.
        metric: The score; None takes the logit ratio where it is sound, else the logit difference.
        formats: Any of html, json, png, pdf.
        n: Number of dialogue pairs per model.
        seed: Seed of their draw.
        questions: For chat models that are not embedded: questions, or a file of them; by default easy facts.
        answers: Which beginnings of a reply are compared, as `sycophancy.pairs` takes them.
        prefix: A beginning of the reply that is forced on both sides.
        score_answers: By "letter" or "text", for figures of accuracy on such questions.
        texts: Texts by domain, for the figures that read texts; None takes samples that come with the package.
        progress: Show a bar.

    Raises:
        InputError: there is no such figure, the folder cannot be written, or a model is refused.
    """
    chosen = recipe(name)
    out = check_writable(out)
    request = FigureRequest(
        out / "data",
        chosen.models if models is None else models,
        texts,
        metric,
        n,
        seed,
        questions,
        answers,
        prefix,
        score_answers,
    )
    with progress_bar([1.0] * chosen.steps(request), progress) as step:
        drawn = chosen.make(dataclasses.replace(request, step=step))
        files, message = save_figure(drawn.figure, out / name, formats, root=out)
    return Done(drawn.sentence, files, message)


@contextmanager
def progress_bar(costs: Sequence[float], shown: bool) -> Generator[Callable[[str], None]]:
    """A progress bar with the time left, and the function that begins its next step with a text.

    Args:
        costs: How long each step takes in proportion to the others, about.
        shown: Whether anything is shown.
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
