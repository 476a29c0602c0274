"""A figure laid out for one column: its panels set anew in pixels from the top left corner, its legends below.

1. `panels_of` finds the panels of a figure, with their titles and colour bars.
2. As many stand in a row as did before, where each has room for its labels; else fewer, and panels of one legend
   stand together. What neighbours share (names of rows, titles of axes) is written once.
3. Labels are broken, set upright or thinned (`ticks`); a scale of colours that several panels share lies below them.
"""

import plotly.graph_objects as go

from workbench.errors import InputError
from workbench.plot.column import Column
from workbench.plot.panels import Panel, panels_of
from workbench.plot.tables import narrow_table
from workbench.plot.text import shown
from workbench.plot.theme import POINTS


class TooNarrow(InputError):
    """A figure's content has no room in a column."""


NAMES = 0.4, 0.5, 0.6, 0.3
"""Shares of the width that names of rows may take, in the order in which they are tried."""


def narrow(figure: go.Figure) -> go.Figure:
    """A copy of a figure, as wide as a column.

    Raises:
        TooNarrow: its content has no room there.
    """
    if any(trace.type == "table" for trace in figure.data):
        table, reason = narrow_table(figure)
        if reason is None:
            return table
        raise _too_small(figure, reason)
    whole = go.Figure(figure)
    panels = panels_of(whole)
    most = 1 + max(panel.column for panel in panels)
    reason = None
    whole_rows = [n for n in range(most, 1, -1) if most % n == 0]
    broken = [n for n in range(most - 1, 1, -1) if most % n and len(panels) % n == 0 and _stand_alone(panels)]
    for n in [*whole_rows, *broken, 1]:
        for share in NAMES:
            layout = Column(whole, _rows(panels, n, most), share / n**0.5)
            if layout.reason is None:
                return layout.applied()
            reason = layout.reason
    raise _too_small(whole, reason)


def _too_small(figure: go.Figure, reason: str | None) -> TooNarrow:
    name = shown(figure.layout.title.text or "This figure")
    return TooNarrow(
        f"\u201c{name}\u201d cannot be read at column width ({POINTS['column'] / 72:g} in): {reason}. Draw it at page "
        "width, or try fewer models."
    )


def _stand_alone(panels: list[Panel]) -> bool:
    """Whether each panel says by itself what it shows, so that the rows in which they stood may be broken."""
    return len({panel.title.text for panel in panels if panel.title is not None}) == len(panels)


def _rows(panels: list[Panel], n: int, most: int) -> list[list[Panel]]:
    """Rows of at most `n` panels, which were `most` before; panels of one legend together where rows are broken."""
    if n < most and len({name for panel in panels for name in panel.legends}) > 1:
        panels = sorted(panels, key=lambda panel: (min(panel.legends, default=""), panel.row, panel.column))
    broken = n == 1 or most % n
    rows: list[list[Panel]] = []
    for panel in panels:
        if not rows or len(rows[-1]) == n or (not broken and rows[-1][-1].row != panel.row):
            rows.append([])
        rows[-1].append(panel)
    return rows
