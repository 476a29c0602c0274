"""Runs all cells of the experiment in parallel processes; each is saved when it is done.

1. Teachers and students are trained and lie in `models/`.
2. Every cell is measured (`measures.py`) and lies beside the result until all are there.

A stopped run resumes. A cell takes about a minute on one core, and training its models as much before.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.leaf.toy.arms import MAIN
from workbench.leaf.toy.measures import Size, measure_run
from workbench.leaf.toy.regimes import regime, school
from workbench.runs.files import check_writable
from workbench.runs.pool import finished, workers
from workbench.runs.progress import hidden
from workbench.runs.run import Run

SEEDS = (1, 2, 3, 4, 5, 6)
SMALL = Size(steps=60, detect=60, test=500, arms=MAIN)
"""A small run of the whole pipeline; its models are trained as in the full one."""


def run(
    out: str | Path,
    regimes: Sequence[str] = ("B", "A", "S", "N"),
    seeds: Sequence[int] = SEEDS,
    *,
    size: Size | None = None,
    processes: int = 2,
    progress: bool = True,
) -> xr.Dataset:
    """Train what is missing, measure every cell, and put them side by side.

    Args:
        out: the netCDF file of the result; models lie in `models` beside it.
        regimes: letters.
        seeds: one teacher each, and one student per regime.
        size: how much of everything.
        processes: cells at a time, with one thread each.
        progress: show a bar.

    Returns:
        What `measure_run` returns, over `regime` and `seed`; NaN where an arm does not exist in a cell.

    Raises:
        InputError: no cells, an unknown regime, or a resumed run of another configuration.
    """
    if not len(regimes) or not len(seeds) or processes < 1:
        raise InputError("Give at least one regime, one seed and one process.")
    out, size = Path(out).expanduser(), size or Size()
    models = str(check_writable(out.parent / "models"))
    facts = {"regimes": list(regimes), "seeds": list(seeds), **dataclasses.asdict(size)}
    cells = [(name, seed) for seed in seeds for name in regimes]
    with Run(out, method="leaf planted experiment", **facts) as kept:
        if kept.finished is not None:
            return kept.finished
        pupils = dict.fromkeys((regime(name).pupil, seed) for name, seed in cells)
        wanted = [("teacher", seed) for seed in seeds] + list(pupils)
        side_by_side(school, [(*one, models) for one in wanted], processes, "schooling", progress)
        left = [(*cell, models, size) for cell in cells if _key(*cell) not in kept.pieces]
        side_by_side(measure_run, left, processes, "cells", progress, lambda a, found: kept.add(_key(*a[:2]), found))
        return kept.finish(gather({cell: kept.pieces[_key(*cell)] for cell in cells}))


def gather(cells: dict[tuple[str, int], xr.Dataset]) -> xr.Dataset:
    """Cells side by side, over `regime` and `seed`, filled up with NaN; arms in the order of the fullest cell."""
    dims = ("arm", "selector", "score", "reader", "level", "measure")
    orders = {dim: max((cell[dim].values.tolist() for cell in cells.values()), key=len) for dim in dims}
    together: dict[str, Any] = {"join": "outer", "data_vars": "all", "coords": "minimal", "compat": "override"}
    rows = []
    for name in dict.fromkeys(name for name, _ in cells):
        mine = {seed: cell for (other, seed), cell in cells.items() if other == name}
        rows.append(xr.concat(list(mine.values()), xr.Variable("seed", list(mine)), **together))
    found = xr.concat(rows, xr.Variable("regime", list(dict.fromkeys(name for name, _ in cells))), **together)
    # Counts that some cells lack have become NaN, which the encoding of whole numbers cannot hold.
    found = found.drop_encoding()
    return found.sel({dim: _ordered(found[dim].values, order) for dim, order in orders.items() if dim in found.dims})


def _ordered(there: Iterable[Any], order: list[Any]) -> list[Any]:
    names = list(there)
    return [name for name in order if name in names] + [name for name in names if name not in order]


def _key(name: str, seed: int) -> str:
    return f"{name} {seed}"


def side_by_side(
    work: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    processes: int,
    what: str,
    progress: bool,
    done: Callable[[tuple[Any, ...], Any], object] = lambda call, result: None,
) -> None:
    """Call a function in processes, and `done` with each call and its result, under a bar that says `what` is done."""
    if not calls:
        return
    with workers(min(processes, len(calls))) as pool:
        results = finished(pool, work, calls)
        for call, result in tqdm(results, total=len(calls), desc=what, disable=hidden(progress), leave=False):
            done(call, result)
