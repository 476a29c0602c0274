"""What many figures draw alike: intervals, bands, colour bars, named ticks and reference lines."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.plot.theme import SOFT

DOTTED = {"color": SOFT, "width": 1, "dash": "dot"}
"""A reference line."""
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
    named = {"title": {"text": title, "font": {"size": 12, "color": SOFT}}} if title else {}
    return named | {"thickness": thickness, "outlinewidth": 0, "tickfont": {"size": 11, "color": SOFT}} | more


def named_ticks(names: Sequence[str], places: Any = None) -> dict[str, Any]:
    """An axis whose places 0, 1, … (or those given) have names and no grid lines."""
    places = list(range(len(names))) if places is None else places
    return {"tickmode": "array", "tickvals": places, "ticktext": names, "showgrid": False}
