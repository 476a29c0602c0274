"""The record of one patching run: what identifies it, what of it is finished, and what its result says about itself."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from workbench.models.anatomy import Anatomy
from workbench.models.identity import fingerprint
from workbench.names import Metric
from workbench.patching.scores import contribution
from workbench.prompts.pairs import PromptPairs
from workbench.protocol import HookedModel
from workbench.runs.results import Journal, provenance


class Record:
    """A run over prompts, with its finished pieces on disk if it can be resumed.

    Args:
        model: the model that is patched.
        parts: its anatomy.
        pairs: the prompts.
        metrics: the scores wanted.
        resume: the netCDF file of the result; its pieces lie beside it until the run ends. None keeps nothing on disk.
        identity: what else the numbers depend on, such as the method, the units and the hook.

    Raises:
        InputError: the file belongs to a run with another model, other prompts or another identity.

    Attributes:
        pieces: what is finished, by key.
        result: the whole result, where an earlier run ended; else None.
    """

    def __init__(
        self,
        model: HookedModel,
        parts: Anatomy,
        pairs: PromptPairs,
        metrics: Sequence[Metric],
        resume: str | None,
        **identity: Any,
    ):
        self.parts, self.pairs, self.metrics = parts, pairs, tuple(metrics)
        self.started = time.perf_counter()
        self.config: dict[str, Any] = {
            "model": parts.name,
            "weights": fingerprint(model),
            "prompts": pairs.digest,
            "metrics": list(metrics),
            **identity,
        }
        self.journal = None if resume is None else Journal(resume, self.config)
        self.result = None if self.journal is None else self.journal.result
        self.pieces = {} if self.journal is None or self.result is not None else dict(self.journal.pieces())

    def add(self, key: str, piece: xr.Dataset) -> None:
        """Keep a finished piece."""
        if self.journal is not None:
            self.journal.add(key, piece)
        self.pieces[key] = piece

    def score(
        self,
        base: np.ndarray,
        source: np.ndarray,
        patched: np.ndarray,
        dims: Sequence[str],
        coords: Mapping[str, Any],
        **facts: Any,
    ) -> xr.Dataset:
        """The result from answer logits (see `scores.contribution`), with `facts` and its provenance."""
        seconds = round(time.perf_counter() - self.started, 3)
        attrs = provenance(**self.describe(), **facts, duration_s=seconds)
        return contribution(base, source, patched, dims=dims, coords=coords, metrics=self.metrics, attrs=attrs)

    def describe(self) -> dict[str, Any]:
        """The facts about model and prompts that every patching result carries."""
        parts = self.parts
        return {
            "method": self.config["method"],
            "model": parts.name,
            "architecture": parts.architecture,
            "weights": self.config["weights"],
            "prompts": self.pairs.digest,
            "n_examples": len(self.pairs),
            "n_layers": parts.n_layers,
            "n_heads": parts.n_heads,
            "n_kv_heads": parts.n_kv_heads,
            "group_size": parts.group_size,
            "dtype": parts.dtype,
            "device": parts.device,
        }

    def finish(self, result: xr.Dataset) -> xr.Dataset:
        """Write the whole result, if the run is kept on disk, and hand it back."""
        return result if self.journal is None else self.journal.finish(result)
