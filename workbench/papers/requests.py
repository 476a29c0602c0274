"""What is asked of a figure, and what comes back: the same for every paper.

A recipe has a name such as "sycophancy/layer-sums" and makes the figure from a `FigureRequest`: it measures what it
needs, keeps that under the request's folder, draws, and says in one sentence what is to be seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import plotly.graph_objects as go

from workbench.names import Metric


@dataclass(frozen=True)
class FigureRequest:
    """What a figure is to be made from.

    Attributes:
        folder: where measured Datasets are kept and found again.
        models: anything that `load` takes; they stand side by side. Recipes of toy models have none.
        texts: texts by domain, for the figures that read texts; None takes samples that come with the package.
        metric: the patching score; None lets the recipe choose.
        n: dialogues (or texts) per model.
        seed: of their draw.
        questions: for chat models that are not embedded.
        step: called with a text when the next piece of work begins.
    """

    folder: Path
    models: Sequence[Any] = ()
    texts: Mapping[str, Sequence[Any]] | None = None
    metric: Metric | None = None
    n: int = 100
    seed: int = 0
    questions: Any = None
    step: Callable[[str], None] = field(default=lambda text: None, compare=False)


@dataclass(frozen=True)
class Drawn:
    """A figure and the sentence that was computed from the same data."""

    figure: go.Figure
    sentence: str


@runtime_checkable
class FigureRecipe(Protocol):
    """How one figure of a paper is made."""

    @property
    def name(self) -> str:
        """Such as "sycophancy/layer-sums"."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Drawn where the request names no models."""
        ...

    def steps(self, request: FigureRequest) -> int:
        """Pieces of work, for the progress bar: how often `request.step` is called."""
        ...

    def make(self, request: FigureRequest) -> Drawn:
        """Measure what is needed, or read it, and draw."""
        ...
