"""Parts of a report section as dataclasses; templates/parts.html.j2 renders each of them.

A `Section` is an anchor, a title, an introduction and parts; parts that hold other parts are drawn from the outside in.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from workbench.papers.recipes import Panel
from workbench.plot.html import Html, json_block
from workbench.plot.tables import cell_text


class Part:
    """Anything that a section can show."""

    @property
    def kind(self) -> str:
        """The name by which the template knows it."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Section:
    """One section of a report, with its identifier in the page's address and its name in the list of contents."""

    anchor: str
    label: str
    title: str
    intro: str
    parts: Sequence[Part]


def section(anchor: str, parts: Sequence[Part], **told: object) -> Section | None:
    """A section with its label, title and introduction from `sections.json`; None without parts."""
    if not parts:
        return None
    words = json.loads((Path(__file__).parent / "sections.json").read_text(encoding="utf-8"))[anchor]
    return Section(anchor, words["label"], words["title"], words["intro"].format(**told), parts)


@dataclass(frozen=True)
class Text(Part):
    """Paragraphs."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Items(Part):
    """A list of sentences."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Facts(Part):
    """Names and values."""

    pairs: Mapping[str, object]


@dataclass(frozen=True)
class Raw(Part):
    """HTML that a plot function made."""

    html: Html


@dataclass(frozen=True)
class Heading(Part):
    """A model's name, with a note in small print."""

    name: str
    note: str = ""


@dataclass(frozen=True)
class Table(Part):
    """A table; columns of numbers stand right, and cells that tell of a failure stand out."""

    columns: Mapping[str, Sequence[object]]
    caption: str = ""

    @property
    def head(self) -> list[tuple[str, bool]]:
        """Each header, and whether its column holds numbers."""
        return [(name, all(_numeric(cell) for cell in cells)) for name, cells in self.columns.items()]

    @property
    def rows(self) -> list[list[tuple[str, str]]]:
        """Each row's cells as text and style."""
        styles = ["wb-num" if numeric else "" for _, numeric in self.head]
        rows = zip(*self.columns.values(), strict=True)
        return [[_cell(cell, style) for cell, style in zip(row, styles, strict=True)] for row in rows]


@dataclass(frozen=True)
class Folded(Part):
    """Parts folded under a line that opens them."""

    summary: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Figure(Part):
    """A panel of a model with its sentence under it, if `caption`, and its numbers as a folded table; then `more`."""

    panel: Panel
    name: str = ""
    heading: Heading | None = None
    caption: bool = True
    more: Sequence[Part] = ()

    @property
    def alternative(self) -> str:
        """The figure's alternative text."""
        what = f"{self.panel.label} for {self.name}" if self.name else self.panel.label
        return f"{what}. {self.panel.sentence}"

    @property
    def behind(self) -> Sequence[Part]:
        """The numbers, and what else follows the caption."""
        table = Table(self.panel.numbers, self.panel.unit)
        return (Folded("The numbers as a table", (table,)), *self.more) if self.panel.numbers else self.more

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.panel.figure.layout.height or 400)

    @property
    def data(self) -> Markup:
        """The figure as JSON."""
        return json_block(self.panel.figure.to_json() or "")


@dataclass(frozen=True)
class Row(Part):
    """Parts side by side where there is room, else under one another."""

    parts: Sequence[Part]


@dataclass(frozen=True)
class Choice(Part):
    """One of several panels at a time, picked by radio buttons; all of them where no script runs.

    `chosen` is the key of the panel that is shown first.
    """

    name: str
    legend: str
    chosen: str
    panels: Mapping[str, tuple[str, Sequence[Part]]]


@dataclass(frozen=True)
class Side:
    """One end of a dialogue: its last turns, and how likely each model is to give in."""

    name: str
    title: str
    turns: Sequence[tuple[str, str]]
    odds: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Dialogue(Part):
    """A dialogue that forks after some turns of a role and a text each."""

    title: str
    turns: Sequence[tuple[str, str]]
    sides: Sequence[Side] = ()


def _numeric(cell: object) -> bool:
    if not isinstance(cell, str):
        return True
    bare = cell.replace("\u2212", "-").replace("%", "").replace("logits", "").replace(",", "").strip()
    try:
        float(bare)
    except ValueError:
        return bare in ("", "\u2013")
    return True


def _cell(value: object, style: str) -> tuple[str, str]:
    text = cell_text(value)
    return text, "wb-bad" if text.startswith("failed") else style
