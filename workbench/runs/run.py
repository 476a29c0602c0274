"""One measurement run: configuration, timing, provenance, and resuming after a kill.

    with Run(resume, method="path_patch", model=name) as run:
        if run.finished is not None:
            return run.finished
        pieces = [run.piece(key, lambda: measure(key)) for key in keys]
        return run.finish(assembled(pieces), device="cpu")

With `resume`, each finished piece is a file in `<resume>.parts/` until `finish` writes the whole result: a killed run
loses only the piece in flight. One run at a time may write there. Without, pieces are only remembered.
"""

import contextlib
import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import xarray as xr

from workbench.errors import InputError, WorkbenchWarning
from workbench.runs.batching import Batches
from workbench.runs.files import check_writable, locked, write_text
from workbench.runs.results import open_result, plain, provenance, readable, save_result

_CONFIG_ATTR = "resume_config"


class Run:
    """One measurement.

    Args:
        resume: the netCDF file of the result, for example `out/patch.nc`; None keeps nothing on disk.
        config: everything that the pieces depend on, which also becomes attributes of the result. A file of another
            configuration is refused.

    Raises:
        InputError: the file belongs to another run, cannot be written, or another process is writing it.

    Attributes:
        finished: the whole result, where an earlier run ended; else None.
        pieces: the finished pieces by key; those of an earlier run first, with numbers in the keys in counting order.
        parts: the folder of the pieces, None where nothing is kept on disk.
    """

    def __init__(self, resume: str | Path | None = None, /, **config: Any):
        self.began = time.perf_counter()
        self.config = config
        self.finished: xr.Dataset | None = None
        self.pieces: dict[str, xr.Dataset] = {}
        self.path = None if resume is None else Path(resume).expanduser()
        self.parts = self.path and self.path.with_name(f"{self.path.name}.parts")
        self._lock = contextlib.ExitStack()
        if self.path and self.parts:
            self._open(self.path, self.parts)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def beside(self, name: str) -> Path | None:
        """A file or folder among the pieces, for the `resume` of a run within this one; None if this has none."""
        return self.parts and self.parts / "runs" / name

    def piece(self, key: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """The finished piece of that key, or what `compute` gives, which is kept."""
        return self.pieces[key] if key in self.pieces else self.add(key, compute())

    def add(self, key: str, dataset: xr.Dataset) -> xr.Dataset:
        """Keep a finished piece under a key that is unique within the run, and return it."""
        if self.parts is not None:
            save_result(dataset, _piece_file(self.parts, key))
        self.pieces[key] = dataset
        return dataset

    def left(self, n: int) -> list[int]:
        """Which of `n` examples are in no piece yet, by the pieces' coordinate `example`.

        A piece with an example that an earlier piece has is dropped, and its other examples are computed again.
        """
        done: set[int] = set()
        for key, examples in self._examples().items():
            if done.isdisjoint(examples) and len(set(examples)) == len(examples):
                done.update(examples)
            else:
                self._drop(key)
        return [i for i in range(n) if i not in done]

    def over(
        self,
        members: Sequence[int],
        batches: Batches,
        work: Callable[[list[int]], xr.Dataset],
        step: Callable[[int], object] = lambda n: None,
    ) -> None:
        """Apply `work` to batches of examples, each batch a piece; `step` is told how many examples are done."""
        for batch, piece in batches.over(members, work):
            self.add(f"from example {min(batch)}", piece.assign_coords(example=batch))
            step(len(batch))

    def joined(self, n: int, ragged: str = "", fill: Mapping[str, Any] | None = None) -> xr.Dataset:
        """All pieces in the order of the examples, as one.

        Args:
            n: how many examples there must be, each once.
            ragged: a dimension along which pieces differ in size; shorter ones are filled up.
            fill: with what, by variable; all others with NaN.

        Raises:
            InputError: an example is missing or there twice.
        """
        if sorted(chain.from_iterable(self._examples().values())) != list(range(n)):
            raise InputError(
                f"The pieces in {self.parts} do not hold each of {n} examples once: another run has written there. "
                "Delete that folder to start over."
            )
        pieces = list(self.pieces.values())
        if ragged:
            width = max(piece.sizes[ragged] for piece in pieces)
            pieces = [_widened(piece, ragged, width, fill or {}) for piece in pieces]
        return xr.concat(pieces, "example", data_vars="minimal").sortby("example")

    def facts(self, **more: Any) -> dict[str, Any]:
        """Attributes of the result: the configuration, further facts, `duration_s` until now, and `provenance`."""
        return provenance(**self.config | {"duration_s": round(time.perf_counter() - self.began, 3)} | more)

    def finish(self, dataset: xr.Dataset, /, **more: Any) -> xr.Dataset:
        """Describe the result by the configuration and `more`, write it in place of the pieces, and return it."""
        result = readable(dataset.assign_attrs(self.facts(**more)))
        if not (self.path and self.parts):
            return result
        self.finished = result.assign_attrs({_CONFIG_ATTR: json.dumps(canonical(self.config), sort_keys=True)})
        save_result(self.finished, self.path)
        self._lock.close()
        shutil.rmtree(self.parts, ignore_errors=True)
        return self.finished

    def _examples(self) -> dict[str, list[int]]:
        """The examples of each piece."""
        return {key: [int(i) for i in piece["example"].values] for key, piece in self.pieces.items()}

    def _drop(self, key: str) -> None:
        del self.pieces[key]
        if self.parts is not None:
            _piece_file(self.parts, key).unlink(missing_ok=True)
        _warn_of_piece(f"It holds an example that another piece holds too: {key}.")

    def _open(self, path: Path, parts: Path) -> None:
        if path.is_dir():
            raise InputError(f"{path} is a folder; give a file in it, such as {path / 'result.nc'}.")
        with contextlib.ExitStack() as lock:
            if not path.exists():
                lock.enter_context(locked(check_writable(parts) / "lock", path))
            if path.exists():
                self._open_finished(path)
                shutil.rmtree(parts, ignore_errors=True)
            else:
                self._open_parts(parts)
                self._lock = lock.pop_all()

    def _open_finished(self, path: Path) -> None:
        dataset = open_result(path)
        if _CONFIG_ATTR not in dataset.attrs:
            raise InputError(
                f"{path} exists and was not written by a run that can be resumed. Choose another file, or delete it."
            )
        refuse_other(json.loads(dataset.attrs[_CONFIG_ATTR]), self.config, path)
        self.finished = dataset

    def _open_parts(self, parts: Path) -> None:
        card = parts / "config.json"
        files = {unquote(file.name.removesuffix(".nc")): file for file in parts.glob("*.nc")}
        if card.exists():
            refuse_other(_read_card(card), self.config, parts)
        elif files:
            raise _unknown(parts, "holds pieces of a run but no config.json")
        else:
            write_text(card, json.dumps(canonical(self.config), sort_keys=True, indent=1))
        for key in sorted(files, key=_counting_order):
            try:
                self.pieces[key] = open_result(files[key])
            except InputError as cause:
                _warn_of_piece(str(cause))


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in JSON's types."""
    return json.loads(json.dumps(plain(config), sort_keys=True))


def refuse_other(stored: Mapping[str, Any], config: Mapping[str, Any], where: Path, what: str = "run") -> None:
    """Raise where the stored configuration of a file differs from that of the run that wants to go on from it."""
    there, now = _flat(stored), _flat(canonical(config))
    differing = [
        f"{key}: {there.get(key, 'absent')} there, {now.get(key, 'absent')} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key) != now.get(key)
    ]
    if differing:
        raise InputError(
            f"{where} belongs to a {what} with another configuration ({'; '.join(differing)}). Resume with the same "
            "configuration, choose another file, or delete it."
        )


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Values as JSON text, those of a mapping by `outer.inner`."""
    found: dict[str, str] = {}
    for key, value in config.items():
        nested = isinstance(value, dict) and value
        found |= _flat(value, f"{before}{key}.") if nested else {before + key: json.dumps(value, sort_keys=True)}
    return found


def _read_card(card: Path) -> dict[str, Any]:
    try:
        return json.loads(card.read_text(encoding="utf-8"))
    except ValueError as cause:
        raise _unknown(card.parent, f"has an unreadable config.json ({cause})") from cause


def _widened(piece: xr.Dataset, dim: str, width: int, fill: Mapping[str, Any]) -> xr.Dataset:
    """A piece filled up along a dimension; what is filled with a given value keeps its type."""
    gap = {dim: (0, width - piece.sizes[dim])}
    wide = piece.drop_vars(list(fill)).pad(gap)
    return wide.assign({name: piece[name].pad(gap, constant_values=value) for name, value in fill.items()})


def _piece_file(parts: Path, key: str) -> Path:
    return parts / f"{quote(key, safe='')}.nc"


def _warn_of_piece(why: str) -> None:
    warnings.warn(f"A piece of the run is ignored and computed again. {why}", WorkbenchWarning, stacklevel=6)


def _unknown(parts: Path, what: str) -> InputError:
    return InputError(
        f"{parts} {what}, so it is unknown which run its pieces belong to. Delete that folder to start over."
    )


def _counting_order(key: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", key)]
