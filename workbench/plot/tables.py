"""Tables as Plotly figures."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from workbench.plot.theme import FONT, INK, RULE, SOFT, house


def table(columns: Mapping[str, Sequence[object]], *, title: str | None = None, row_height: int = 30) -> go.Figure:
    """A plain table: a rule under the header, none elsewhere; text left, numbers right.

    Args:
        columns: Header to cells, in order; every column of the same length.
        title: Title above the table.
        row_height: Pixels.
    """
    names = list(columns)
    cells = [[cell_text(value) for value in columns[name]] for name in names]
    rows = len(cells[0]) if cells else 0
    align = ["left" if any(isinstance(v, str) for v in columns[name]) else "right" for name in names]
    widths = [
        max([6, *[1.1 * len(word) for word in name.split()], *[len(cell) for cell in column]])
        for name, column in zip(names, cells, strict=True)
    ]
    figure = go.Figure(
        go.Table(
            columnwidth=widths,
            header={
                "values": [f"<b>{name}</b>" for name in names],
                "align": align,
                "fill_color": "white",
                "line": {"color": ["white"], "width": 0},
                "font": {"family": FONT, "size": 12, "color": SOFT},
                "height": 44,
            },
            cells={
                "values": cells,
                "align": align,
                "fill_color": [["#ffffff" if i % 2 else "#f5f6f8" for i in range(rows)]],
                "line": {"color": RULE, "width": 0},
                "font": {"family": FONT, "size": 12.5, "color": INK},
                "height": row_height,
            },
        )
    )
    house(figure, title=title, height=104 + row_height * rows + (40 if title else 0))
    return figure.update_layout(margin={"l": 6, "r": 6, "t": 52 if title else 8, "b": 8})


def cell_text(value: object) -> str:
    """A value as a table shows it: whole numbers with separators."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
