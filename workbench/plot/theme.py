"""The look shared by every figure: one font, one set of colours, one layout function.

Nothing global is set. Each plot function calls `house` on the figure it has built, so a notebook's own
Plotly template stays as it was.
"""

import plotly.graph_objects as go

from workbench.names import FigureWidth

PIXELS: dict[FigureWidth, int] = {"column": 400, "page": 832}
"""Pixels across a printed figure."""
POINTS: dict[FigureWidth, int] = {"column": 234, "page": 486}
"""Points across a printed figure: 3.25 and 6.75 inches."""
PAGE = PIXELS["page"]
SMALL = 12
"""Pixels of the smallest text, which has 7 points at either width; sub- and superscripts are smaller."""
EDGE, TITLE = 6, 14.5
"""In a column: pixels around everything, and of the letters of the title."""
TALLEST = 1120
"""Pixels of 9.1 inches, a page of text, which no figure in a column may exceed."""
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
INK = "#1f2933"
SOFT = "#5f6b7a"
RULE = "#d9dee5"
PAPER = "#ffffff"

TOWARDS = "#b5432a"
AGAINST = "#1f5f8b"
NEUTRAL = "#f7f5f2"
ACCENT = "#c98a1b"

DIVERGING = [
    [0.0, "#6d1f12"],
    [0.15, TOWARDS],
    [0.35, "#e3a489"],
    [0.5, NEUTRAL],
    [0.65, "#8db6d2"],
    [0.85, AGAINST],
    [1.0, "#0f3553"],
]
SEQUENTIAL = [
    [0.0, "#ffffff"],
    [0.05, "#eef3f7"],
    [0.25, "#b9d2e3"],
    [0.55, "#5b97bd"],
    [0.8, AGAINST],
    [1.0, "#0f3553"],
]
SERIES = (TOWARDS, AGAINST, ACCENT, "#8fa96f", "#b98ac0", SOFT)
OTHERS = ("#6a3d8a", "#7d5a2b", "#d2b27a", "#e3a6c0")
"""For panels whose colours mean something else than those of their neighbours."""


def house(figure: go.Figure, *, title: str | None = None, height: int | None = None, top: int = 18) -> go.Figure:
    """Give a figure the house layout, in place, and return it.

    Args:
        figure: The figure to dress.
        title: Bold title above the plot; None leaves the space to the plot.
        height: Height in pixels; None keeps Plotly's.
        top: Pixels above the plot, without those for a title: more where a legend stands there.
    """
    text = {"family": FONT, "size": 13, "color": INK}
    figure.update_layout(
        template="none",
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font=text,
        colorway=list(SERIES),
        margin={"l": 58, "r": 18, "t": top + (34 if title else 0), "b": 52},
        hoverlabel={"bgcolor": PAPER, "bordercolor": SOFT, "align": "left", "font": text},
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        legend_bgcolor="rgba(0,0,0,0)",
        legend_font_size=12,
        height=height,
    )
    if title:
        place = {"x": 0, "xref": "paper", "xanchor": "left", "yref": "container", "y": 1, "yanchor": "top"}
        figure.update_layout(title=place, title_text=f"<b>{title}</b>", title_pad_t=16, title_font_size=15)
    small = {"size": 12, "color": SOFT}
    axis = {
        "showline": False,
        "zeroline": False,
        "showgrid": True,
        "gridcolor": "#eceff3",
        "gridwidth": 1,
        "ticks": "",
        "tickfont": small,
        "title": {"font": small, "standoff": 8},
        "automargin": True,
    }
    return figure.update_xaxes(**axis).update_yaxes(**axis)


def corner(x: float | int, y: float | int, height: float | int) -> dict[str, object]:
    """Place of a text in a column, whose top left corner is so many pixels from that of a figure without margins."""
    place = {"x": x / PIXELS["column"], "y": 1 - y / height, "xref": "paper", "yref": "paper"}
    return place | {"xanchor": "left", "yanchor": "top", "align": "left", "showarrow": False, "borderpad": 0}


def higher(height: float | int) -> str | None:
    """Why a figure of so many pixels is too high for a column, or None."""
    return f"it would be {height / PIXELS['column'] * 3.25:.1f} inches high" if height > TALLEST else None
