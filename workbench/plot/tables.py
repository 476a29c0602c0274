"""Tables as Plotly figures."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from workbench.plot.text import text_height, text_width, wrap
from workbench.plot.theme import EDGE, FONT, INK, PIXELS, RULE, SMALL, SOFT, TITLE, corner, higher, house

BESIDE = 22
"""Pixels of a cell beside its text."""


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
    widths = _widths(names, cells)
    figure = go.Figure(_block(cells, [f"<b>{name}</b>" for name in names], align, widths, 44, row_height))
    house(figure, title=title, height=104 + row_height * rows + (40 if title else 0))
    return figure.update_layout(margin={"l": 6, "r": 6, "t": 52 if title else 8, "b": 8})


def _block(
    cells: list[list[str]],
    header: list[str],
    align: list[str],
    widths: list[float],
    head: float | int,
    row: float | int,
) -> go.Table:
    """A table of texts by column, with a header and rows of so many pixels."""
    rows = len(cells[0]) if cells else 0
    return go.Table(
        columnwidth=widths,
        header={
            "values": header,
            "align": align,
            "fill_color": "white",
            "line": {"color": ["white"], "width": 0},
            "font": {"family": FONT, "size": SMALL, "color": SOFT},
            "height": head,
        },
        cells={
            "values": cells,
            "align": align,
            "fill_color": [["#ffffff" if i % 2 else "#f5f6f8" for i in range(rows)]],
            "line": {"color": RULE, "width": 0},
            "font": {"family": FONT, "size": SMALL, "color": INK},
            "height": row,
        },
    )


def cell_text(value: object) -> str:
    """A value as a table shows it: whole numbers with separators."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _widths(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[float]:
    """Pixels of each column; words of a header may stand below one another."""
    return [
        BESIDE + max(text_width(text, SMALL) for text in [*column, *(f"<b>{word}</b>" for word in name.split())])
        for name, column in zip(header, cells, strict=True)
    ]


def narrow_table(figure: go.Figure) -> tuple[go.Figure, str | None]:
    """A table set into a column, in blocks of columns under one another; and why it has no room there, or None.

    Every block repeats the first columns, as many as it takes to tell the rows apart.
    """
    [whole] = figure.data
    header, cells = list(whole.header.values), [[str(cell) for cell in column] for column in whole.cells.values]
    across, row = PIXELS["column"] - 2 * EDGE, float(whole.cells.height)
    widths = _widths(header, cells)
    keys = [*range(_keys(cells))]
    blocks: list[list[int]] = []
    for i in range(len(keys), len(cells)):
        if not blocks or sum(widths[k] for k in [*blocks[-1], i]) > across:
            blocks.append([*keys])
        blocks[-1].append(i)
    title = wrap(figure.layout.title.text or "", across, TITLE)
    top = EDGE + (text_height(title, TITLE) + 10 if title else 0)
    heads = [max(text_height(wrap(header[i], widths[i], SMALL), SMALL) for i in some) + 14 for some in blocks]
    each = [head + row * len(cells[0]) + EDGE for head in heads]
    height = top + sum(each) + EDGE
    narrow = go.Figure(layout=figure.layout)
    narrow.update_layout(title=None, width=PIXELS["column"], height=round(height), margin=dict.fromkeys("lrtb", 0))
    narrow.add_annotation(text=title, font={"size": TITLE, "color": INK}, **corner(EDGE, EDGE, height))
    for some, head, pixels in zip(blocks, heads, each, strict=True):
        part = _block(
            [cells[i] for i in some],
            [wrap(header[i], widths[i], SMALL) for i in some],
            [whole.cells.align[i] for i in some],
            [widths[i] for i in some],
            head,
            row,
        )
        sides = [EDGE / PIXELS["column"], 1 - EDGE / PIXELS["column"]]
        part.domain = {"x": sides, "y": [1 - (top + pixels) / height, 1 - top / height]}
        narrow.add_trace(part)
        top += pixels
    if max(sum(widths[i] for i in some) for some in blocks) > across:
        return narrow, f"a column of the table is wider than {PIXELS['column']} pixels"
    return narrow, higher(height)


def _keys(cells: Sequence[Sequence[str]]) -> int:
    """How many of the first columns tell the rows apart."""
    rows = len(cells[0])
    return next((n for n in range(1, len(cells)) if len({*zip(*cells[:n], strict=True)}) == rows), 1)
