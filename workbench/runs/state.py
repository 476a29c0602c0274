"""A training run on disk: one safetensors file that is either whole or absent, from which it goes on after a kill.

It holds the trained parameters, AdamW's moments, the curves so far and the configuration, and nothing of the frozen
model. Another configuration is refused with the differences named.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.errors import InputError

Curves = dict[str, np.ndarray]


@dataclass(frozen=True)
class State:
    """Where a run stands: `step` updates have been made; moments are AdamW's, by the number of the parameter."""

    step: int
    parameters: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]
    curves: Curves


class StateFile:
    """The file of one run.

    Args:
        path: such as "tuning.safetensors".
        config: everything that the run depends on.
        what: the kind of run, for messages.

    Raises:
        InputError: the file belongs to another run, or is no such file.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], what: str = "tuning"):
        self.path, self.what = Path(path), what
        self.config = json.loads(json.dumps(dict(config), default=str, sort_keys=True))
        if self.path.is_dir():
            raise InputError(f"resume={self.path} is a folder; give a file in it, such as {self.path / what}.")

    def load(self) -> State | None:
        """The state, None where there is no file yet."""
        if not self.path.exists():
            return None
        try:
            with safe_open(str(self.path), "pt") as file:
                notes = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
            stored, step = json.loads(notes["config"]), int(notes["step"])
        except (SafetensorError, OSError, KeyError, ValueError) as cause:
            raise InputError(
                f"{self.path} exists and holds no state of a {self.what} run ({type(cause).__name__}). Choose another "
                "file, or delete it."
            ) from cause
        self._refuse_other(stored)
        by_kind: dict[str, dict[str, Tensor]] = {"parameter": {}, "moment": {}, "curve": {}}
        for name, tensor in tensors.items():
            kind, rest = name.split("/", 1)
            by_kind[kind][rest] = tensor
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in by_kind["moment"].items():
            number, key = name.split("/")
            moments.setdefault(int(number), {})[key] = tensor
        curves = {name: tensor.numpy() for name, tensor in by_kind["curve"].items()}
        return State(step, by_kind["parameter"], moments, curves)

    def save(self, state: State) -> None:
        """Replace the file by a later state."""
        tensors = {f"parameter/{name}": p for name, p in state.parameters.items()}
        for number, moments in state.moments.items():
            tensors |= {f"moment/{number}/{key}": value for key, value in moments.items()}
        tensors |= {f"curve/{name}": torch.from_numpy(values) for name, values in state.curves.items()}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        temporary = self.path.parent / f".{self.path.name[:80]}.{uuid.uuid4().hex[:12]}.tmp"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, str(temporary), {"config": json.dumps(self.config), "step": str(state.step)})
            os.replace(temporary, self.path)
        except (OSError, SafetensorError) as cause:
            raise InputError(
                f"Cannot write the state of the run to {self.path} after step {state.step} ({cause}). The place is "
                "read-only or full; an older state there is still whole. Choose another place, or make room, and "
                "resume."
            ) from cause
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _refuse_other(self, stored: dict[str, Any]) -> None:
        differing = [
            f"{key}: {stored.get(key, 'absent')} there, {self.config.get(key, 'absent')} now"
            for key in sorted(stored.keys() | self.config.keys())
            if stored.get(key) != self.config.get(key)
        ]
        if differing:
            raise InputError(
                f"{self.path} belongs to a {self.what} run with another configuration ({'; '.join(differing)}). Resume "
                "with the same one, choose another file, or delete it."
            )
