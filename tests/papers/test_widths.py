"""Every figure can be printed: from records and from the committed pages, at the width of a page and of a column."""

import base64
import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from tests.papers.records import FROM_RECORDS, drawn
from workbench.errors import InputError
from workbench.papers import FIGURES
from workbench.plot import fit
from workbench.plot.theme import PIXELS, POINTS

PAGES = Path(__file__).parents[2] / "figures"
COMMITTED = sorted(str(page.relative_to(PAGES).with_suffix("")) for page in PAGES.glob("*/*.html"))
ONLY_ON_A_PAGE = {"active-dormant/extreme-tokens", "inactive-heads/threshold-transfer", "sycophancy/tradeoff-table"}
LINE = 1.2
LETTER = 0.46
"""Pixels of a letter per pixel of its size, on average over English words in Helvetica."""


def decoded(part):
    if isinstance(part, dict) and "bdata" in part:
        shape = [int(n) for n in str(part.get("shape", "-1")).split(",")]
        return np.frombuffer(base64.b64decode(part["bdata"]), part["dtype"]).reshape(shape)
    if isinstance(part, dict):
        return {key: decoded(value) for key, value in part.items()}
    return [decoded(value) for value in part] if isinstance(part, list) else part


def figure(name):
    if name in FROM_RECORDS:
        return drawn(name)
    page = (PAGES / f"{name}.html").read_text()
    [data] = re.findall(r'id="figure-data">(.*?)</script>', page, flags=re.DOTALL)
    return go.Figure(decoded(json.loads(data)))


def sizes(part, key=""):
    """Every size of letters in a figure."""
    if isinstance(part, dict):
        own = [part["size"]] if "font" in key and isinstance(part.get("size"), int | float) else []
        return own + [size for k, value in part.items() for size in sizes(value, k)]
    return [size for value in part for size in sizes(value, key)] if isinstance(part, list | tuple) else []


def extent(text, size):
    lines = [unescape(re.sub("<[^>]*>", "", line)) for line in text.split("<br>")]
    return max(map(len, lines)) * size * LETTER, len(lines) * size * LINE


def apart(boxes):
    for i, (name, *a) in enumerate(boxes):
        for other, *b in boxes[:i]:
            across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            assert across <= 1 or down <= 1, (name, other, a, b)


def legends(shown, left, top, width, height):
    """Boxes of legends, whose entries stand in columns unless one row has room for all."""
    entries = {}
    for trace in shown.data:
        if trace.type not in ("heatmap", "table") and trace.name and trace.showlegend is not False:
            entries.setdefault(trace.legend or "legend", []).append(trace.name)
    for name, texts in entries.items():
        if len([text for some in entries.values() for text in some]) < 2 or shown.layout.showlegend is False:
            continue
        place = shown.layout[name]
        if place.xanchor == "right":
            continue  # It stands in a free corner of the only panel.
        widths = [place.entrywidth or extent(text, 12)[0] for text in texts]
        flows = place.entrywidth is None and sum(widths) + 45 * len(texts) <= width - left
        per_row = len(texts) if flows else max(1, int((width - left) // (max(widths) + 45)))
        tall = (-(-len(texts) // per_row) if place.orientation == "h" else len(texts)) * 19
        y = top + (1 - place.y) * height
        y -= tall if place.yanchor == "bottom" else 0
        yield name, left + place.x * (width - left), y, left + place.x * (width - left) + max(widths), y + tall


def boxes(shown):
    """Title, headings, panels and legends as (name, left, top, right, bottom) in pixels."""
    layout, margin = shown.layout, shown.layout.margin
    width, tall = layout.width or PIXELS["page"], layout.height
    left, inner = margin.l, width - margin.l - margin.r
    top, height = margin.t, tall - margin.t - margin.b
    if layout.title.text:
        across, down = extent(layout.title.text, layout.title.font.size)
        y = (1 - layout.title.y) * tall + (layout.title.pad.t or 0)
        yield "title", left, y, left + across, y + down
    for note in layout.annotations:
        if note.xref == note.yref == "paper":
            across, down = extent(note.text, note.font.size)
            x, y = left + note.x * inner, top + (1 - note.y) * height - (note.yshift or 0)
            x -= {"left": 0, "center": across / 2}[note.xanchor or "center"]
            y -= 0 if note.yanchor == "top" else down
            yield note.text, x, y, x + across, y + down
    for trace in shown.data:
        if trace.type != "table":
            x, y = (
                layout[(name or d)[0] + "axis" + (name or d)[1:]]
                for name, d in ((trace.xaxis, "x"), (trace.yaxis, "y"))
            )
            (x0, x1), (y0, y1) = x.domain or (0, 1), y.domain or (0, 1)
            box = left + x0 * inner, top + (1 - y1) * height, left + x1 * inner, top + (1 - y0) * height
            yield f"panel {trace.xaxis}", *box
    yield from legends(shown, left, top, left + inner, height)


def check(shown, width):
    pixels, points = PIXELS[width], POINTS[width]
    assert min([*sizes(shown.to_dict()), shown.layout.font.size]) * points / pixels >= 7
    found = list(dict.fromkeys(boxes(shown)))
    for name, left, top, right, bottom in found:
        assert left >= -1 and top >= -1 and right <= pixels + 1 and bottom <= shown.layout.height + 1, name
    apart(found)


@pytest.mark.parametrize("name", sorted({*FROM_RECORDS, *COMMITTED}))
def test_a_figure_is_readable_at_both_widths(name):
    check(fit(figure(name), "page"), "page")
    if name in ONLY_ON_A_PAGE:
        with pytest.raises(
            InputError, match=r"cannot be read at column width \(3\.25 in\): it would be .* inches high"
        ):
            fit(figure(name), "column")
        return
    shown = fit(figure(name), "column")
    assert shown.layout.width == PIXELS["column"] and shown.layout.height <= 1120
    check(shown, "column")


def test_every_figure_is_looked_at():
    assert {*FROM_RECORDS, *COMMITTED} >= {*FIGURES}
