"""The panels of a figure: its pairs of axes with what is drawn on them, and where they stand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.plot.text import text_width
from workbench.plot.theme import PAGE, SMALL
from workbench.plot.ticks import NUMBER, PITCH, Labels, extent, labels_of

LEAST = 88.0
"""Pixels that a panel needs in each direction, unless its labels need more."""
MOST_UPRIGHT = 24
"""Names side by side of which none is left out."""
FILLED = 0.7
"""Share of a bar's place that it fills."""


@dataclass
class Panel:
    """One pair of axes with what is drawn on it, and where it stood."""

    xaxis: Any
    yaxis: Any
    traces: list[Any]
    shape: tuple[float, float]
    title: Any = None
    notes: list[Any] = field(default_factory=list)
    row: int = 0
    column: int = 0

    @cached_property
    def x(self) -> Labels:
        """Labels of the horizontal axis."""
        return labels_of(self.xaxis, self._values("x"))

    @cached_property
    def y(self) -> Labels:
        """Labels of the vertical axis."""
        return labels_of(self.yaxis, self._values("y"))

    @cached_property
    def ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The ends of both axes."""
        return extent(self.xaxis, self._values("x")), extent(self.yaxis, self._values("y"))

    @property
    def legends(self) -> list[str]:
        """The legends that name its traces."""
        return [trace.legend or "legend" for trace in self.traces if trace.type != "heatmap"]

    @property
    def cells(self) -> int:
        """Rows of its heat map; 0 without one."""
        return max((np.asarray(trace.z).shape[0] for trace in self.traces if trace.type == "heatmap"), default=0)

    def least(self) -> float:
        """Pixels across that its cells, the numbers in its bars, and its names need."""
        columns, widest, bars = 0, 3.5, 0.0
        for trace in self.traces:
            if trace.type == "heatmap":
                columns = max(columns, np.asarray(trace.z).shape[-1])
                words = [str(word) for row in trace.text for word in row] if trace.texttemplate else []
                widest = max([widest, *(text_width(word, SMALL) + 2 for word in words)])
            elif trace.type == "bar" and trace.text is not None:
                words = [str(word) for word in trace.text]
                bars = max([bars, *(text_width(word, SMALL) * len(words) / FILLED for word in words)])
        named = self.x.chosen and self.xaxis.showticklabels is not False
        names = [text for text in self.x.texts if named and not NUMBER.fullmatch(text)]
        return max(columns * widest, bars, PITCH * len(names) if len(names) <= MOST_UPRIGHT else 0, LEAST)

    def _values(self, axis: str) -> list[Any]:
        values = [value for trace in self.traces if (value := getattr(trace, axis)) is not None]
        if values or not any(trace.type == "heatmap" for trace in self.traces):
            return values
        return [np.arange(np.asarray(self.traces[0].z).shape[axis == "x"])]


def panels_of(figure: go.Figure) -> list[Panel]:
    """The panels of a figure in reading order, each with the title that stands above it."""
    margin, height = figure.layout.margin, figure.layout.height or 450
    inner = PAGE - 76, height - (margin.t or 50) - (margin.b or 52)
    found: dict[tuple[str, str], Panel] = {}
    for trace in figure.data:
        place = trace.xaxis or "x", trace.yaxis or "y"
        if place not in found:
            x, y = (figure.layout[name[0] + "axis" + name[1:]] for name in place)
            across, down = (float(np.ptp(axis.domain or (0, 1))) for axis in (x, y))
            found[place] = Panel(x, y, [], (inner[0] * across, inner[1] * down))
        found[place].traces.append(trace)
    panels = list(found.values())
    for way, axis, end in (("row", "yaxis", 1), ("column", "xaxis", 0)):
        at = [round((panel.__dict__[axis].domain or (0, 1))[end], 3) for panel in panels]
        known = sorted(set(at), reverse=way == "row")
        for panel, place in zip(panels, at, strict=True):
            setattr(panel, way, known.index(place))
    for note in headings(figure):
        _below(note, panels).title = note
    for panel in panels:
        own = [axis.plotly_name.replace("axis", "") for axis in (panel.xaxis, panel.yaxis)]
        panel.notes = [n for n in figure.layout.annotations if [n.xref.split()[0], n.yref.split()[0]] == own]
    return sorted(panels, key=lambda panel: (panel.row, panel.column))


def headings(figure: go.Figure) -> list[Any]:
    """The titles of the panels: the notes that stand on the figure and not on an axis."""
    return [note for note in figure.layout.annotations if note.xref == note.yref == "paper"]


def _below(note: Any, panels: Sequence[Panel]) -> Panel:
    def away(panel: Panel) -> float:
        left, right = panel.xaxis.domain or (0, 1)
        aside = max(left - note.x, note.x - right, 0.0)
        return 10 * max(aside - 0.03, 0) + abs((panel.yaxis.domain or (0, 1))[1] - note.y)

    return min(panels, key=away)
