"""Training state on disk: one atomically written safetensors file from which a run resumes after a kill.

It holds the trained parameters, the optimizer's moments, the curves so far and the configuration, and nothing that is
frozen. Another configuration is refused with the differences named.
"""

import contextlib
import json
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
from workbench.runs.files import check_writable, locked, write_atomic
from workbench.runs.processes import Processes, gathered, process_state, shard_like
from workbench.runs.run import canonical, refuse_other

Curves = dict[str, np.ndarray]


@dataclass(frozen=True)
class State:
    """Where a run stands: after `step` updates; moments are the optimizer's, by the number of the parameter."""

    step: int
    parameters: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]
    curves: Curves


class StateFile:
    """The file of one run, which no other run may write within its `with` block.

    `config` is everything that the run depends on, `what` the kind of run, for messages.

    Raises:
        InputError: the file belongs to another run, is no such file, or another run is writing it.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], what: str = "tuning"):
        self.path, self.what = Path(path).expanduser(), what
        self.config = canonical(config)
        if self.path.is_dir():
            raise InputError(f"resume={self.path} is a folder; give a file in it, such as {self.path / what}.")
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> "StateFile":
        if process_state().is_main_process:
            check_writable(self.path.parent)
            self._lock.enter_context(locked(self.path.with_name(f"{self.path.name}.lock"), self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

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
        refuse_other(stored, self.config, self.path, f"{self.what} run")
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
            tensors |= {f"moment/{number}/{key}": value for key, value in moments.items() if value is not None}
        tensors |= {f"curve/{name}": torch.from_numpy(values) for name, values in state.curves.items()}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        notes = {"config": json.dumps(self.config), "step": str(state.step)}
        write_atomic(self.path, lambda file: save_file(tensors, file, notes))

    def keep(self, run: Processes, step: int, parameters: Mapping[str, Tensor], curves: Curves) -> None:
        """Save a training that processes share, whole and once; all of them must call it."""
        moments = {number: gathered(own, run.first) for number, own in run.optimizer.state_dict()["state"].items()}
        state = State(step, gathered(parameters, run.first), moments, curves)
        if run.first:
            self.save(state)

    @torch.no_grad()
    def restore(self, run: Processes, parameters: Mapping[str, Tensor], curves: Curves) -> int:
        """Bring parameters, optimizer and curves to where the file says; the number of updates made, 0 without file."""
        state = self.load()
        if state is None:
            return 0
        for name, parameter in parameters.items():
            parameter.copy_(shard_like(state.parameters[name], parameter))
        each = list(parameters.values())
        moments = {
            number: {key: shard_like(value, each[number]) if value.ndim else value for key, value in own.items()}
            for number, own in state.moments.items()
        }
        run.optimizer.load_state_dict({"state": moments, "param_groups": run.optimizer.state_dict()["param_groups"]})
        curves.update(state.curves)
        return state.step
