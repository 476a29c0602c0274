"""Where a published set lies: a local file or folder, rows in memory, or the Hugging Face Hub through `datasets`.

Every row keeps its place ("are_you_sure.jsonl, line 7", "row 7"), so that a malformed one can be named.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import InputError
from workbench.evaluation.rows import Row, read_rows

_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>[^:]+))?(?::(?P<split>\w+))?")
"""Such as "owner/set", "owner/set@main/folder/file.jsonl" or "owner/set:validation"."""


def rows_from(source: Any) -> Iterator[Row]:
    """The rows of a set, each with its place.

    Args:
        source: as for `load_set`.

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
    if found is None:
        raise InputError(
            f"There is no file {Path(name).name!r}. Give a local file or folder, rows, or a set on the Hugging Face "
            "Hub as OWNER/NAME, with @REVISION, /FILE and :SPLIT behind it where needed."
        )
    split = found["split"] or ("train" if found["file"] else None)
    try:
        loaded = datasets.load_dataset(found["name"], data_files=found["file"], revision=found["revision"], split=split)
    except (OSError, ValueError, RuntimeError) as problem:
        reason = str(problem).strip().split("\n")[0]
        raise InputError(
            f"There is no file {name!r} here, and the Hub gives no such set: {reason[:200]} Check the name and the "
            "connection, or fetch the file and give its path."
        ) from problem
    return next(iter(loaded.values())) if isinstance(loaded, Mapping) and len(loaded) == 1 else loaded
