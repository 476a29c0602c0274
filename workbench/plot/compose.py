"""Several figures in one: side by side, for instance one model per column, or in a grid."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import InputError
from workbench.plot.theme import house

KEPT_OF_AXES = (
    *("title", "tickmode", "tickvals", "ticktext", "range", "autorange", "showgrid", "zeroline"),
    *("zerolinecolor", "zerolinewidth", "type", "tickfont"),
)


def beside(
    figures: Sequence[go.Figure], titles: Sequence[str], *, title: str | None = None, gap: float | None = None
) -> go.Figure:
    """One figure with a column for each of several figures; see `grid`."""
    return grid([figures], [titles], title=title, gap=gap)


def stack(figures: Mapping[str, go.Figure], *, title: str | None = None) -> go.Figure:
    """One figure of several under one another, each below its own title; see `grid`."""
    return grid([[figure] for figure in figures.values()], [[text] for text in figures], title=title)


def grid(
    figures: Sequence[Sequence[go.Figure]],
    titles: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    gap: float | None = None,
) -> go.Figure:
    """Rows and columns of figures as one figure; colour bars stay beside their cell, legends are merged.

    Args:
        figures: Rows of figures with one x and one y axis each; every row of the same length.
        titles: The title of each cell.
        title: Title above everything.
        gap: Space between columns as a share of the width; None chooses by whether there are colour bars.

    Raises:
        InputError: no figure, rows of unequal length, or not a title for each figure.
    """
    shape, named = [len(row) for row in figures], [len(row) for row in titles]
    if not shape or not shape[0] or len(set(shape)) > 1 or shape != named:
        raise InputError(f"grid needs equal rows of figures with a title each; got rows of {shape} and titles {named}.")
    n_rows, n_columns = len(shape), shape[0]
    bars = any(_colorbar(trace) is not None for row in figures for figure in row for trace in figure.data)
    space = min(gap if gap is not None else (0.14 if bars else 0.10), 0.5 / max(1, n_columns - 1))
    heights = [max(figure.layout.height or 400 for figure in row) for row in figures]
    between = 125 if any(text for row in titles[1:] for text in row) else 60
    whole = make_subplots(
        rows=n_rows,
        cols=n_columns,
        subplot_titles=[text for row in titles for text in row],
        horizontal_spacing=space,
        vertical_spacing=min(0.3, between / sum(heights)),
        row_heights=heights,
    )
    house(whole, title=title, height=sum(heights) + 34 + (24 if title else 0))
    for note in whole.layout.annotations:
        note.update(font={"size": 13.5}, yshift=8)
    seen: set[str] = set()
    for i, row in enumerate(figures):
        for j, figure in enumerate(row):
            _add_cell(whole, figure, i + 1, j + 1, seen)
    first = figures[0][0]
    legend = len(seen) > 1 and any(figure.layout.showlegend is not False for row in figures for figure in row)
    top = 62 + (34 if title else 0) + (30 if legend else 0)
    if title:
        whole.update_layout(title={"y": 1 - 22 / whole.layout.height, "yref": "container", "yanchor": "top"})
    whole.update_layout(
        showlegend=legend,
        legend_y=1.0 + 36 / (whole.layout.height - top - whole.layout.margin.b),
        bargap=first.layout.bargap,
        margin={"t": top, "r": 64 if bars else 18},
    )
    return whole


def _add_cell(whole: go.Figure, figure: go.Figure, row: int, column: int, seen: set[str]) -> None:
    cell = whole.get_subplot(row, column)
    for trace in figure.data:
        copy = type(trace)(trace.to_plotly_json())
        bar = _colorbar(copy)
        if bar is not None:
            low, high = cell.yaxis.domain
            bar.update(x=cell.xaxis.domain[1] + 0.005, xanchor="left", y=(low + high) / 2, len=high - low)
        if copy.name and copy.type != "heatmap":
            copy.showlegend = copy.showlegend is not False and copy.name not in seen
            copy.legendgroup = copy.name
            if copy.showlegend:
                seen.add(copy.name)
        whole.add_trace(copy, row=row, col=column)
    for source, target in ((figure.layout.xaxis, cell.xaxis), (figure.layout.yaxis, cell.yaxis)):
        values = source.to_plotly_json()
        target.update({key: values[key] for key in KEPT_OF_AXES if key in values})
    for shape in figure.layout.shapes:
        whole.add_shape(shape.to_plotly_json(), row=row, col=column)
    for note in figure.layout.annotations:
        values = note.to_plotly_json()
        for key, axis in (("xref", cell.xaxis), ("yref", cell.yaxis)):
            values[key] = axis.plotly_name.replace("axis", "") + " domain"
        whole.add_annotation(values)


def _colorbar(trace: Any) -> Any:
    """The colour bar of a trace that shows one, else None."""
    holder = trace if trace.type == "heatmap" else getattr(trace, "marker", None)
    if holder is None or holder.colorscale is None or holder.showscale is False:
        return None
    return holder.colorbar
