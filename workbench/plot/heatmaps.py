"""Layer by head heat maps of contributions, with the borders of the KV groups drawn in.

Heads and KV groups share one x axis, the query heads: a group is drawn as wide as the heads that it holds,
so that both views of one model lie column under column.
"""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench.names import Metric
from workbench.plot.effects import METRIC_NAMES, Effects, effects
from workbench.plot.marks import cells, colour_bar
from workbench.plot.theme import DIVERGING, INK, SEQUENTIAL, house

MANY = 200
"""Cells among which a single outlier may lie beyond the colour scale."""
HOVER_COLUMNS = ("layer", "unit", "kv_group", "first_head", "last_head", "value", "low", "high")


def heatmap(
    result: xr.Dataset, metric: Metric = "logit_ratio", *, limit: float | None = None, title: str | None = None
) -> go.Figure:
    """Heat map of contributions: query heads across, layers down, symmetric colours centred at zero.

    Negative values (red) mark units that push towards the behaviour: putting in their counterfactual activation lowers
    the score. Hovering gives the layer, the head, its KV group, the value and its 95% interval.

    Args:
        result: Patching result for unit="head" or unit="kv_group".
        metric: Which score's contributions to show.
        limit: End of the colour scale in display units (per cent, or logits). None takes `colour_limit` of the values.
        title: Title above the map; None for none.
    """
    data = effects(result, metric)
    end = colour_limit(data.values) if limit is None else float(limit)
    figure = cells(
        data.values,
        low=-end,
        high=end,
        name=f"{data.model}: {METRIC_NAMES.get(metric, metric)}",
        hover=_hover_template(data),
        colours=DIVERGING,
        x=column_edges(data),
        y=data.layers,
        customdata=_hover_data(data),
        zmid=0,
        colorbar=colour_bar("%" if data.suffix == "%" else "logits", 11, len=1.0, xpad=6),
        meta={"customdata": list(HOVER_COLUMNS), "metric": metric, "unit": data.unit},
    )
    return _head_axes(figure, data.n_heads, data.group_size, data.layers, title)


def layer_by_head(
    values: np.ndarray,
    group_size: int = 1,
    *,
    end: float | None = 1.0,
    centred: bool = False,
    label: str = "",
    title: str | None = None,
) -> go.Figure:
    """Heat map of any number per query head: heads across, layers down, the KV groups' borders drawn in.

    Args:
        values: One number per layer and head `[layer, head]`.
        group_size: Query heads per KV head.
        end: End of the colour scale; None takes `colour_limit` of the values.
        centred: Two colours around zero, from -end to end; otherwise one colour from 0 to end.
        label: What the numbers are; it stands at the colour bar and in the hover text.
        title: Title above the map.
    """
    n_layers, n_heads = values.shape
    end = colour_limit(values) if end is None else end
    hover = f"<b>Layer %{{y}}, query head %{{x}}</b><br>{label} %{{z:.3f}}<extra></extra>"
    bar = colour_bar(label, 11, title_side="right", xpad=6)
    low, colours = (-end, DIVERGING) if centred else (0, SEQUENTIAL)
    figure = cells(values, low, end, label or "value", hover, colours, colorbar=bar)
    return _head_axes(figure, n_heads, group_size, np.arange(n_layers), title)


def colour_limit(values: np.ndarray) -> float:
    """Symmetric end of a colour scale: the largest |value|, of `MANY` or more the 99.5th percentile; 1 without any."""
    sizes = np.abs(values[np.isfinite(values)])
    if not sizes.size or sizes.max() == 0:
        return 1.0
    end = float(np.percentile(sizes, 99.5)) if sizes.size >= MANY else 0.0
    return end if end > 0 else float(sizes.max())


def column_edges(data: Effects) -> np.ndarray:
    """Edges of the columns on the axis of query heads; a group spans all of its heads."""
    width = data.group_size if data.unit == "kv_group" else 1
    return np.arange(data.values.shape[1] + 1) * width - 0.5


def group_borders(n_heads: int, group_size: int, layers: np.ndarray) -> list[dict]:
    """One vertical line between every two neighbouring KV groups."""
    strong = group_size > 1
    line = {"color": INK if strong else "#b8c0ca", "width": 1.4 if strong else 0.6}
    top, bottom = layers.min() - 0.5, layers.max() + 0.5
    return [
        {"type": "line", "x0": x - 0.5, "x1": x - 0.5, "y0": top, "y1": bottom, "line": line, "layer": "above"}
        for x in range(group_size, n_heads, group_size)
    ]


def _head_axes(figure: go.Figure, n_heads: int, group_size: int, layers: np.ndarray, title: str | None) -> go.Figure:
    """The house layout of a map of heads by layers, with the borders of the KV groups."""
    house(figure, title=title, height=int(min(900, 130 + 26 * max(6, len(layers)))))
    across, down = [-0.5, n_heads - 0.5], [layers.max() + 0.5, layers.min() - 0.5]
    for update, name, places, ends in (
        (figure.update_xaxes, "Query head", np.arange(n_heads), across),
        (figure.update_yaxes, "Layer", layers, down),
    ):
        update(title_text=name, showgrid=False, tickmode="array", tickvals=_ticks(places), range=ends)
    return figure.update_layout(shapes=group_borders(n_heads, group_size, layers))


def _ticks(values: np.ndarray, most: int = 16) -> list[int]:
    step = next(s for s in (1, 2, 4, 8, 16, 32, 64, 128) if len(values) / s <= most or s == 128)
    return [int(v) for v in values[::step]]


def _hover_data(data: Effects) -> np.ndarray:
    rows, columns = data.values.shape
    table = np.empty((rows, columns, len(HOVER_COLUMNS)))
    for column in range(columns):
        first, last = data.heads_of(column)
        table[:, column, 1:5] = (column, data.group_of(column), first, last)
    table[..., 0] = data.layers[:, None]
    table[..., 5], table[..., 6], table[..., 7] = data.values, data.low, data.high
    return table


def _hover_template(data: Effects) -> str:
    digits = ".3f" if data.metric == "logit_diff" else ".2f"
    heads = (
        "query head %{customdata[1]:d}"
        if data.unit == "head"
        else "query heads %{customdata[3]:d}\u2013%{customdata[4]:d}"
    )
    return (
        f"<b>Layer %{{customdata[0]:d}}, {heads}</b><br>KV group %{{customdata[2]:d}}<br>"
        f"%{{customdata[5]:{digits}}}{data.suffix}<br>"
        f"95% interval %{{customdata[6]:{digits}}} to %{{customdata[7]:{digits}}}{data.suffix}<extra></extra>"
    )
