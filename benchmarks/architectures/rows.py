"""A row of the table: every cell of one architecture, with all that went wrong told apart."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import workbench as wb
from benchmarks.architectures import cells
from benchmarks.architectures.cells import LIMIT, Subject

Status = Literal["right", "refused", "not built", "wrong", "raw"]
CELLS: dict[str, Callable[[Subject], float]] = {
    "load": cells.load,
    "path patching": cells.path,
    "z": cells.z,
    "q, k": cells.query_key,
    "v": cells.value,
    "pattern": cells.pattern,
    "stream": cells.stream,
    "sinks": cells.sinks,
    "scores": cells.scores,
    "zeroing": cells.zeroing,
    "tuning": cells.tuning,
    "export": cells.export,
    "padding": cells.padding,
}


@dataclass(frozen=True)
class Cell:
    """What a cell found; `why` is the error's text where there was one."""

    status: Status
    error: float = float("nan")
    why: str = ""


@dataclass(frozen=True)
class Row:
    """All cells of an architecture, and how its path patching is computed."""

    name: str
    cells: dict[str, Cell]
    computed: str = ""

    @property
    def status(self) -> Status:
        """ "right" where nothing is wrong and no cell ended in a raw exception; "refused" where it does not load."""
        kinds = [cell.status for cell in self.cells.values()]
        for bad in ("raw", "wrong"):
            if bad in kinds:
                return bad
        return self.cells["load"].status


def row(name: str) -> Row:
    """Measure one architecture."""
    subject = Subject(name)
    try:
        _ = subject.plain
    except ImportError as missing:
        return Row(
            name, {"load": Cell("not built", why=" ".join(str(missing).split()).partition(" You can install")[0])}
        )
    found = {"load": _cell(CELLS["load"], subject)}
    if found["load"].status != "right":
        return Row(name, found)
    found |= {key: _cell(CELLS[key], subject) for key in CELLS if key != "load"}
    return Row(name, found, str(wb.check(subject.model).attrs["computed"]))


def _cell(measure: Callable[[Subject], float], subject: Subject) -> Cell:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            error = measure(subject)
    except wb.InputError as refusal:
        return Cell("refused", why=str(refusal))
    except Exception as fault:  # whatever else it is, is what this looks for
        return Cell("raw", why=f"{type(fault).__name__}: {fault}")
    return Cell("right" if error <= LIMIT else "wrong", error)
