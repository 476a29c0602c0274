"""The training runs that come with the package, and how to measure them again.

`measured("three-layer", "paper")` is the record of a run without running it. Both sizes lie in one netCDF file each,
the experiments side by side. `collect` makes them anew (minutes per experiment; the full size needs a GPU), on the
command line `workbench backcopy all --scale small --out FILE`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.bigram_backcopy.experiments import EXPERIMENTS, PAPER_STEPS, experiment
from workbench.bigram_backcopy.published import SEED
from workbench.bigram_backcopy.removal import interventions, look_at
from workbench.errors import InputError, suggest
from workbench.names import Scale
from workbench.runs.results import open_result, save_result

FOLDER = Path(__file__).parent / "assets"
LINE = ("<s>", "v", " ", "v", "n", "a", "u", " ", "u", "h")
"""The sequence whose attention map the paper shows."""
_AUTHORS = {"start": "authors", "seeds": (SEED,)}
_LATE = tuple(range(15_000, 100_001, 5000))
VARIATIONS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "paper": {
        "one-layer-long": ("one-layer", {"steps": 100_000, "seeds": (0,), "measured_at": (*PAPER_STEPS, *_LATE)}),
        "one-layer-tf32": ("one-layer", {"precision": "tf32", "seeds": (1,)}),
        "one-layer-spread": ("one-layer", {"steps": 1000, "seeds": tuple(range(3, 11))}),
        "one-layer-authors": ("one-layer", _AUTHORS | {"steps": 30_000, "measured_at": (*PAPER_STEPS, *_LATE)}),
        "one-layer-authors-tf32": ("one-layer", _AUTHORS | {"precision": "tf32"}),
        **{
            f"{name}-authors": (name, _AUTHORS)
            for name in (
                *("three-layer", "attention-layer-mlp", "two-layer", "two-layer-mlp", "mlp-layer-mlp"),
                *("three-layer-sgd", "three-layer-relu"),
            )
        },
    },
    "small": {
        **{
            f"one-layer-late-{precision}": ("one-layer", {"steps": 60_000, "precision": precision})
            for precision in ("float32", "bfloat16")
        },
        **{
            f"{name}-longer": (name, {"steps": 12_000, "seeds": tuple(range(8))})
            for name in ("mlp-layer-mlp", "two-layer", "synthetic")
        },
    },
}
"""Runs besides those in `EXPERIMENTS`, by size: ten times as long, with other products, more seeds, or from the weights
with which the published runs began."""
_CUT, _LINE = "without ", "line "


@dataclass(frozen=True)
class Measured:
    """One experiment as it was measured.

    Attributes:
        record: what `train` kept, over steps.
        interventions: what `interventions` found on the trained models.
        line: attention, value and residual norms on `LINE` of the first seed; None for languages without it.
    """

    record: xr.Dataset
    interventions: xr.Dataset
    line: xr.Dataset | None


def measured(name: str, scale: Scale = "small") -> Measured:
    """A training run that comes with the package, such as "three-layer-sgd" or, at full size, "one-layer-long".

    Raises:
        InputError: it was not measured at that size.
    """
    if scale not in ("small", "paper"):
        raise InputError(f"scale={scale!r}: experiments were measured at 'small' and at 'paper' size.")
    shelf = _shelf(scale)
    names = shelf["experiment"].values.tolist()
    if name not in names:
        raise InputError(f"The experiment {name!r} does not come measured at {scale!r} size; {suggest(name, names)}")
    return _one(shelf, name)


def _one(shelf: xr.Dataset, name: str) -> Measured:
    """One of the experiments that `gather` put side by side."""
    one = shelf.sel(experiment=name, drop=True).drop_attrs()
    attrs = json.loads(shelf.attrs["experiments"])[name]
    record = one[[v for v in one.data_vars if not str(v).startswith((_CUT, _LINE))]]
    record = record.dropna("step", how="all", subset=["bigram"]).dropna("seed", how="all", subset=["bigram"])
    layers = record["residual_bos"].isel(step=0).notnull().all("seed")
    record = record.isel(layer=layers.values)
    known = record["value_norm"].notnull().any(("seed", "layer", "head")).values
    cuts = _named(one, _CUT).sel(seed=record["seed"], layer=record["layer"])
    cuts = cuts.dropna("intervention", how="all", subset=["bigram"])
    cuts = cuts.sel(intervention=sorted(cuts["intervention"].values.tolist(), key=lambda cut: (cut != "none", cut)))
    line = _named(one, _LINE).sel(layer=record["layer"])
    absent = bool(line["pattern"].isnull().all())
    return Measured(
        record.isel(token=known).drop_dims(("intervention", "key"), errors="ignore").assign_attrs(attrs),
        cuts.assign_attrs(attrs),
        None if absent else line.assign_coords(token=("key", list(LINE))).assign_attrs(attrs),
    )


def gather(runs: Mapping[str, Measured]) -> xr.Dataset:
    """Experiments side by side in one Dataset, shorter ones filled up with NaN."""
    sides = []
    for one in runs.values():
        parts = [one.record.drop_attrs(), one.interventions.rename({v: _CUT + str(v) for v in one.interventions})]
        if one.line is not None:
            line = one.line.drop_vars(("token", "trigger"), errors="ignore")
            parts.append(line.rename({v: _LINE + str(v) for v in line.data_vars}))
        sides.append(xr.merge([part.drop_attrs() for part in parts], join="outer", compat="no_conflicts").astype("f4"))
    names = xr.Variable("experiment", list(runs))
    found = xr.concat(
        sides, names, join="outer", data_vars="all", compat="no_conflicts", coords="minimal", fill_value=np.nan
    )
    attrs = {name: {str(k): v for k, v in one.record.attrs.items()} for name, one in runs.items()}
    return found.assign_attrs(experiments=json.dumps(attrs))


def run(name: str, scale: Scale, **changes: Any) -> Measured:
    """Train and measure one experiment."""
    base, varied = VARIATIONS[scale].get(name, (name, {}))
    full = {"precision": "bfloat16", "compile": True, "evaluate": 256} if scale == "paper" else {}
    arguments: dict[str, Any] = full | varied | changes
    trained = experiment(base).run(scale, **arguments)
    readable = set(LINE) <= set(trained.task.symbols) and trained.task.name != "synthetic"
    line = look_at(trained.models[0], trained.task, LINE) if readable else None
    return Measured(trained.record, interventions(trained), line)


def collect(path: str | Path, scale: Scale, names: Sequence[str] = (), **changes: Any) -> dict[str, Measured]:
    """Train and measure the experiments that a file does not hold yet, and write all of them side by side.

    Each is written as soon as it is done; one that was stopped goes on from the state file beside the file. `names` are
    of experiments or variations, `changes` are arguments of `train` for those that are trained now.
    """
    path = Path(path)
    names = names or [*EXPERIMENTS, *VARIATIONS[scale]]
    for name in names:
        experiment(VARIATIONS[scale].get(name, (name, {}))[0])
    kept = open_result(path) if path.exists() else None
    found = {} if kept is None else {name: _one(kept, name) for name in kept["experiment"].values.tolist()}
    for name in names:
        if name not in found:
            state = path.with_name(f"{path.stem}-{name}.state")
            found[name] = run(name, scale, resume=state, **changes)
            save_result(gather(found), path, compressed=True)
            state.unlink(missing_ok=True)
    return {name: found[name] for name in names}


def _named(one: xr.Dataset, prefix: str) -> xr.Dataset:
    mine = [str(v) for v in one.data_vars if str(v).startswith(prefix)]
    return one[mine].rename({v: v.removeprefix(prefix) for v in mine})


@cache
def _shelf(scale: Scale) -> xr.Dataset:
    return open_result(FOLDER / f"{scale}.nc")
