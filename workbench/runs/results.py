"""Results are labelled Datasets that say how they were made, and files that are either whole or absent.

`provenance` gives the attributes of a Dataset, `save` and `load` move it to netCDF and back, and `Journal`
keeps the finished pieces of a long run, so that a killed run loses only the piece in flight. Every file is
written under a temporary name and renamed when complete: no reader meets half a file under the final name.
"""

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import uuid
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import xarray as xr

from workbench.errors import InputError, WorkbenchWarning

PACKAGES = ("workbench", "torch", "transformers", "transformer-lens", "xarray")
_CONFIG_ATTR = "resume_config"
_JSON_ATTR = "json_attrs"
_INT64 = 2**63


def provenance(**facts: Any) -> dict[str, Any]:
    """Attributes that say how a Dataset was made: the facts given, versions, date and command.

    Args:
        facts: anything worth keeping (model, device, dtype, seed, ...). None becomes "", a bool an int, a
            path its last part, a mapping its JSON text and any other object its str.
    """
    made: dict[str, Any] = {f"{name.replace('-', '_')}_version": _version(name) for name in PACKAGES}
    made["python_version"] = platform.python_version()
    made["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    made["command"] = " ".join(_without_folder(word) for word in sys.argv)
    return {key: _safe(value) for key, value in (made | facts).items()}


def check_writable(folder: str | Path) -> Path:
    """The folder, created if need be, once a file has been written to it and removed again.

    Call it before a long run, so that a read-only place is found at the start and not at the end.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / _temporary_name("probe")
        probe.touch()
        probe.unlink()
    except OSError as cause:
        raise _unwritable(folder, cause) from cause
    return folder


def save(dataset: xr.Dataset, path: str | Path, *, compressed: bool = False) -> Path:
    """Write a Dataset as netCDF, whole or not at all, and return its path.

    Args:
        dataset: the result; attributes that netCDF cannot hold are turned into text.
        path: the file, whose missing folders are created. An existing file is replaced.
        compressed: smaller and slower; nothing is lost.
    """
    path = Path(path)
    clean = dataset.copy()
    clean.attrs = _netcdf_attrs(dataset.attrs)
    for variable in clean.variables.values():
        variable.attrs = _netcdf_attrs(variable.attrs)
        variable.encoding = {}
    checked = [str(n) for n, v in clean.variables.items() if v.ndim and v.size and v.dtype.kind in "fiub"]
    packed = {"zlib": True, "complevel": 9, "shuffle": True} if compressed else {}
    encoding = {name: {"fletcher32": True, **packed} for name in checked}
    _write(path, lambda file: clean.to_netcdf(file, engine="h5netcdf", encoding=encoding))
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write a text, whole or not at all, and return its path.

    Args:
        path: the file, whose missing folders are created. An existing file is replaced.
        text: what to write.
    """
    path = Path(path)
    _write(path, lambda file: file.write_text(text, encoding="utf-8"))
    return path


def load(path: str | Path) -> xr.Dataset:
    """Read a Dataset written by `save` fully into memory; the file is closed again.

    Args:
        path: the netCDF file.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "no such file"
        raise InputError(f"Cannot read the result {path}: {what}. Check the name, or run the measurement again.")
    try:
        dataset = xr.load_dataset(path, engine="h5netcdf")
    except Exception as cause:  # h5py and xarray raise many kinds for a damaged file
        raise InputError(
            f"The result file {path} ({path.stat().st_size} bytes) cannot be read as netCDF: it is damaged, "
            f"cut short or of another kind ({type(cause).__name__}: {cause}). Delete it and run the "
            "measurement again."
        ) from cause
    dataset.attrs = _restored_attrs(dataset.attrs)
    for variable in dataset.variables.values():
        variable.attrs = _restored_attrs(variable.attrs)
    return dataset


class Journal:
    """The finished pieces of a long run, on disk, together with the configuration they belong to.

    Pieces lie in `<path>.parts/` until `finish` writes the whole result to `path`.

    Args:
        path: the file of the final result, for example `out/patch.nc`.
        config: everything that the pieces depend on. A run under another configuration is refused.

    Attributes:
        result: the final Dataset when the run had been finished before, else None.
        done: keys of the pieces that are on disk and readable.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]):
        self.path = Path(path)
        self.config = _canonical(config)
        self.parts = self.path.with_name(self.path.name + ".parts")
        self.result: xr.Dataset | None = None
        self.done: set[str] = set()
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder; give a file in it, such as {self.path / 'result.nc'}.")
        if self.path.exists():
            self._open_final()
        else:
            self._open_parts()

    def add(self, key: str, dataset: xr.Dataset) -> None:
        """Write one finished piece.

        Args:
            key: its name, unique within the run.
            dataset: the piece.
        """
        save(dataset, self._file(key))
        self.done.add(key)

    def pieces(self) -> dict[str, xr.Dataset]:
        """The finished pieces by key, with numbers in the keys in counting order."""
        return {key: load(self._file(key)) for key in sorted(self.done, key=_counting_order)}

    def finish(self, dataset: xr.Dataset) -> xr.Dataset:
        """Write the whole result, remove the pieces, and return the result as written.

        Args:
            dataset: the assembled result.
        """
        self.result = dataset.assign_attrs({_CONFIG_ATTR: json.dumps(self.config, sort_keys=True)})
        save(self.result, self.path)
        shutil.rmtree(self.parts, ignore_errors=True)
        return self.result

    def _open_final(self) -> None:
        dataset = load(self.path)
        if _CONFIG_ATTR not in dataset.attrs:
            raise InputError(
                f"{self.path} exists and was not written by a run that can be resumed. Choose another file, "
                "or delete it."
            )
        self._same_config(json.loads(dataset.attrs[_CONFIG_ATTR]), self.path)
        self.result = dataset
        shutil.rmtree(self.parts, ignore_errors=True)

    def _open_parts(self) -> None:
        check_writable(self.parts)
        card = self.parts / "config.json"
        files = sorted(self.parts.glob("*.nc"))
        if card.exists():
            self._same_config(self._read_card(card), self.parts)
        elif files:
            raise self._no_card("holds pieces of a run but no config.json")
        else:
            text = json.dumps(self.config, sort_keys=True, indent=1)
            _write(card, lambda file: file.write_text(text))
        for file in files:
            try:
                load(file)
            except InputError as cause:
                warnings.warn(
                    f"A piece of the run is ignored and computed again. {cause}",
                    WorkbenchWarning,
                    stacklevel=4,
                )
            else:
                self.done.add(unquote(file.name.removesuffix(".nc")))

    def _read_card(self, card: Path) -> dict[str, Any]:
        try:
            return json.loads(card.read_text())
        except ValueError as cause:
            raise self._no_card(f"has an unreadable config.json ({cause})") from cause

    def _no_card(self, what: str) -> InputError:
        return InputError(
            f"{self.parts} {what}, so nobody can tell which run its pieces belong to. Delete that folder to start over."
        )

    def _same_config(self, stored: dict[str, Any], where: Path) -> None:
        there, now = (
            {key: json.dumps(value, sort_keys=True) for key, value in config.items()}
            for config in (stored, self.config)
        )
        differing = [
            f"{key}: {there.get(key, 'absent')} there, {now.get(key, 'absent')} now"
            for key in sorted(there.keys() | now.keys())
            if there.get(key) != now.get(key)
        ]
        if differing:
            raise InputError(
                f"{where} belongs to a run with another configuration ({'; '.join(differing)}). Resume with "
                "the same configuration, choose another file, or delete it."
            )

    def _file(self, key: str) -> Path:
        return self.parts / (quote(key, safe="") + ".nc")


def _write(path: Path, writer: Callable[[Path], object]) -> None:
    """Let `writer` fill a temporary file beside `path`, then rename it."""
    temporary = path.parent / _temporary_name(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(temporary)
        os.replace(temporary, path)
    except OSError as cause:
        raise _unwritable(path, cause) from cause
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary_name(name: str) -> str:
    return f".{name[:100]}.{uuid.uuid4().hex[:12]}.tmp"


def _unwritable(path: Path, cause: OSError) -> InputError:
    reason = os.strerror(cause.errno) if cause.errno else str(cause)
    return InputError(
        f"Cannot write {path} ({reason}). The place is read-only, full or inside a file: choose another "
        "place for the output, or change its permissions."
    )


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _without_folder(word: str) -> str:
    """A command-line word whose absolute path, alone or behind '=', is cut to its last part."""
    name, equals, value = word.rpartition("=")
    return name + equals + (Path(value).name if Path(value).is_absolute() else value)


def _safe(value: Any) -> Any:
    """The value in the types that attributes may have: str, int, float, or a list."""
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return str(value)
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def _netcdf_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as netCDF holds them; lists that it would change are JSON and named in `json_attrs`."""
    safe = {str(key): _safe(value) for key, value in attrs.items()}
    as_json = [key for key, value in safe.items() if isinstance(value, list) and not _kept_by_netcdf(value)]
    written = {key: json.dumps(value) if key in as_json else value for key, value in safe.items()}
    return written | ({_JSON_ATTR: json.dumps(as_json)} if as_json else {})


def _kept_by_netcdf(values: list[Any]) -> bool:
    """Whether a list comes back unchanged: one element turns into a scalar, mixed types are refused."""
    kinds = {type(value) for value in values}
    return len(values) > 1 and len(kinds) == 1 and kinds <= {str, int, float}


def _restored_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    plain = {str(key): _plain(value) for key, value in attrs.items()}
    as_json = json.loads(plain.pop(_JSON_ATTR, "[]"))
    return {key: json.loads(value) if key in as_json else value for key, value in plain.items()}


def _plain(value: Any) -> Any:
    """Python's own types in place of numpy's, paths, tuples, sets and objects."""
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.name
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def _canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(_plain(config), sort_keys=True))


def _counting_order(key: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", key)]
