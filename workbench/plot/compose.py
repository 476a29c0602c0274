"""Several figures in one: side by side, for instance one model per column, or in a grid."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import InputError
from workbench.plot.theme import PAGE, house

KEPT_OF_AXES = (
    *("title", "tickmode", "tickvals", "ticktext", "range", "autorange", "showgrid", "zeroline"),
    *("zerolinecolor", "zerolinewidth", "type", "tickfont", "showticklabels"),
)
Legends = Literal["one", "rows", "columns"]


def beside(
    figures: Sequence[go.Figure],
    titles: Sequence[str],
    *,
    title: str | None = None,
    gap: float | None = None,
    same_y: bool = False,
) -> go.Figure:
    """One figure with a column for each of several figures; see `grid`."""
    return grid([figures], [titles], title=title, gap=gap, same_y=same_y)


def stack(figures: Mapping[str, go.Figure], *, title: str | None = None, legends: Legends = "one") -> go.Figure:
    """One figure of several under one another, each below its own title; see `grid`."""
    return grid([[figure] for figure in figures.values()], [[text] for text in figures], title=title, legends=legends)


def grid(
    figures: Sequence[Sequence[go.Figure]],
    titles: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    gap: float | None = None,
    legends: Legends = "one",
    same_y: bool = False,
) -> go.Figure:
    """Rows and columns of figures as one figure; colour bars stay beside their cell, legends are merged.

    Args:
        figures: Rows of figures with one x and one y axis each; every row of the same length.
        titles: The title of each cell.
        title: Title above everything.
        gap: Space between columns as a share of the width; None chooses by whether there are colour bars.
        legends: One above everything, one above each row, or one below each column: for rows or columns whose colours
            mean different things.
        same_y: Whether the panels of a row share the scale of their y axes.

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
    between = (125 if any(text for row in titles[1:] for text in row) else 60) + (30 if legends == "rows" else 0)
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
    seen: set[tuple[int, str]] = set()
    for i, row in enumerate(figures):
        for j, figure in enumerate(row):
            _add_cell(whole, figure, i + 1, j + 1, {"one": 0, "rows": i, "columns": j}[legends], seen)
        if same_y:
            whole.update_yaxes(matches=whole.get_subplot(i + 1, 1).yaxis.plotly_name.replace("axis", ""), row=i + 1)
    first = figures[0][0]
    legend = len(seen) > 1 and any(figure.layout.showlegend is not False for row in figures for figure in row)
    above = [name for at, name in seen if at == 0] if legend and legends != "columns" else []
    top = 62 + (34 if title else 0) + (30 if above else 0) + 24 * _further_lines(above)
    whole.update_layout(
        showlegend=legend,
        bargap=first.layout.bargap,
        margin={"t": top, "r": 64 if bars else 18},
    )
    _place_legends(whole, n_rows, n_columns, legends, seen)
    return whole


def _place_legends(whole: go.Figure, n_rows: int, n_columns: int, legends: Legends, seen: set[tuple[int, str]]) -> None:
    """Legends above everything or each row, or below each column, with room for their entries there."""
    if legends == "columns":
        entries = max(sum(at == column for at, _ in seen) for column in range(n_columns))
        below = 24 + 19 * entries
        whole.update_layout(margin_b=whole.layout.margin.b + below, height=whole.layout.height + below)
    inner = whole.layout.height - whole.layout.margin.t - whole.layout.margin.b
    common = whole.layout.legend.to_plotly_json()
    for place in range({"one": 1, "rows": n_rows, "columns": n_columns}[legends]):
        if legends == "columns":
            left = whole.get_subplot(n_rows, place + 1).xaxis.domain[0]
            own = {"orientation": "v", "x": left, "y": -56 / inner, "yanchor": "top"}
        else:
            own = {"y": whole.get_subplot(place + 1, 1).yaxis.domain[1] + 36 / inner}
        whole.update_layout({_legend(place): common | own})


def _further_lines(names: Sequence[str]) -> int:
    """Lines that a legend of these entries takes on a page beyond the first."""
    return int(sum(44 + 6 * len(name) for name in names) // (PAGE - 76))


def _legend(place: int) -> str:
    """Plotly's name of the first, second, … legend."""
    return f"legend{place + 1}" if place else "legend"


def _add_cell(
    whole: go.Figure, figure: go.Figure, row: int, column: int, legend: int, seen: set[tuple[int, str]]
) -> None:
    cell = whole.get_subplot(row, column)
    for trace in figure.data:
        copy = type(trace)(trace.to_plotly_json())
        bar = _colorbar(copy)
        if bar is not None:
            low, high = cell.yaxis.domain
            bar.update(x=cell.xaxis.domain[1] + 0.005, xanchor="left", y=(low + high) / 2, len=high - low)
        if copy.name and copy.type != "heatmap":
            copy.showlegend = copy.showlegend is not False and (legend, copy.name) not in seen
            copy.update(legendgroup=copy.name, legend=_legend(legend))
            if copy.showlegend:
                seen.add((legend, copy.name))
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
