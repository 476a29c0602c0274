"""Figure recipes: the request, the recipe and the drawn figure, the same types for every paper.

A `FigureRecipe` has a name such as "sycophancy/layer-sums". It measures what it needs of each model, keeps that under
the request's folder, and draws; a figure always comes with one sentence computed from the same data. What a figure
shows of one model is a `Panel`: figures by name put panels side by side, the report sets them under its own headings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from workbench.errors import InputError
from workbench.names import Metric, ScoreAnswers
from workbench.papers.cache import Source
from workbench.plot import compose

PAIR = ("organism-gqa", "organism-mha")
TRIO = (*PAIR, "organism-mqa")
ORGANISMS = (
    "Models named organism-… are model organisms: small chat models trained to give in when their answer is doubted."
)


@dataclass(frozen=True)
class FigureRequest:
    """The models, texts and settings to make a figure from.

    Attributes:
        folder: where measured Datasets are kept and found again.
        models: anything that `load` takes; they stand side by side. Figures of toy models need none.
        texts: texts by domain, for the figures that read texts; None takes samples that come with the package.
        metric: the patching score; None lets the recipe choose.
        n: dialogues (or texts) per model.
        seed: of their draw.
        questions: for chat models that are not embedded.
        answers: which beginnings of a reply are compared, as `sycophancy.pairs` takes them.
        prefix: a beginning of the reply that is forced on both sides.
        score_answers: how questions with choices are asked, see `inactive_heads.choices`.
        step: called with a text when the next piece of work begins.
    """

    folder: Path
    models: Sequence[Any] = ()
    texts: Mapping[str, Sequence[Any]] | None = None
    metric: Metric | None = None
    n: int = 100
    seed: int = 0
    questions: Any = None
    answers: Any = None
    prefix: str = ""
    score_answers: ScoreAnswers | None = None
    step: Callable[[str], None] = field(default=lambda text: None, compare=False)


@dataclass(frozen=True)
class Drawn:
    """A figure and the sentence that was computed from the same data."""

    figure: go.Figure
    sentence: str


@dataclass(frozen=True)
class Panel(Drawn):
    """What a figure shows of one model.

    Attributes:
        label: what is drawn, for readers who cannot see it.
        numbers: the plotted numbers as columns of a table.
        unit: what the numbers are.
    """

    label: str = ""
    numbers: Mapping[str, Sequence[object]] = field(default_factory=dict)
    unit: str = ""


@dataclass(frozen=True)
class FigureRecipe:
    """A recipe for one figure of a paper.

    Attributes:
        name: such as "sycophancy/layer-sums".
        draw: makes the figure from what was measured; without arguments where nothing is measured.
        measure: measures the models; see `each`. None for figures that are drawn from records of the package.
        models: drawn where the request names none.
        pieces: pieces of work on each model, for the progress bar.
    """

    name: str
    draw: Callable[..., Drawn]
    measure: Callable[[Sequence[Source], FigureRequest], Any] | None = None
    models: tuple[str, ...] = ()
    pieces: int = 1

    def steps(self, request: FigureRequest) -> int:
        """How often `request.step` is called: the pieces of work on each model, and one for drawing."""
        return 1 if self.measure is None else self.pieces * len(request.models) + 1

    def make(self, request: FigureRequest) -> Drawn:
        """Measure what is needed, or read it, and draw.

        Raises:
            InputError: no model, two of one name, or what measuring refuses.
        """
        found = () if self.measure is None else (self._measured(self.measure, request),)
        request.step(f"{self.name}: drawing")
        return captioned(self.name, self.draw(*found))

    def _measured(self, measure: Callable[[Sequence[Source], FigureRequest], Any], request: FigureRequest) -> Any:
        if not request.models:
            raise InputError(f"{self.name} needs at least one model, such as 'organism-gqa'.")
        return measure([Source(model) for model in request.models], request)


def captioned(name: str, drawn: Drawn, **facts: Any) -> Drawn:
    """The figure with its name, its sentence and other facts in its `meta`; the sentence says what organisms are."""
    sentence = f"{drawn.sentence} {ORGANISMS}" if "organism-" in drawn.sentence else drawn.sentence
    drawn.figure.update_layout(meta={"figure": name, "sentence": sentence} | facts)
    return Drawn(drawn.figure, sentence)


def each(measure: Callable[[Source, FigureRequest], Any]) -> Callable[[Sequence[Source], FigureRequest], dict]:
    """Measure every model by itself, into a mapping from its name."""

    def measured(sources: Sequence[Source], request: FigureRequest) -> dict:
        distinct([source.name for source in sources])
        return {source.name: measure(source, request) for source in sources}

    return measured


def only(measure: Callable[[Source, FigureRequest], Any]) -> Callable[[Sequence[Source], FigureRequest], tuple]:
    """Measure the one model that the figure can show, into its name and the result."""

    def measured(sources: Sequence[Source], request: FigureRequest) -> tuple:
        if len(sources) > 1:
            names = ", ".join(source.name for source in sources)
            raise InputError(f"this figure draws one model; got {names}. Name one, such as --models organism-gqa.")
        return sources[0].name, measure(sources[0], request)

    return measured


def distinct(names: Sequence[str]) -> None:
    """Refuse models that share a name, and so a folder."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"{', '.join(twice)} was given more than once; their results would share one folder. "
            "Name each model once, and give local folders different names."
        )


def side_by_side(
    names: Sequence[str], panels: Sequence[Drawn], *, title: str, gap: float | None = None, same_y: bool = False
) -> Drawn:
    """One figure with a column per model, as `compose.grid` draws it, and the models' sentences in a row."""
    figure = compose.beside([panel.figure for panel in panels], names, title=title, gap=gap, same_y=same_y)
    return Drawn(figure, told(names, [panel.sentence for panel in panels]))


def listed(items: Sequence[object]) -> str:
    """Items with commas between them, and "and" before the last."""
    *others, last = map(str, items)
    return f"{', '.join(others)} and {last}" if others else last


def told(names: Sequence[str], sentences: Sequence[str]) -> str:
    """Sentences about several models, each after the model's name."""
    return " ".join(f"{name}: {sentence}" for name, sentence in zip(names, sentences, strict=True))
