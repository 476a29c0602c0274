"""Rows of data: local files and folders, values in memory, or the Hugging Face Hub through `datasets`.

Every row keeps its place ("test.jsonl, line 7", "row 7"), so that a malformed one can be named.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from workbench.errors import InputError, first_line

Made = TypeVar("Made")
SUFFIXES = (".jsonl", ".json", ".csv", ".gz")
_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>[^:]+))?(?::(?P<split>\w+))?")
"""Such as "owner/set", "owner/set@main/folder/file.jsonl" or "owner/set:validation"."""


@dataclass(frozen=True)
class Row:
    """One row and where it stands, such as "test.jsonl, line 7"."""

    where: str
    values: dict[str, Any]


class Malformed(InputError):
    """A row is not what its task needs; the text says why."""


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of a .jsonl, .jsonl.gz, .json or .csv file; a .json file is a list, or has one under "examples".

    A line that is no JSON object gives a row without values under the key "error".
    """
    text = _text(file)
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for values in reader:
            yield Row(f"{file.name}, line {reader.line_num}", dict(values))
    elif file.suffix == ".json" and text.lstrip().startswith(("[", "{")) and not _is_lines(text):
        for i, values in enumerate(_whole(file, text)):
            yield Row(f"{file.name}, entry {i}", values if isinstance(values, dict) else {"error": "is no object"})
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield Row(f"{file.name}, line {number}", _object(line))


def make(rows: Iterable[Row], maker: Callable[[dict[str, Any]], Made], *, skip: bool) -> list[Made]:
    """What a maker makes of each row.

    Args:
        rows: from `read_rows`.
        maker: raises `Malformed`, KeyError, TypeError, ValueError or IndexError on a row that it cannot use.
        skip: leave such rows out; else the first is an InputError that names its place.
    """
    made = []
    for row in rows:
        try:
            if "error" in row.values:
                raise Malformed(row.values["error"])
            made.append(maker(row.values))
        except (InputError, KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
            if not skip:
                why = f"lacks {problem}" if isinstance(problem, KeyError) else str(problem)
                raise InputError(
                    f"{row.where} is malformed: {why} The row is {str(row.values)[:120]!r}. Repair the file, or pass "
                    "skip_malformed=True to leave such rows out."
                ) from problem
    return made


def find(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of some files that exists in a folder.

    Raises:
        InputError: none of them does.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    there = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else []
    what = f"holds {', '.join(there) or 'nothing'}" if folder.is_dir() else "does not exist"
    raise InputError(
        f"No {' or '.join(names)} in {folder.name}/, which {what}. Give the folder that has the benchmarks as "
        "sub-folders (mmlu/, gsm8k/, …), with the files as their authors published them."
    )


def rows_from(source: Any) -> Iterator[Row]:
    """The rows of a set, each with its place.

    Args:
        source: a .jsonl, .jsonl.gz, .json or .csv file, a folder of .jsonl files, dictionaries (a list, or a split of
            the `datasets` library), or a set on the Hub: "owner/name", with "@revision", "/file.jsonl" and ":split"
            after it where needed.

    Raises:
        InputError: no such file, an empty folder, several splits, or a name that the Hub does not give.
    """
    if not isinstance(source, str | Path):
        yield from _in_memory(source)
        return
    path = Path(source).expanduser()
    if not path.exists():
        yield from _in_memory(_from_hub(str(source)))
        return
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"The folder {path.name!r} holds no .jsonl file; give the file itself.")
    for file in files:
        yield from read_rows(file)


def name_of(source: Any) -> str:
    """What a message calls a source."""
    return Path(source).name if isinstance(source, str | Path) else "The source"


def _text(file: Path) -> str:
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{file.name} cannot be read: {error}. The file is damaged; fetch it again.") from error


def _is_lines(text: str) -> bool:
    """Whether a .json file holds one object per line."""
    first = text.lstrip().split("\n", 1)[0]
    return first.rstrip().endswith("}") and "error" not in _object(first)


def _whole(file: Path, text: str) -> list[Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{file.name} is no JSON: {error}. The file is damaged; fetch it again.") from error
    return data["examples"] if isinstance(data, dict) and "examples" in data else data if isinstance(data, list) else []


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        return {"error": f"is no JSON ({error})."}
    return found if isinstance(found, dict) else {"error": "is no JSON object."}


def _in_memory(source: Any) -> Iterator[Row]:
    if isinstance(source, Mapping):
        raise InputError(
            f"The source holds the splits {', '.join(map(str, source))}; give one of them, on the Hub as "
            "OWNER/NAME:SPLIT."
        )
    if not isinstance(source, Iterable):
        raise InputError(f"A set is a file, a folder, a Hub name or rows, not {type(source).__name__}.")
    for i, values in enumerate(source):
        yield Row(f"row {i}", dict(values) if isinstance(values, Mapping) else {"error": "is no dictionary."})


def _from_hub(name: str) -> Any:
    """What `datasets` loads by a name: the rows of a file or split, of the only split, or all splits."""
    import datasets

    found = _HUB.fullmatch(name)
    if found is None or found["name"].endswith(SUFFIXES):
        raise InputError(
            f"There is no file {Path(name).name!r}. Give a local file or folder, rows, or a set on the Hugging Face "
            "Hub as OWNER/NAME, with @REVISION, /FILE and :SPLIT after it where needed."
        )
    split = found["split"] or ("train" if found["file"] else None)
    try:
        loaded = datasets.load_dataset(found["name"], data_files=found["file"], revision=found["revision"], split=split)
    except (OSError, ValueError, RuntimeError) as problem:
        raise InputError(
            f"There is no file {name!r} here, and the Hub gives no such set: {first_line(problem)[:200]} Check the "
            "name and the connection, or fetch the file and give its path."
        ) from problem
    return next(iter(loaded.values())) if isinstance(loaded, Mapping) and len(loaded) == 1 else loaded
