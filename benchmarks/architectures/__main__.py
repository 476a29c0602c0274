"""The command: measure rows, print the table, write it into a page. See the package's docstring."""

import argparse
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from tqdm.auto import tqdm

from benchmarks.architectures.rows import CELLS, Row, Status, row
from tests.zoo import known

BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
PACKAGES = ("torch", "transformers", "transformer-lens")


def table(rows: Sequence[Row]) -> str:
    """All rows with their refusals as numbered notes, and how many are right."""
    notes: dict[str, int] = {}
    lines = [f"| architecture | {' | '.join(CELLS)} | largest error |", "|---" * (len(CELLS) + 2) + "|"]
    lines += [_line(one, notes) for one in rows]
    counts = {status: sum(one.status == status for one in rows) for status in get_args(Status)}
    versions = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in PACKAGES)
    said = (
        f"{len(rows)} architectures with {versions}: {counts['right']} load, and every cell is right or a refusal; "
        f"{counts['refused']} are refused when loading; {counts['not built']} could not be built; "
        f"{counts['wrong']} have a wrong number, {counts['raw']} another exception."
    )
    return "\n\n".join([said, "\n".join(lines), "\n".join(f"{number}. {text}" for text, number in notes.items())])


def _line(one: Row, notes: dict[str, int]) -> str:
    errors = [cell.error for cell in one.cells.values() if cell.status in ("right", "wrong")]
    columns = [_short(one.name), *(_cell(one, name, notes) for name in CELLS)]
    return f"| {' | '.join([*columns, f'{max(errors):.0e}' if errors else '–'])} |"


def _cell(one: Row, name: str, notes: dict[str, int]) -> str:
    cell = one.cells.get(name)
    if cell is None:
        return "–"
    if cell.status == "right":
        return one.computed if name == "path patching" else "right"
    if cell.status == "wrong":
        return f"WRONG {cell.error:.0e}"
    reason = _reason(one.name, cell.why)
    number = notes.setdefault(reason, len(notes) + 1)
    return f"{'RAW' if cell.status == 'raw' else cell.status} {number}"


def _reason(name: str, why: str) -> str:
    """A refusal without what is the model's own: its name, which is X, and the numbers of layers."""
    text = " ".join(why.split()).replace(name, "X").split(" Known: ")[0]
    text = re.sub(r"(?<=[a-z])\.\d+\.", ".N.", text)
    return text if len(text) <= 300 else text[:300].rsplit(" ", 1)[0] + " …"


def _short(name: str) -> str:
    return re.sub(r"(ForCausalLM|LMHeadModel)$", "", name)


def write(page: Path, text: str) -> None:
    """Put a table between the markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> None:
    """Measure the asked rows; exit code 1 where one is wrong or raw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of architectures' names; by default all")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    asked = parser.parse_args()
    names = [name for name in known() if not asked.names or name.startswith(tuple(asked.names))]
    rows = [row(name) for name in tqdm(names, desc="architectures")]
    text = table(rows)
    print(text)
    if asked.write:
        write(asked.write, text)
    raise SystemExit(any(one.status in ("wrong", "raw") for one in rows))


if __name__ == "__main__":
    main()
