"""Figures as files: HTML that shares one copy of plotly.js, the plotted numbers as JSON, PNG and PDF.

PNG and PDF are drawn by a Chrome or Chromium through kaleido. Where none is found the other formats are still
written and one message says what is missing.
"""

import atexit
import json
import math
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from workbench.errors import InputError
from workbench.names import FigureFormat, FigureWidth
from workbench.plot.html import json_block, policy, render
from workbench.plot.theme import FONT, INK, PIXELS, POINTS
from workbench.plot.widths import fit
from workbench.runs.files import check_writable, write_atomic, write_text

FORMATS = get_args(FigureFormat)
DRAWN_BY_CHROME = ("png", "pdf")
PER_PIXEL = 0.75
"""Points of a pixel in a PDF that Chrome prints."""
PNG_HEAD = 33
"""Bytes of a PNG's signature and first chunk."""
DRAW = """
var figure = JSON.parse(document.getElementById("figure-data").textContent);
Plotly.newPlot("figure", figure.data, figure.layout, {displaylogo: false, responsive: true});
"""
"""The script of a figure's page."""
NO_CHROME = (
    "PNG and PDF were not written: no Chrome or Chromium was found. Install one (Debian and Ubuntu: "
    "`apt install chromium`; any system: `plotly_get_chrome`), or set BROWSER_PATH to its program."
)


def save_figure(
    figure: go.Figure,
    stem: str | Path,
    formats: Sequence[FigureFormat] = FORMATS,
    *,
    root: str | Path | None = None,
    width: FigureWidth = "page",
) -> tuple[list[Path], str | None]:
    """Write a figure in several formats, and its caption, where it has one, as text beside them.

    Args:
        figure: The figure.
        stem: Path without ending, such as "figures/sycophancy/layer-sums".
        formats: Any of html, json, png, pdf.
        root: Folder whose `assets/plotly.min.js` the HTML pages share; None takes the folder of `stem`.
        width: What the figure is printed on: a "page" (6.75 inches across) or a "column" (3.25 inches); see `fit`.

    Returns:
        The files written, and a message where a format had to be left out (else None).

    Raises:
        InputError: unknown format or width, a figure that cannot be read at that width, or a folder that cannot be
            written.
    """
    unknown = [f for f in formats if f not in FORMATS]
    if unknown:
        raise InputError(f"unknown figure format {', '.join(map(repr, unknown))}; choose from {', '.join(FORMATS)}.")
    stem = Path(stem).expanduser()
    root = stem.parent if root is None else Path(root).expanduser()
    check_writable(stem.parent)
    fitted, numbers = fit(figure, width), plotted_numbers(figure)
    written: list[Path] = []
    message = None
    if "html" in formats:
        written.append(_write_html(fitted, numbers, stem, root))
    if numbers.get("sentence"):
        written.append(write_text(_ending(stem, "caption.txt"), numbers["sentence"] + "\n"))
    if "json" in formats:
        text = json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False)
        written.append(write_text(_ending(stem, "json"), text + "\n"))
    drawn = [f for f in formats if f in DRAWN_BY_CHROME]
    if drawn:
        message = missing_chrome()
        if message is None:
            written += _draw(fitted, stem, drawn, width)
    return written, message


def plotted_numbers(figure: go.Figure) -> dict:
    """The numbers that a figure shows, by trace, without its styling.

    Extra hover columns are named after the trace's `meta["customdata"]`.
    """
    traces = []
    for trace in figure.data:
        entry: dict = {"type": trace.type, "name": trace.name}
        if trace.type == "table":
            header = [str(h).replace("<b>", "").replace("</b>", "") for h in trace.header.values]
            entry["columns"] = dict(zip(header, map(_plain, trace.cells.values), strict=True))
        for axis in ("x", "y", "z"):
            value = getattr(trace, axis, None) if trace.type != "table" else None
            if value is not None:
                entry[axis] = _plain(value)
        for bar in ("error_x", "error_y"):
            error = getattr(trace, bar, None) if trace.type in ("scatter", "bar") else None
            if error is not None and error.array is not None:
                entry[bar] = _plain(error.array)
        names = trace.meta.get("customdata") if isinstance(trace.meta, dict) else None
        if names is not None:
            data = np.asarray(trace.customdata)
            entry["hover"] = {name: _plain(data[..., i]) for i, name in enumerate(names)}
        traces.append(entry)
    title = figure.layout.title.text
    made = figure.layout.meta if isinstance(figure.layout.meta, dict) else {}
    return {"title": title.replace("<b>", "").replace("</b>", "") if title else None, **made, "traces": traces}


def _plain(value: object) -> object:
    """Lists of JSON numbers and strings; what is not finite becomes null."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 1e15 else value
    return value


def missing_chrome() -> str | None:
    """A message that says how to get PNG and PDF, or None where they can be drawn."""
    if find_spec("kaleido") is None:
        return "PNG and PDF were not written: the package kaleido is not installed (`pip install kaleido`)."
    return None if _browser_path() else NO_CHROME


def _browser_path() -> str | None:
    named = os.environ.get("BROWSER_PATH")
    if named:
        return named if Path(named).exists() else None
    from choreographer.browsers import Chromium

    return Chromium.find_browser(skip_local=False)


def _draw(figure: go.Figure, stem: Path, formats: Sequence[FigureFormat], width: FigureWidth) -> list[Path]:
    import kaleido

    _start_browser()
    printed = POINTS[width] / PIXELS[width] / PER_PIXEL
    size = {"width": PIXELS[width], "height": int(figure.layout.height or 500)}
    written = []
    for ending in formats:
        options = size | {"format": ending, "scale": 2 if ending == "png" else printed}
        picture = kaleido.calc_fig_sync(figure, opts=options)
        if ending == "png":
            picture = _with_density(picture, 2 * PIXELS[width] / POINTS[width] * 72)
        written.append(write_atomic(_ending(stem, ending), lambda file, picture=picture: file.write_bytes(picture)))
    return written


def _with_density(png: bytes, per_inch: float) -> bytes:
    """A PNG that says how large it is printed (the chunk pHYs, in pixels per metre)."""
    per_metre = round(per_inch / 0.0254)
    chunk = b"pHYs" + struct.pack(">IIB", per_metre, per_metre, 1)
    return png[:PNG_HEAD] + struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[PNG_HEAD:]


@cache
def _start_browser() -> None:
    """One browser for all the pictures of this process: each then takes a fraction of a second."""
    import kaleido

    kaleido.start_sync_server(silence_warnings=True)
    atexit.register(kaleido.stop_sync_server, silence_warnings=True)


def _write_html(figure: go.Figure, numbers: Mapping[str, Any], stem: Path, root: Path) -> Path:
    from plotly.offline import get_plotlyjs

    script = root / "assets" / "plotly.min.js"
    check_writable(script.parent)
    text = get_plotlyjs()
    if not script.exists() or script.stat().st_size != len(text.encode()):
        write_text(script, text)
    source = os.path.relpath(script, stem.parent).replace(os.sep, "/")
    page = render(
        "workbench.plot",
        "figure",
        policy=policy(DRAW, sources="'self' file:"),
        title=numbers["title"] or stem.name,
        alternative=numbers["title"] or stem.name,
        caption=numbers.get("sentence"),
        font=Markup(FONT),
        ink=INK,
        plotly=source,
        width=f"{figure.layout.width}px" if figure.layout.width else "100%",
        height=f"{figure.layout.height}px" if figure.layout.height else "100%",
        data=json_block(figure.to_json() or ""),
        script=Markup(DRAW),
    )
    return write_text(_ending(stem, "html"), page)


def _ending(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}.{ending}")
