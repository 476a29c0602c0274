"""Plot of `causal_check`: how many wrong answers become correct when each score's first choice is removed."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench.errors import InputError
from workbench.leaf.scores import SCORES
from workbench.plot.marks import DOTTED, add_dots, error_bars, named_ticks
from workbench.plot.theme import ACCENT, AGAINST, house

OUTCOMES = (("turned", "student right", ACCENT, -0.14), ("accepted", "both models right", AGAINST, 0.14))


def causal_check(checked: xr.Dataset, *, title: str | None = None) -> go.Figure:
    """Shares of answers that are right without the span that each score ranks first, with their intervals.

    A dotted line marks what a random choice does: the student was wrong on every example before, so that anything at
    all turns some answers.

    Args:
        checked: from `workbench.leaf.causal_check`.
        title: Title above the figure.

    Raises:
        InputError: a Dataset of another kind.
    """
    needed = ("turned_share", "accepted_share", "turned_low", "accepted_high")
    missing = [name for name in needed if name not in checked]
    if missing:
        raise InputError(f"causal_check needs a result of workbench.leaf.causal_check; it lacks {', '.join(missing)}.")
    ordered = checked.sortby("accepted_share")
    names = [str(s) for s in ordered["score"].values]
    labels = [SCORES[name].title if name in SCORES else name for name in names]
    places = np.arange(len(names))
    figure = go.Figure()
    for name, label, colour, shift in OUTCOMES:
        share, low, high = (100 * ordered[f"{name}_{end}"].values for end in ("share", "low", "high"))
        hover = "%{customdata}<br>" + label + ": %{x:.0f}%<extra></extra>"
        told = {"error_x": error_bars(share, low, high, 1.5, color=colour), "customdata": labels}
        add_dots(figure, share, places + shift, label, colour, hover, size=9, **told)
    if "random" in names:
        at = 100 * float(ordered["accepted_share"].sel(score="random"))
        figure.add_vline(x=at, line=DOTTED)
    house(figure, title=title, height=130 + 34 * len(names))
    figure.update_layout(legend={"orientation": "v", "x": 1, "y": 0, "xanchor": "right", "yanchor": "bottom"})
    figure.update_xaxes(title_text="answers right without the span ranked first (%)", rangemode="tozero")
    figure.update_yaxes(**named_ticks(labels, places))
    return figure
