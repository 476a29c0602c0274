"""Cache of measured Datasets as netCDF files: a file is reused only with the configuration that it was made with."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray as xr

import workbench as wb
from workbench.errors import InputError
from workbench.models.embedded import EmbeddedModel, embedded
from workbench.protocol import HookedModel
from workbench.runs.results import open_result, provenance, save_result

CONFIG = "figure_config"


class Source:
    """A model by its name, or anything else that `load` takes, loaded when first needed."""

    def __init__(self, source: Any):
        self.source = source
        self.named = isinstance(source, str | Path)

    @property
    def name(self) -> str:
        """What the model is called; the last part of a folder's path."""
        if self.named:
            return Path(str(self.source)).name if Path(str(self.source)).exists() else str(self.source)
        return wb.anatomy(self.model).name

    @property
    def embedded(self) -> EmbeddedModel | None:
        """The embedded model of this name, if there is one."""
        return embedded(str(self.source)) if self.named else None

    def record(self, file: str) -> Path | None:
        """The file of a measurement that the embedded model of this name comes with."""
        return None if self.embedded is None else self.embedded.record(file)

    def require_own_questions(self, advice: str, lack: str = "it needs questions") -> None:
        """Refuse a model that brings no questions of its own, before its weights are loaded, with what to give."""
        if not self.named or self.embedded is not None:
            return
        from transformers import AutoTokenizer

        where, _, revision = str(self.source).partition("@")
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, revision=revision or "main")
        except (OSError, ValueError, KeyError):
            return  # Loading the model tells what is wrong.
        if getattr(tokenizer, "chat_template", None) != EmbeddedModel.chat_template:
            raise InputError(f"This is not an embedded model, so {lack}: {advice}")

    @cached_property
    def model(self) -> HookedModel:
        """The loaded model."""
        return quiet_load(self.source)

    @cached_property
    def identity(self) -> dict[str, str]:
        """What a kept result must have been made from: the name, the folder's files and this package's version."""
        return {
            "source": str(self.source) if self.named else "in memory",
            "files": _files(self.source) if self.named else "",
            "workbench": provenance()["workbench_version"],
        }


def quiet_load(source: Any, dtype: str | None = None) -> HookedModel:
    """`load` without Transformers' own progress bars, which would tear ours apart."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return wb.load(source, dtype=dtype)
    finally:
        if shown:
            logging.enable_progress_bar()


def kept(path: Path | None, source: Source, config: Mapping[str, Any], measure: Callable[[], xr.Dataset]) -> xr.Dataset:
    """The Dataset in a file if it was made with this configuration, else a new one that is written there.

    A damaged file is measured anew, and so is everything about a model in memory, which may have changed. No path keeps
    nothing; `config` is everything that the result depends on besides the model.
    """
    text = json.dumps(source.identity | dict(config), sort_keys=True, default=str)
    if path is not None and source.named and path.exists():
        with suppress(InputError):
            found = open_result(path)
            if found.attrs.get(CONFIG) == text:
                return found
    found = measure().assign_attrs({CONFIG: text})
    if path is not None:
        save_result(found, path)
    return found


def digest(thing: object) -> str:
    """A short digest of anything with a faithful repr."""
    return hashlib.sha256(repr(thing).encode()).hexdigest()[:16]


def _files(source: str | Path) -> str:
    """A digest of a local folder's file names, sizes and times; empty for a model's name."""
    shipped = embedded(str(source))
    folder = shipped.folder() if shipped else Path(source)
    if not folder.is_dir():
        return ""
    return digest(sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file()))
