"""The measured experiments that come with the package, and the command that measures them again.

`measured("organism-gqa")` is the record of an embedded model without tuning anything. To make it anew (minutes on a
GPU with several processes, hours on a CPU; a run that was stopped goes on, and `--so-far` writes what it has):

    python -m workbench.papers.kv_groups.tradeoff.records MODEL FILE.nc [--processes N | --so-far] [--short]

A chat model that is not embedded, such as smollm2-135m-instruct, is asked the default facts, and in the folder that the
environment variable WORKBENCH_DATA names, if it is set, some questions of the benchmarks of general ability.
"""

import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tyro
import xarray as xr
from tyro.conf import Positional

from workbench.errors import InputError
from workbench.models.embedded import embedded
from workbench.papers.kv_groups.tradeoff.experiment import Job, run
from workbench.papers.kv_groups.tradeoff.plan import SHORT
from workbench.runs.results import open_result, save_result

FOLDER = Path(__file__).parent / "assets"
DTYPE = "bfloat16"
"""What the papers tune in, and what the embedded models' weights are stored in."""
TASKS = ("commonsenseqa", "strategyqa", "mmlu")
"""General abilities of chat models that are not embedded."""


@cache
def measured(name: str) -> xr.Dataset:
    """The record of a model that comes with the package.

    Args:
        name: such as "organism-gqa"; with "-short" behind it for the short trainings.

    Raises:
        InputError: none comes with it.
    """
    path = FOLDER / f"{name}.nc"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.nc")))
        raise InputError(f"The experiment on {name!r} does not come measured; those on {known} do.")
    return open_result(path)


def has(name: Any) -> bool:
    """Whether the record of a model comes with the package."""
    return isinstance(name, str) and "/" not in name and (FOLDER / f"{name}.nc").exists()


@cache
def published() -> Mapping[str, Any]:
    """The group paper's numbers: per model, base, SPT and groups at 4 % of the heads, in percent."""
    return json.loads((FOLDER / "published.json").read_text(encoding="utf-8"))


def write(record: xr.Dataset, path: str | Path) -> None:
    """Write a record of `run`, compressed: answers as bytes, effects and distances in single precision."""
    small = {bool: np.int8, np.float64: np.float32}
    kinds = {name: next((to for of, to in small.items() if v.dtype == of), v.dtype) for name, v in record.items()}
    record = record.assign({name: record[name].astype(kind) for name, kind in kinds.items()})
    save_result(record, path, compressed=True)


def main(
    model: Positional[str], file: Positional[Path], processes: int = 1, so_far: bool = False, short: bool = False
) -> None:
    """Measure a model and write its record.

    Args:
        model: an embedded model, or a chat model.
        file: the netCDF file.
        processes: trainings at a time.
        so_far: run nothing, and write what is finished.
        short: the short trainings of an embedded model.
    """
    if short and not embedded(model):
        raise InputError("Short trainings are those of the embedded models; leave 'short' out.")
    if embedded(model):
        job = Job(model, SHORT if short else None, dtype="float32" if short else DTYPE)
    else:
        folder = os.environ.get("WORKBENCH_DATA")
        benchmarks = Path(folder) / "benchmarks" if folder else None
        job = Job(model, tasks=TASKS if benchmarks else (), folder=benchmarks, dtype="float32")
    record = run(job, resume=file.with_suffix(".run.nc"), processes=processes, so_far=so_far)
    write(record, file)
    sys.stdout.write(f"{record.sizes['cell']} cells are in {file}\n")


if __name__ == "__main__":
    tyro.cli(main)
