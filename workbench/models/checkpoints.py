"""Training checkpoints: where they are, and measuring them one after the other, one model in memory at a time.

1. `hub_checkpoints`, `local_checkpoints` or a dictionary say where the checkpoint of each step is.
2. `measure_checkpoints` loads one after the other, measures it and lets it go; what is finished is kept on disk.

Checkpoints come from any source that `workbench.load` takes; "model@revision" names a revision of the Hub.
"""

import gc
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError, first_line
from workbench.models.load import load
from workbench.prompts.texts import unpadded
from workbench.runs.progress import hidden
from workbench.runs.run import Run

_LATE = {25: 104, 50: 209, 100: 419, 147.5: 618, 200: 838, 250: 1048, 300: 1257, 350: 1467, 410: 1719, 449: 1882}
_EARLY = zip(range(0, 10_001, 500), (*range(0, 21, 2), *range(23, 42, 2)), strict=True)
OLMO_7B_0424 = tuple(
    f"step{step}-tokens{tokens}B" for step, tokens in (*_EARLY, *((int(1000 * k), t) for k, t in _LATE.items()))
)
"""The 31 revisions of allenai/OLMo-7B-0424-hf that figure 9 of the paper follows."""
PYTHIA = tuple(f"step{step}" for step in (0, *(2**n for n in range(10)), *range(1000, 143_001, 1000)))
"""The 154 revisions that every Pythia model has."""
Measure = Callable[[Any, Any], xr.Dataset]
"""A model and texts to a Dataset; those of all steps are joined along `step`."""


# 1. Where the checkpoints are.


def hub_checkpoints(repo: str, revisions: Iterable[str] | None = None) -> dict[int, str]:
    """Sources of the checkpoints that a model on the Hub keeps as revisions, by step.

    Args:
        repo: such as "EleutherAI/pythia-160m" or "allenai/OLMo-7B-0424-hf".
        revisions: names that contain "step<number>", such as `PYTHIA` or `OLMO_7B_0424`; by default the Hub is asked
            for all that it has.

    Raises:
        InputError: no revision whose name tells a step, two of one step, or a model that the Hub does not show.
    """
    names = _branches(repo) if revisions is None else list(revisions)
    steps = [(int(found[1]), name) for name in names if (found := re.search(r"step[-_]?(\d+)", name))]
    if not steps or (revisions is not None and len(steps) < len(names)):
        raise InputError(
            f"No step can be read from the revisions of {repo} ({', '.join(names[:5]) or 'there are none'}); names "
            "such as step1000 or step1000-tokens4B are understood. Give a dictionary of steps to sources instead."
        )
    return _by_step((step, f"{repo}@{name}") for step, name in steps)


def local_checkpoints(folder: str | Path) -> dict[int, str]:
    """Sources of the checkpoints in a folder, whose subfolders end in the step: step500, checkpoint-500, 000500.

    Args:
        folder: holds one folder per checkpoint, each as `save_pretrained` writes it.

    Raises:
        InputError: no such folder, no checkpoint in it, or two of one step.
    """
    folder = Path(folder).expanduser()
    inside = sorted(p for p in folder.iterdir() if (p / "config.json").is_file()) if folder.is_dir() else []
    steps = [(int(found[1]), str(path)) for path in inside if (found := re.search(r"(\d+)$", path.name))]
    if not steps:
        raise InputError(
            f"No checkpoints in {folder}: it needs subfolders such as step500 or checkpoint-500, each with a "
            "config.json and safetensors."
        )
    return _by_step(steps)


def _by_step(found: Iterable[tuple[int, str]]) -> dict[int, str]:
    sources: dict[int, str] = {}
    for step, source in sorted(found):
        if step in sources:
            raise InputError(f"Step {step} has two checkpoints, {sources[step]} and {source}; name those to use.")
        sources[step] = source
    return sources


def _branches(repo: str) -> list[str]:
    from huggingface_hub import list_repo_refs
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return [branch.name for branch in list_repo_refs(repo).branches]
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise InputError(
            f"The revisions of {repo} cannot be listed: {first_line(error)} Check the name and the "
            "connection, or pass revisions=…, which needs none."
        ) from error


# 2. One checkpoint after the other.


def measure_checkpoints(
    checkpoints: Mapping[int, Any],
    texts: Any,
    measure: Measure,
    *,
    method: str = "measure_checkpoints",
    resume: str | Path | None = None,
    device: Any = None,
    dtype: Any = None,
    progress: bool = True,
) -> xr.Dataset:
    """Measure a model at every checkpoint of its training.

    Args:
        checkpoints: step to a source of `workbench.load` (a folder, "model@revision", a model in memory), or to a
            function without arguments that gives one. Each is loaded when its turn comes and let go afterwards.
        texts: strings, lists of token ids or a token tensor, the same for all checkpoints.
        measure: a model and the texts to a Dataset; its name is part of what a resumed run must share.
        method: what the run is called in its record.
        resume: a netCDF file: finished checkpoints are kept beside it, and a run that was stopped goes on from them.
        device: where to load.
        dtype: in what to load.
        progress: show a bar.

    Returns:
        What `measure` gives with the dimension `step` in front, in the order of steps.

    Raises:
        InputError: no checkpoints, one that cannot be loaded, a resume file of another run.
    """
    if not checkpoints:
        raise InputError("No checkpoints: give a dictionary of steps to sources, such as {0: 'run/step0'}.")
    config = {
        "method": method,
        "measure": getattr(measure, "__qualname__", str(measure)),
        "texts": _identity(texts),
        "checkpoints": {str(int(step)): _described(source) for step, source in sorted(checkpoints.items())},
        "dtype": str(dtype),
    }
    with Run(resume, **config) as run:
        if run.finished is not None:
            return run.finished
        bar = tqdm(sorted(checkpoints.items()), desc="checkpoints", disable=hidden(progress), leave=False)
        pieces = {
            int(step): run.piece(f"step-{int(step)}", partial(_measured, source, texts, measure, device, dtype))
            for step, source in bar
        }
        return run.finish(_joined(pieces))


def _measured(source: Any, texts: Any, measure: Measure, device: Any, dtype: Any) -> xr.Dataset:
    """Load, measure and let go."""
    given = source() if callable(source) and not isinstance(source, torch.nn.Module) else source
    model = load(given, device=device, dtype=dtype)
    try:
        return measure(model, texts)
    finally:
        del model, given
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _joined(pieces: Mapping[int, xr.Dataset]) -> xr.Dataset:
    shapes = {step: {name: tuple(v.shape) for name, v in piece.data_vars.items()} for step, piece in pieces.items()}
    first = next(iter(shapes))
    for step, shape in shapes.items():
        if shape != shapes[first]:
            name = next(n for n in {**shape, **shapes[first]} if shape.get(n) != shapes[first].get(n))
            raise InputError(
                f"Steps {first} and {step} do not belong together: {name!r} has the shapes {shapes[first].get(name)} "
                f"and {shape.get(name)}. Checkpoints must be of one model with one tokenizer."
            )
    weights = [str(piece.attrs.get("weights", "")) for piece in pieces.values()]
    found = xr.concat(
        list(pieces.values()), "step", combine_attrs="drop_conflicts", coords="minimal", compat="override"
    )
    return found.assign_coords(step=np.array(list(pieces)), weights=("step", weights))


def _described(source: Any) -> str:
    if isinstance(source, str | Path):
        return Path(source).name if Path(source).is_dir() else str(source)
    return type(source).__name__


def _identity(texts: Any) -> str:
    plain: Any = texts["text"] if hasattr(texts, "column_names") else texts
    if isinstance(plain, Mapping):
        plain = unpadded(plain)
    elif isinstance(plain, Tensor):
        plain = plain.tolist()
    if not isinstance(plain, str):
        plain = [t if isinstance(t, str | int) else [int(x) for x in t] for t in plain]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
