"""Which heads or KV groups a sweep zeroes: all, those of some layers, or named ones."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.errors import InputError, suggest
from workbench.models.anatomy import Anatomy, heads_by_unit
from workbench.names import HeadUnit

UNITS = get_args(HeadUnit)


def unit_masks(unit: HeadUnit, parts: Anatomy) -> Bool[Tensor, "unit head"]:
    """Which query heads each unit of a layer holds.

    Args:
        unit: "head" or "kv_group".
        parts: the model's anatomy.
    """
    if unit not in UNITS:
        raise InputError(f"unit={unit!r} cannot be zeroed one by one; {suggest(unit, UNITS)}")
    n_units = parts.n_heads if unit == "head" else parts.n_kv_heads
    return torch.from_numpy(heads_by_unit(n_units, parts.n_heads))


def chosen_units(
    unit: HeadUnit,
    parts: Anatomy,
    layers: Sequence[int] | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
) -> Bool[np.ndarray, "layer unit"]:
    """Which units to zero: all, those of some layers, or named ones.

    Raises:
        InputError: an unknown unit, layers and heads at once, none, or one that the model does not have.
    """
    n_units = len(unit_masks(unit, parts))
    if layers is not None and heads is not None:
        raise InputError("Both layers= and heads= are given; heads= names its layers itself. Leave out one.")
    if layers is None and heads is None:
        every = np.zeros((parts.n_layers, n_units), dtype=bool)
        every[list(parts.head_layers)] = True
        return every
    named = [(layer, None) for layer in layers or ()] + list(heads or ())
    wrong = [at for at in named if not (0 <= at[0] < parts.n_layers and 0 <= (at[1] or 0) < n_units)]
    if wrong or not named:
        found = f"no {unit} in {wrong[0]}" if wrong else "nothing to zero"
        raise InputError(
            f"{found}: {parts.name} has the layers 0 to {parts.n_layers - 1}, each with the {unit}s 0 to "
            f"{n_units - 1}. Give layers=[5, 6] or heads=[(layer, index), ...]."
        )
    headless = [layer for layer, _ in named if layer in parts.headless]
    if headless:
        raise InputError(
            f"Layer {headless[0]} has no attention heads that can be reached; heads are in layers "
            f"{list(parts.head_layers)}."
        )
    chosen = np.zeros((parts.n_layers, n_units), dtype=bool)
    for layer, index in named:
        chosen[layer, slice(None) if index is None else index] = True
    return chosen


def named_units(chosen: Bool[np.ndarray, "layer unit"]) -> dict[str, list[list[int]]]:
    """For a run's configuration: the chosen units by name; nothing where all are chosen."""
    return {} if chosen.all() else {"chosen": np.argwhere(chosen).tolist()}
