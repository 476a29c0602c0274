"""Plots of the tuning trade-off: measures over the budget, effects before and after, and ability loss by cause.

A kind of tuning keeps its colour in all of them; random units are paler and dotted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.plot.marks import add_diagonal, add_dots, error_bars
from workbench.plot.theme import ACCENT, AGAINST, INK, RULE, SOFT, TOWARDS, house

STYLE: dict[str, dict[str, Any]] = {
    "group": {"color": TOWARDS, "symbol": "circle"},
    "head": {"color": AGAINST, "symbol": "square"},
    "random group": {"color": "#e3a489", "symbol": "circle-open", "dash": "dot"},
    "random head": {"color": "#8db6d2", "symbol": "square-open", "dash": "dot"},
    "attention": {"color": ACCENT, "symbol": "diamond"},
    "all": {"color": "#8050d0", "symbol": "triangle-up"},
    "base": {"color": INK, "symbol": "x-thin-open"},
    "published": {"color": SOFT, "symbol": "circle", "dash": "dash"},
}
"""Colour, marker and dash of every kind of tuning."""


@dataclass(frozen=True)
class Line:
    """Values over places on an axis, with intervals.

    Attributes:
        name: in the legend.
        style: a key of `STYLE`.
        x: places.
        value: heights.
        low: lower ends.
        high: upper ends.
    """

    name: str
    style: str
    x: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def budget_lines(
    lines: Sequence[Line],
    ticks: Mapping[float, str],
    y_title: str,
    *,
    reference: float | None = None,
    last: bool = True,
) -> go.Figure:
    """One measure over the budget.

    Args:
        lines: kinds of tuning; a line of one place is a marker.
        ticks: texts of the places.
        y_title: what is measured.
        reference: a height to mark, such as that of the base model.
        last: whether to say what the horizontal axis is.
    """
    figure = go.Figure()
    crowd = np.linspace(-0.16, 0.16, len(lines)) if len(lines) > 1 else [0.0]
    for line, shift in zip(lines, crowd, strict=True):
        style = STYLE[line.style]
        error = error_bars(line.value, line.low, line.high, 1.2) if line.low else None
        figure.add_scatter(
            x=[x + shift * (line.style != "published") for x in line.x],
            y=list(line.value),
            error_y=error,
            name=line.name,
            mode="lines+markers" if len(line.x) > 1 else "markers",
            line={"color": style["color"], "dash": style.get("dash"), "width": 1 if line.style == "published" else 1.8},
            marker={"color": style["color"], "symbol": style["symbol"], "size": 3 if line.style == "published" else 7},
            opacity=0.55 if line.style == "published" else 1,
        )
    if reference is not None:
        figure.add_hline(y=reference, layer="below", line={"color": RULE, "width": 1.2, "dash": "dot"})
    house(figure, height=215)
    span = [min(ticks) - 0.5, max(ticks) + 0.5]
    axis = {"tickmode": "array", "tickvals": list(ticks), "ticktext": list(ticks.values()), "range": span}
    figure.update_xaxes(**axis, title="heads tuned (%)" if last else None)
    return figure.update_yaxes(title=y_title)


def effects_before_after(
    before: np.ndarray, after: np.ndarray, tuned: np.ndarray, labels: Sequence[str], *, x_title: str = "before tuning"
) -> go.Figure:
    """Effects of units after tuning against those before, a dot per unit and training; on the line nothing changed.

    Args:
        before: `[training, unit]`.
        after: the same.
        tuned: which units were tuned.
        labels: names of the units.
        x_title: of the horizontal axis.
    """
    figure = go.Figure()
    ends = add_diagonal(figure, "unchanged", 0.05, before, after, np.zeros(1))
    names = np.broadcast_to(np.array(labels, dtype=object), before.shape)
    hover = "%{text}: %{x:.2f} → %{y:.2f}"
    for mask, name, colour, size in ((~tuned, "left alone", SOFT, 5), (tuned, "tuned", TOWARDS, 8)):
        told = {"text": names[mask], "marker_opacity": 0.65}
        add_dots(figure, before[mask], after[mask], name, colour, hover, size=size, **told)
    house(figure, height=330)
    figure.update_xaxes(title=x_title, range=ends)
    return figure.update_yaxes(title="after tuning", range=ends)


def losses(rows: Mapping[str, Mapping[str, tuple[float, float, float]]], *, x_title: str) -> go.Figure:
    """Losses by cause, a row each, with a dot and an interval per measure.

    Args:
        rows: by cause and measure: value, low, high.
        x_title: of the horizontal axis.
    """
    figure = go.Figure()
    causes = list(rows)[::-1]
    measures = list(dict.fromkeys(name for row in rows.values() for name in row))
    colours = (TOWARDS, AGAINST, ACCENT, INK)
    for i, measure in enumerate(measures):
        shift = 0.19 * (i - (len(measures) - 1) / 2)
        found = [(place, rows[cause][measure]) for place, cause in enumerate(causes) if measure in rows[cause]]
        value, low, high = zip(*(numbers for _, numbers in found), strict=True)
        heights, bars = [place - shift for place, _ in found], error_bars(value, low, high, 1.3)
        add_dots(figure, value, heights, measure, colours[i % len(colours)], error_x=bars)
    figure.add_vline(x=0, line={"color": SOFT, "width": 1})
    house(figure, height=90 + 44 * len(causes))
    figure.update_xaxes(title=x_title)
    return figure.update_yaxes(tickmode="array", tickvals=list(range(len(causes))), ticktext=causes)
