"""Plot of differences to a reference with intervals: a row per method, a colour per group.

Nothing here knows the paper. A dot is a mean difference, the line its interval; the dotted line is no difference.
"""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from workbench.plot.marks import DOTTED, add_dots, error_bars, named_ticks
from workbench.plot.theme import INK, SERIES, house

Interval = tuple[float, float, float]
"""Mean, low and high."""


def differences(
    rows: Mapping[str, Mapping[str, Interval]],
    *,
    label: str,
    marked: Sequence[str] = (),
    colours: Sequence[str] = SERIES,
    zero: bool = True,
    title: str | None = None,
) -> go.Figure:
    """A dot with an interval for each row and group.

    Args:
        rows: By row, from top to bottom, then by group: mean, low and high. Rows may lack groups.
        label: Title of the x axis.
        marked: Rows whose names are bold.
        colours: One per group.
        zero: Draw a line where there is no difference.
        title: Title above the figure.
    """
    groups = list(dict.fromkeys(group for row in rows.values() for group in row))
    names = list(rows)
    figure = go.Figure()
    for place, group in enumerate(groups):
        known = [(i, row[group]) for i, row in enumerate(rows.values()) if group in row]
        shift = ((len(groups) - 1) / 2 - place) * 0.7 / len(groups)
        mean, low, high = zip(*(row for _, row in known), strict=True)
        hover = f"%{{customdata[0]}}, {group}<br>%{{x:.3f}} (%{{customdata[1]:.3f}} to %{{customdata[2]:.3f}})"
        add_dots(
            figure,
            mean,
            [len(names) - 1 - i + shift for i, _ in known],
            group,
            colours[place % len(colours)],
            f"{hover}<extra></extra>",
            size=7,
            error_x=error_bars(mean, low, high, 1.4),
            customdata=[[names[i], low, high] for i, (_, low, high) in known],
        )
    house(figure, title=title, height=90 + max(26, 8 * len(groups)) * max(len(names), 4), top=56)
    ticks = [f"<b>{name}</b>" if name in marked else name for name in names]
    axis = named_ticks(ticks, list(range(len(names)))[::-1])
    figure.update_yaxes(**axis, range=[-0.6, len(names) - 0.4], tickfont={"size": 12, "color": INK})
    figure.update_xaxes(title_text=label, zeroline=False)
    if zero:
        figure.add_vline(x=0, line=DOTTED)
    return figure
