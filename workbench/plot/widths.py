"""Figures at the width at which they are printed: a page of 6.75 inches, or a column of 3.25.

At either width the smallest text has 7 points. At page width a figure stays as it was drawn, and its panels get
letters; at column width its panels are laid out anew (`narrow`), and a table's columns stand in blocks.
"""

from string import ascii_lowercase
from typing import get_args

import plotly.graph_objects as go

from workbench.errors import InputError
from workbench.names import FigureWidth
from workbench.plot.narrow import narrow
from workbench.plot.panels import headings
from workbench.plot.theme import SMALL


def fit(figure: go.Figure, width: FigureWidth = "page") -> go.Figure:
    """A copy of a figure for the width at which it is printed.

    Args:
        figure: Any figure of this package: panels with axes, or a table.
        width: "page" or "column".

    Raises:
        InputError: an unknown width, or a figure that cannot be read in a column.
    """
    if width not in get_args(FigureWidth):
        raise InputError(f"width={width!r} must be one of {', '.join(map(repr, get_args(FigureWidth)))}.")
    if width == "page":
        whole = _lettered(go.Figure(figure))
        return whole.update_layout(uniformtext={"minsize": SMALL, "mode": "hide"})
    return narrow(figure)


def _lettered(figure: go.Figure) -> go.Figure:
    titled = headings(figure)
    for letter, note in zip(ascii_lowercase, titled, strict=False):
        if len(titled) > 1 and not note.text.startswith("<b>"):
            note.text = f"<b>{letter}</b>\u2002{note.text}"
    return figure
