"""Rows of panels set into a column, in pixels from the top left corner: title, panels, legends and colour bars.

Margins are zero, so that Plotly's paper coordinates are those of the whole figure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

import plotly.graph_objects as go

from workbench.plot.panels import LEAST, Panel
from workbench.plot.text import BROKEN, text_height, text_width, wrap
from workbench.plot.theme import EDGE, INK, PIXELS, SMALL, TALLEST, TITLE, corner, higher
from workbench.plot.ticks import across, down, height_for

WIDE = PIXELS["column"]
GAP = 12
BESIDE = 10.0
"""Pixels to the right of a panel, for half of its last number."""
SQUAT = 0.5
"""A panel is no higher than this share of the column, unless its rows need more."""
MARKED, PLAIN = 11, 6
"""Pixels of a row of cells with markers on it, and without."""
KEY, ENTRY = 52, 20
"""Pixels of a legend's entry: the width without its text, and the height."""
BAR, SCALE = 9, 52
"""Pixels of a colour bar: its thickness, and the height of one that lies, with its title and numbers."""
HEADING = 13
"""Pixels of the letters of a panel's title."""


@dataclass
class Slot:
    """A panel with what is written around it and the room that this takes."""

    panel: Panel
    heading: str
    x_title: str
    y_title: str
    named: bool
    ticked: bool
    x: dict[str, Any] = field(default_factory=dict)
    below: float = 0.0
    above: float = 0.0


class Column:
    """Panels in rows, measured for a column.

    Args:
        whole: their figure.
        rows: of panels.
        names: share of the width that names of rows may take.

    Attributes:
        reason: why they have no room, or None.
    """

    def __init__(self, whole: go.Figure, rows: Sequence[Sequence[Panel]], names: float | int):
        self.whole = whole
        self.n = max(map(len, rows))
        self.most = WIDE * names
        self.slots = self._slots(rows)
        self.keys = self._keys()
        self.scales = _scales([panel for row in rows for panel in row])
        self.title = wrap(str(whole.layout.title.text or ""), WIDE - 2 * EDGE, TITLE)
        self.floors = [max(self._floor(slot) for slot in row) for row in self.slots]
        self.heights = [max(self._height(slot) for slot in row) for row in self.slots]
        self.reason = self._measure()
        excess = self.total - TALLEST
        free = sum(self.heights) - sum(self.floors)
        if self.reason is None and excess > 0:
            if excess > free:
                self.reason = higher(self.total)
                return
            pairs = zip(self.heights, self.floors, strict=True)
            self.heights = [height - excess * (height - floor) / free for height, floor in pairs]
            self.reason = self._measure()

    def _slots(self, rows: Sequence[Sequence[Panel]]) -> list[list[Slot]]:
        """What is written at each panel: what a neighbour says too is left to it."""
        tops = {panel.column: panel.title for row in rows for panel in row if panel.row == 0}
        letters = iter(ascii_lowercase)
        slots = []
        for i, row in enumerate(rows):
            slots.append([])
            for j, panel in enumerate(row):
                title = panel.title or (None if self.n > 1 else tops.get(panel.column))
                heading = str(title.text) if title is not None else ""
                if heading and sum(map(len, rows)) > 1 and not heading.startswith("<b>"):
                    heading = f"<b>{next(letters)}</b>\u2002{heading}"
                heading = ": ".join([heading, *(note.text.replace("<br>", ", ") for note in panel.notes)])
                x_title, y_title = (str(axis.title.text or "") for axis in (panel.xaxis, panel.yaxis))
                below, above = (rows[k][j] if 0 <= k < len(rows) and j < len(rows[k]) else None for k in (i + 1, i - 1))
                if below is not None and x_title == below.xaxis.title.text:
                    x_title = ""
                told = j > 0 and (_one_scale(panel, row[0]) or (panel.y.chosen and panel.y.texts == row[0].y.texts))
                if told or (j and y_title == row[0].yaxis.title.text):
                    y_title = ""
                named = not told and not (panel.column == 0 and panel.yaxis.showticklabels is False)
                ticked = not _same_places(panel, above if panel.xaxis.side == "top" else below)
                slots[-1].append(Slot(panel, heading, x_title, y_title, named, ticked))
        return slots

    def _floor(self, slot: Slot) -> float:
        cells = MARKED * slot.panel.cells if len(slot.panel.traces) > 1 else 0
        names = height_for(slot.panel.y, slot.panel.ends[1], self.most) if slot.named else 0.0
        return float(max(LEAST, cells, names))

    def _height(self, slot: Slot) -> float:
        width, height = slot.panel.shape
        most = max(SQUAT * WIDE, PLAIN * slot.panel.cells)
        return max(self._floor(slot), min(height * min(1.0, WIDE / self.n / width), most))

    def _keys(self) -> dict[str, list[str]]:
        """The entries of each legend."""
        keys: dict[str, list[str]] = {}
        for trace in self.whole.data:
            if trace.type != "heatmap" and trace.name and trace.showlegend is not False:
                keys.setdefault(trace.legend or "legend", []).append(str(trace.name))
        said = any(trace.showlegend for trace in self.whole.data)
        shown = self.whole.layout.showlegend is not False and (said or sum(map(len, keys.values())) > 1)
        return keys if shown else {}

    def _entry(self, names: Sequence[str]) -> tuple[float, int, float]:
        """Width of the texts of a legend, entries in a row, and its height."""
        wrapped = [wrap(name, WIDE - 2 * EDGE - KEY, SMALL) for name in names]
        width = max(text_width(name, SMALL) for name in wrapped)
        columns = max(1, int((WIDE - 2 * EDGE) // (width + KEY)))
        lines = max(len(BROKEN.split(name)) for name in wrapped)
        return width, columns, -(-len(names) // columns) * (ENTRY + SMALL * 1.3 * (lines - 1)) + 6

    def _measure(self) -> str | None:
        """Widths of the gutters and of a panel, and the height of everything; a reason where there is no room."""
        for slots, height in zip(self.slots, self.heights, strict=True):
            for slot in slots:
                slot.y_title = wrap(slot.y_title.replace("<br>", " "), height, SMALL)
        self.left = self._gutters(lambda slot: self._names(slot) + _room(slot.y_title, SMALL, 4))
        self.right = self._gutters(lambda slot: max([BESIDE, *(upright(some[0]) for some in self._own(slot))]))
        self.total = EDGE + _room(self.title, TITLE, 8)
        reason = None
        for i, row in enumerate(self.slots):
            needed = max(slot.panel.least() for slot in row)
            if self._width(i) < needed:
                reason = f"a panel has {self._width(i):.0f} pixels, and its cells or names need {needed:.0f}"
            self.total += self._around(i) + self.heights[i] + self._keys_below(i)
        return reason

    def _gutters(self, room: Callable[[Slot], float]) -> list[list[float]]:
        """The room beside the panels, by row: alike in all of them unless panels by themselves share nothing."""
        apart = self.n == 1 and all(slot.ticked for row in self.slots for slot in row)
        rows = [[room(slot) for slot in row] for row in self.slots]
        if apart:
            return rows
        common = [max(row[j] for row in rows if j < len(row)) for j in range(self.n)]
        return [common for _ in rows]

    def _names(self, slot: Slot) -> float:
        return slot.panel.y.width(self.most) + 8 if slot.named else 2.0

    def _width(self, i: int) -> float:
        """Pixels of a panel of a row."""
        return (WIDE - 2 * EDGE - GAP * (self.n - 1) - sum(self.left[i]) - sum(self.right[i])) / self.n

    def _around(self, i: int) -> float:
        """Set the room above and below the panels of a row, and return both together with the gap to the next."""
        for slot in self.slots[i]:
            axis = slot.panel.xaxis
            slot.x, height = across(axis, slot.panel.x, slot.panel.ends[0], self._width(i))
            if axis.showticklabels is False or not slot.ticked:
                slot.x, height = {"showticklabels": False}, 0.0
            ticks = (height + 6, 0.0) if axis.side == "top" else (0.0, height + 6)
            slot.x_title = wrap(slot.x_title.replace("<br>", " "), self._width(i) + 20, SMALL)
            slot.heading = wrap(slot.heading, self.cell, HEADING)
            slot.above = _room(slot.heading, HEADING, 6) + ticks[0]
            slot.below = ticks[1] + _room(slot.x_title, SMALL, 6)
        return sum(max(getattr(slot, way) for slot in self.slots[i]) for way in ("above", "below")) + GAP

    @property
    def cell(self) -> float:
        """Pixels from one panel's left gutter to the next one's."""
        return (WIDE - 2 * EDGE - GAP * (self.n - 1)) / self.n

    def _own(self, slot: Slot) -> list[list[Any]]:
        """The scales of colours that this panel alone has."""
        return [traces for traces in self.scales if len(traces) == 1 and traces[0] in slot.panel.traces]

    def _ending(self, i: int) -> tuple[list[str], list[list[Any]]]:
        """The legends, and the scales that several panels share, whose last panel stands in this row."""
        legends: dict[str, int] = {}
        scales: dict[int, int] = {}
        for k, row in enumerate(self.slots):
            for trace in (trace for slot in row for trace in slot.panel.traces):
                legends[trace.legend or "legend"] = k
                scales |= {n: k for n, some in enumerate(self.scales) if any(trace is one for one in some)}
        shared = [some for n, some in enumerate(self.scales) if len(some) > 1 and scales[n] == i]
        return [name for name in self.keys if legends[name] == i], shared

    def _letters(self, traces: Sequence[Any]) -> str:
        """The letters of the panels that hold some traces."""
        slots = [slot for row in self.slots for slot in row]
        held = [any(trace is one for one in slot.panel.traces for trace in traces) for slot in slots]
        return " and ".join(letter for letter, here in zip(ascii_lowercase, held, strict=False) if here)

    def _keys_below(self, i: int) -> float:
        legends, scales = self._ending(i)
        return sum((self._entry(self.keys[name])[2] for name in legends), float(SCALE * len(scales)))

    def applied(self) -> go.Figure:
        """The figure, with everything in its place."""
        whole = self.whole
        whole.layout.annotations = ()
        whole.update_layout(width=WIDE, height=round(self.total), title=None, margin=dict.fromkeys("lrtb", 0))
        whole.update_layout(margin_autoexpand=False, uniformtext={"minsize": SMALL, "mode": "hide"})
        y = float(EDGE)
        if self.title:
            self._write(self.title, EDGE, y, TITLE)
            y += _room(self.title, TITLE, 8)
        for i, row in enumerate(self.slots):
            above, below = max(slot.above for slot in row), max(slot.below for slot in row)
            for j, slot in enumerate(row):
                self._set(slot, i, j, y, above)
            y += above + self.heights[i] + below
            legends, scales = self._ending(i)
            for traces in scales:
                self._lay(traces, y + 4)
                y += SCALE
            for name in legends:
                y += self._list(name, y + 4)
            y += GAP
        return whole

    def _set(self, slot: Slot, i: int, j: int, y: float | int, above: float) -> None:
        """One panel: its axes, its heading, and its own colour bar."""
        height = self.heights[i]
        width = self._width(i)
        start = EDGE + sum(self.left[i][:j]) + sum(self.right[i][:j]) + j * (width + GAP)
        x0, top = start + self.left[i][j], y + above
        panel = slot.panel
        panel.xaxis.update(domain=[x0 / WIDE, (x0 + width) / WIDE], automargin=False, title_standoff=4, **slot.x)
        panel.xaxis.update(title_text=slot.x_title, tickfont_size=SMALL, title_font_size=SMALL)
        settings = down(panel.yaxis, panel.y, panel.ends[1], height, self.most)
        panel.yaxis.update(domain=[1 - (top + height) / self.total, 1 - top / self.total], automargin=False)
        panel.yaxis.update(title_text=slot.y_title, title_standoff=4, tickfont_size=SMALL, title_font_size=SMALL)
        panel.yaxis.update(showticklabels=slot.named, **settings)
        if slot.heading:
            self._write(slot.heading, start, y, HEADING)
        for [trace] in self._own(slot):
            bar = _holder(trace).colorbar
            bar.update(x=(x0 + width + 5) / WIDE, xanchor="left", xpad=0, ypad=0, thickness=BAR, title_side="right")
            bar.update(y=1 - (top + height / 2) / self.total, yanchor="middle", len=height / self.total)
            bar.update(tickfont_size=SMALL, title_font_size=SMALL)
            bar.title.text = wrap(str(bar.title.text or ""), height, SMALL)

    def _write(self, text: str, x: float | int, y: float | int, size: float | int) -> None:
        self.whole.add_annotation(text=text, font={"size": size, "color": INK}, **corner(x, y, self.total))

    def _lay(self, traces: Sequence[Any], y: float | int) -> None:
        """One colour bar for several panels, below the last of them."""
        for trace in traces:
            _holder(trace).showscale = trace is traces[0]
        bar = _holder(traces[0]).colorbar
        x0 = EDGE + max(row[0] for row in self.left)
        bar.update(orientation="h", x=x0 / WIDE, xanchor="left", y=1 - y / self.total, yanchor="top", xpad=0, ypad=0)
        bar.update(len=(WIDE - EDGE - 20 - x0) / WIDE, thickness=BAR, title_side="top", tickfont_size=SMALL)
        bar.update(title_font_size=SMALL)
        if sum(len(some) > 1 for some in self.scales) > 1:
            bar.title.text = f"{bar.title.text}, panels {self._letters(traces)}"

    def _list(self, name: str, y: float | int) -> float:
        """One legend; returns its height."""
        width, _, height = self._entry(self.keys[name])
        for trace in self.whole.data:
            if (trace.legend or "legend") == name and trace.name:
                trace.name = wrap(str(trace.name), WIDE - 2 * EDGE - KEY, SMALL)
        place = {"x": EDGE / WIDE, "y": 1 - y / self.total, "xanchor": "left", "yanchor": "top", "orientation": "h"}
        look = {"entrywidth": width, "traceorder": "normal", "tracegroupgap": 0, "font": {"size": SMALL}}
        self.whole.update_layout({name: place | look | {"xref": "paper", "yref": "paper"}})
        return height


def _room(text: str, size: float | int, beside: float | int) -> float:
    """Pixels of the lines of a text and of the space beside them; none where there is no text."""
    return text_height(text, size) + beside if text else 0.0


def _same_places(panel: Panel, other: Panel | None) -> bool:
    """Whether a panel above or below writes the same along its horizontal axis."""
    if other is None or not panel.x.chosen or panel.xaxis.showticklabels is False:
        return False
    return panel.x.texts == other.x.texts and panel.ends[0] == other.ends[0]


def upright(trace: Any) -> float:
    """Pixels that an upright colour bar takes beside its panel."""
    bar = _holder(trace).colorbar
    texts = list(bar.ticktext) if bar.ticktext is not None else ["−0.05"]
    title = text_height(str(bar.title.text), SMALL) + 6 if bar.title.text else 0
    return 5 + BAR + 4 + max(text_width(text, SMALL) for text in texts) + title


def _one_scale(panel: Panel, first: Panel) -> bool:
    """Whether both have one vertical scale."""
    name = first.yaxis.plotly_name.replace("axis", "")
    return panel.yaxis.matches is not None and panel.yaxis.matches in (name, first.yaxis.matches)


def _holder(trace: Any) -> Any:
    return trace if trace.type == "heatmap" else trace.marker


def _scales(panels: Sequence[Panel]) -> list[list[Any]]:
    """The traces with a colour bar, those of one scale together; those that leave it to another trace included."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for panel in panels:
        for trace in panel.traces:
            holder = trace if trace.type == "heatmap" else getattr(trace, "marker", None)
            if holder is None or holder.colorscale is None:
                continue
            ends = (holder.zmin, holder.zmax) if trace.type == "heatmap" else (holder.cmin, holder.cmax)
            key = (*ends, str(holder.colorbar.title.text), str(holder.colorscale))
            found.setdefault(key, []).append(trace)
    return [traces for traces in found.values() if any(_holder(trace).showscale is not False for trace in traces)]
