"""What many figures draw alike: curves, markers, heat maps, intervals, colour bars, ticks and reference lines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.plot.theme import RULE, SEQUENTIAL, SMALL, SOFT

DOTTED = {"color": SOFT, "width": 1, "dash": "dot"}
"""A reference line."""
EDGE = {"color": "white", "width": 1}
"""The edge of a marker among many."""
ZERO = {"zeroline": True, "zerolinecolor": SOFT, "zerolinewidth": 1}
"""An axis with a line at 0."""


def error_bars(value: Any, low: Any, high: Any, thickness: float = 1, **more: Any) -> dict[str, Any]:
    """Error bars without caps from values and the ends of their intervals."""
    value, low, high = np.asarray(value), np.asarray(low), np.asarray(high)
    return {"type": "data", "array": high - value, "arrayminus": value - low, "thickness": thickness, "width": 0} | more


def band(x: Any, low: Any, high: Any, colour: str, name: str, opacity: float = 0.15) -> dict[str, Any]:
    """Arguments of `add_scatter` for the area between two curves, without a place in the legend."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return {
        "x": np.concatenate([x, x[::-1]]),
        "y": np.concatenate([high, low[::-1]]),
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},{opacity:g})",
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "name": name,
    }


def colour_bar(title: str = "", thickness: int = 9, **more: Any) -> dict[str, Any]:
    """A thin colour bar with soft text."""
    named = {"title": {"text": title, "font": {"size": SMALL, "color": SOFT}}} if title else {}
    return named | {"thickness": thickness, "outlinewidth": 0, "tickfont": {"size": SMALL, "color": SOFT}} | more


def named_ticks(names: Sequence[str], places: Any = None) -> dict[str, Any]:
    """An axis whose places 0, 1, … (or those given) have names and no grid lines."""
    places = list(range(len(names))) if places is None else places
    return {"tickmode": "array", "tickvals": places, "ticktext": names, "showgrid": False}


def add_line(
    figure: go.Figure,
    x: Any,
    y: Any,
    name: str,
    colour: str,
    hover: Any = None,
    *,
    width: Any = 2,
    dash: Any = None,
    size: Any = None,
    **more: Any,
) -> None:
    """Add a curve, with a marker of `size` pixels at each point where one is given."""
    mode = "lines+markers" if size else "lines"
    style = {"line_color": colour, "line_width": width, "line_dash": dash, "marker_size": size}
    figure.add_scatter(x=x, y=y, name=name, mode=mode, hovertemplate=hover, **style, **more)


def add_dots(
    figure: go.Figure,
    x: Any,
    y: Any,
    name: str,
    colour: Any,
    hover: Any = None,
    *,
    size: Any = 8,
    symbol: Any = None,
    **more: Any,
) -> None:
    """Add markers without a line between them."""
    style = {"marker_color": colour, "marker_size": size, "marker_symbol": symbol}
    figure.add_scatter(x=x, y=y, name=name, mode="markers", hovertemplate=hover, **style, **more)


def add_spans(figure: go.Figure, ends: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Add a pale bar from the lower to the upper end of each row."""
    x = [place for low, high in ends for place in (low, high, None)]
    y = [place for name in names for place in (name, name, None)]
    add_line(figure, x, y, "span", RULE, width=3, hoverinfo="skip", showlegend=False)


def add_diagonal(figure: go.Figure, name: str, margin: float, *values: np.ndarray) -> list[float]:
    """Add the line on which x equals y, with a margin beyond all values; gives the ends of both axes."""
    low, high = float(np.nanmin([v.min() for v in values])), float(np.nanmax([v.max() for v in values]))
    pad = margin * ((high - low) or 1.0)
    ends = [low - pad, high + pad]
    figure.add_scatter(x=ends, y=ends, mode="lines", name=name, line=DOTTED, hoverinfo="skip")
    return ends


def cells(z: Any, low: Any, high: Any, name: str, hover: str, colours: Any = SEQUENTIAL, **more: Any) -> go.Figure:
    """A heat map with thin white lines between its cells, without the house layout."""
    style = {"zmin": low, "zmax": high, "colorscale": colours, "xgap": 1, "ygap": 1}
    return go.Figure(go.Heatmap(z=z, name=name, hovertemplate=hover, **style, **more))
