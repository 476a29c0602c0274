"""A figure about one or more models: what it is called, which models it takes by itself, and how it is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.errors import InputError
from workbench.papers.cache import Source
from workbench.papers.requests import Drawn, FigureRequest


@dataclass(frozen=True)
class ModelFigure:
    """A figure of a paper with a row or column per model."""

    name: str
    draw: Callable[[Sequence[Source], FigureRequest], Drawn]
    models: tuple[str, ...] = ("organism-gqa", "organism-mha")
    pieces: int = 1

    def steps(self, request: FigureRequest) -> int:
        """The pieces of work on each model, and one for drawing."""
        return self.pieces * len(request.models) + 1

    def make(self, request: FigureRequest) -> Drawn:
        """Measure each model and draw."""
        if not request.models:
            raise InputError(f"{self.name} needs at least one model, such as 'organism-gqa'.")
        drawn = self.draw([Source(model) for model in request.models], request)
        drawn.figure.update_layout(meta={"figure": self.name, "sentence": drawn.sentence})
        return drawn
