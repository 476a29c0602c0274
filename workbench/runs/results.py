"""Results are labelled Datasets that say how they were made.

`provenance` gives the attributes of a Dataset, `save_result` and `open_result` move it to netCDF and back.
"""

import functools
import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.runs.files import write_atomic

PACKAGES = ("workbench", "torch", "transformers", "transformer-lens", "xarray")
_JSON_ATTR, _ODD_ATTR = "json_attrs", "odd_attrs"
_PLAIN_NAME = re.compile(r"[^\W_][\w (),.:+-]{0,99}")
_TAKEN_NAMES = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "scale_factor", "add_offset", "missing_value")
_TAKEN_NAMES += ("units", "calendar", "coordinates", "grid_mapping", "dtype")
_INT64 = 2**63
_UNREADABLE = re.compile("[\0\ud800-\udfff]")


def provenance(**facts: Any) -> dict[str, Any]:
    """Attributes that say how a Dataset was made: the facts given, versions, date and command.

    Args:
        facts: anything worth keeping (model, device, dtype, seed, ...). None becomes "", a bool an int, a
            path its last part, a mapping its JSON text and any other object its str.
    """
    made: dict[str, Any] = {f"{name.replace('-', '_')}_version": package_version(name) for name in PACKAGES}
    made["python_version"] = platform.python_version()
    made["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    program = Path(sys.argv[0]).parent.name  # What `python -m` ran, whose file is only called __main__.py.
    made["command"] = " ".join(_without_folder(word) for word in sys.argv).replace("__main__.py", program, 1)
    return {key: _safe(value) for key, value in (made | facts).items()}


def save_result(dataset: xr.Dataset, path: str | Path, *, compressed: bool = False) -> Path:
    """Write a Dataset as netCDF, whole or not at all, and return its path; an existing file is replaced.

    Attributes that netCDF cannot hold are turned into text. `compressed` files are smaller and slower; nothing is lost.
    """
    clean = readable(dataset)
    clean.attrs = _netcdf_attrs(clean.attrs)
    for variable in clean.variables.values():
        variable.attrs = _netcdf_attrs(variable.attrs)
        variable.encoding = {}
    checked = [str(n) for n, v in clean.variables.items() if v.ndim and v.size and v.dtype.kind in "fiub"]
    packed = {"zlib": True, "complevel": 9, "shuffle": True} if compressed else {}
    encoding = {name: {"fletcher32": True, **packed} for name in checked}
    try:
        written = clean.to_netcdf(engine="h5netcdf", encoding=encoding)  # HDF5 does not survive a disk that is full.
    except (ValueError, TypeError, NotImplementedError) as cause:
        raise InputError(
            f"This result cannot be kept as netCDF ({cause}). Names of variables and dimensions must be text without a "
            "slash, and each variable must hold numbers or texts."
        ) from cause
    return write_atomic(path, lambda file: file.write_bytes(written))


def readable(dataset: xr.Dataset) -> xr.Dataset:
    """A copy that files can hold: NUL and lone surrogates become U+FFFD in texts, and objects of other kinds texts."""
    attrs = {key: plain(value) if isinstance(value, str | list) else value for key, value in dataset.attrs.items()}
    indexes = [name for name, index in dataset.indexes.items() if index.nlevels > 1]
    texts = {
        name: v
        for name, v in dataset.variables.items()
        if v.dtype.kind in "OU" and name not in indexes and _unreadable(v.values)
    }
    return dataset.assign({name: v.copy(data=_cleaned(v.values)) for name, v in texts.items()}).assign_attrs(attrs)


def text_array(values: Any) -> np.ndarray:
    """Texts, in one list or in lists of equal length, as an array without the characters that no file holds."""
    found = np.array(values, dtype=object)
    for index, value in np.ndenumerate(found):
        found[index] = plain(str(value))
    return found


def open_result(path: str | Path) -> xr.Dataset:
    """Read a Dataset written by `save_result` fully into memory; the file is closed again."""
    path = Path(path).expanduser()
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


@functools.cache
def package_version(package: str) -> str:
    """The installed version of a package; "" where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _without_folder(word: str) -> str:
    """A command-line word whose absolute path, alone or after '=', is cut to its last part."""
    name, equals, value = word.rpartition("=")
    return name + equals + (Path(value).name if Path(value).is_absolute() else value)


def _safe(value: Any) -> Any:
    """The value in the types that attributes may have: str, int, float, or a list."""
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return str(value)
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def _netcdf_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as netCDF holds them; lists that it would change are JSON and named in `json_attrs`.

    Those with names that files refuse or xarray takes for its own stand together in `odd_attrs`, as JSON.
    """
    safe = {plain(str(key)): _safe(value) for key, value in attrs.items()}
    odd = {key: safe.pop(key) for key in [*safe] if not _PLAIN_NAME.fullmatch(key) or key in _TAKEN_NAMES}
    as_json = [key for key, value in safe.items() if isinstance(value, list) and not _kept_by_netcdf(value)]
    written = {key: json.dumps(value) if key in as_json else value for key, value in safe.items()}
    written |= {_ODD_ATTR: json.dumps(odd)} if odd else {}
    return written | ({_JSON_ATTR: json.dumps(as_json)} if as_json else {})


def _kept_by_netcdf(values: list[Any]) -> bool:
    """Whether a list comes back unchanged: one element turns into a scalar, mixed types are refused."""
    kinds = {type(value) for value in values}
    fits = kinds != {int} or -_INT64 <= min(values) <= max(values) < _INT64
    return len(values) > 1 and len(kinds) == 1 and kinds <= {str, int, float} and fits


def _restored_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    stored = plain(attrs)
    as_json, odd = (json.loads(stored.pop(name, empty)) for name, empty in ((_JSON_ATTR, "[]"), (_ODD_ATTR, "{}")))
    return {key: json.loads(value) if key in as_json else value for key, value in stored.items()} | odd


def plain(value: Any) -> Any:
    """Python's own types in place of numpy's, paths, tuples, sets and objects."""
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return value.name
    if value is None or isinstance(value, bool | int | float):
        return value
    return _UNREADABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def _unreadable(values: np.ndarray) -> bool:
    return any(not isinstance(value, str) or _UNREADABLE.search(value) for value in values.flat)


def _cleaned(values: np.ndarray) -> np.ndarray:
    clean = values.copy()
    for index, value in np.ndenumerate(values):
        clean[index] = "" if value is None else plain(str(value))
    return clean
