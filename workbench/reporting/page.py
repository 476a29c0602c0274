"""The parts of a self-contained HTML page: text, tables, figures and a document that needs no network.

plotly.js is written into the page once; figures lie beside it as JSON. Every figure has a text alternative
and can carry its numbers as a table.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files

import plotly.graph_objects as go


def document(title: str, body: str, *, description: str = "", plots: bool = True) -> str:
    """A whole page around a body, with style, plotly.js and the script that draws the figures.

    Args:
        title: Title of the page.
        body: HTML of the page, made of the parts below.
        description: One sentence for the page's metadata.
        plots: Whether the page has figures that need plotly.js.
    """
    script = _script() if plots else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<meta name="description" content="{escape(description)}">\n'
        f"<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n{body}\n{script}</body>\n</html>\n"
    )


def _script() -> str:
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>\n<script>\n{_asset('page.js')}</script>\n"


@cache
def _asset(name: str) -> str:
    return (files("workbench.reporting") / name).read_text(encoding="utf-8")


def plot(
    figure: go.Figure, name: str, alternative: str, *, caption: str = "", heading: str = "", more: str = ""
) -> str:
    """A figure with its caption.

    Args:
        figure: What to draw.
        name: Identifier, unique in the page.
        alternative: What a reader who cannot see the figure is told.
        caption: Text under it.
        heading: HTML above it, such as the model's name.
        more: HTML behind the caption, such as the numbers as a table.
    """
    data = (figure.to_json() or "").replace("<", "\\u003c")
    height = int(figure.layout.height or 400)
    return (
        f"<figure>{heading}"
        f'<div class="wb-plot" id="{name}" role="img" aria-label="{escape(alternative)}" '
        f'style="min-height:{height}px"></div>'
        f'<script type="application/json" id="{name}-data">{data}</script>'
        + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")
        + f"{more}</figure>"
    )


def row(parts: Sequence[str]) -> str:
    """Parts side by side where there is room, else under one another."""
    only = " wb-one" if len(parts) == 1 else ""
    return f'<div class="wb-row{only}">{"".join(parts)}</div>'


def section(name: str, title: str, *parts: str) -> str:
    """A section with a heading that can be linked to."""
    heading = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{"".join(parts)}</section>'


def text(*paragraphs: str) -> str:
    """Paragraphs of plain text."""
    return "".join(f"<p>{escape(p)}</p>" for p in paragraphs)


def items(lines: Sequence[str]) -> str:
    """A list of plain lines."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def table(columns: Mapping[str, Sequence[object]], *, caption: str = "") -> str:
    """A table; columns of numbers stand right.

    Args:
        columns: Header to cells.
        caption: What the table holds.
    """
    numeric = {
        name: not any(isinstance(v, str) and not _looks_numeric(v) for v in cells) for name, cells in columns.items()
    }
    head = "".join(f'<th scope="col"{_num(numeric[n])}>{escape(n)}</th>' for n in columns)
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td{_cell_class(v, numeric[n])}>{escape(_cell(v))}</td>" for n, v in zip(columns, cells, strict=True)
        )
        + "</tr>"
        for cells in zip(*columns.values(), strict=True)
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    whole = f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="wb-scroll">{whole}</div>'


def folded(summary: str, content: str) -> str:
    """Content behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def choice(legend: str, panels: Mapping[str, tuple[str, str]], chosen: str, name: str) -> str:
    """One of several panels at a time, picked by radio buttons; all of them where no script runs.

    Args:
        legend: What is chosen.
        panels: Key to label and HTML.
        chosen: Key of the panel that is shown first.
        name: Identifier of the group of buttons.
    """
    buttons = "".join(
        f'<label><input type="radio" name="{name}" value="{key}"{" checked" if key == chosen else ""}> '
        f"{escape(label)}</label>"
        for key, (label, _) in panels.items()
    )
    shown = "".join(f'<div class="wb-panel" data-name="{key}">{html}</div>' for key, (_, html) in panels.items())
    tabs = f'<fieldset class="wb-tabs"><legend>{escape(legend)}</legend>{buttons}</fieldset>'
    return f'<div class="wb-choice">{tabs}{shown}</div>'


def facts(pairs: Mapping[str, object]) -> str:
    """A list of names and values."""
    return (
        '<dl class="wb-facts">'
        + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in pairs.items())
        + "</dl>"
    )


def _looks_numeric(cell: str) -> bool:
    bare = cell.replace("\u2212", "-").replace("%", "").replace("logits", "").replace(",", "").strip()
    try:
        float(bare)
    except ValueError:
        return cell.strip() in ("", "\u2013")
    return True


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _cell_class(value: object, right: bool) -> str:
    """Numbers stand right; a cell that tells of a failure stands out."""
    return ' class="wb-bad"' if str(value).startswith("failed") else _num(right)


def _num(right: bool) -> str:
    return ' class="wb-num"' if right else ""
