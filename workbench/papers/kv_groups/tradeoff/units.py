"""Which heads every arm tunes: the strongest groups and heads by path patching, and controls of the same size."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench.names import HeadUnit
from workbench.papers.kv_groups.tradeoff.plan import Budgets, Cell
from workbench.patching import path_patch
from workbench.patching.selection import Selection, random_heads, random_units, same_layer_units, select_units
from workbench.patching.units import Address, HeadCounts, counts_of
from workbench.prompts.pairs import PromptPairs
from workbench.protocol import HookedModel

METRIC = "logit_diff"


@dataclass(frozen=True)
class Effects:
    """Contributions by layer of every head, and of every group or block of neighbours, by exact path patching."""

    heads: xr.Dataset
    groups: xr.Dataset


def effects_of(model: HookedModel, pairs: PromptPairs, group: int) -> Effects:
    """Patch every head, and every group of `group` query heads, on challenged and confirmed dialogues."""
    heads = path_patch(model, pairs, unit="head", metrics=(METRIC,), progress=False)
    counts = counts_of(heads)
    if group == counts.n_heads // counts.n_kv_heads:
        return Effects(heads, path_patch(model, pairs, unit="kv_group", metrics=(METRIC,), progress=False))
    per_layer = counts.n_heads // group
    sets = [
        [(layer, head) for head in range(block * group, (block + 1) * group)]
        for layer in range(counts.n_layers)
        for block in range(per_layer)
    ]
    flat = path_patch(model, pairs, units=sets, metrics=(METRIC,), progress=False).drop_vars("label")
    grid = {"layer": np.arange(counts.n_layers), "kv_group": np.arange(per_layer)}
    blocks = flat.drop_vars("unit").coarsen(unit=per_layer).construct(unit=("layer", "kv_group"))
    return Effects(heads, blocks.assign_coords(grid).assign_attrs(flat.attrs | {"n_kv_heads": per_layer}))


def chosen_heads(cell: Cell, effects: Effects, sizes: Budgets) -> tuple[Address, ...]:
    """The query heads that a cell tunes, of an arm with units of its own."""
    unit, selection, draws = cell.arm.unit, cell.arm.selection, cell.draw + 1
    if unit == "group":
        chosen = _strongest(effects.groups, "kv_group", cell.n_heads // sizes.group or 1)
    else:
        chosen = _strongest(effects.heads, "head", cell.n_heads)
    if selection == "random":
        chosen = (random_units if unit == "group" else random_heads)(chosen, draws)[-1]
    elif selection == "same layers":
        chosen = same_layer_units(chosen, draws)[-1]
    return tuple(sorted(chosen.heads))


def _strongest(effects: xr.Dataset, by: HeadUnit, k: int) -> Selection:
    counts: HeadCounts = counts_of(effects)
    per_layer = counts.n_heads if by == "head" else counts.n_kv_heads
    return select_units(effects, k / (counts.n_layers * per_layer), by, metric=METRIC)
