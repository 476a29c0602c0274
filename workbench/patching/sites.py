"""Where activations can be patched: the hooks, the units that each has, and the grid of cells to patch.

Queries, z and attention patterns exist once per query head, keys and values once per KV head, and the rest
once per layer. Nothing is padded from one to the other: a unit that a hook does not have is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np
from jaxtyping import Bool, Int

from workbench.errors import InputError, suggest
from workbench.models.anatomy import Anatomy, heads_by_unit
from workbench.names import Hook, HookUnit, Positions
from workbench.patching.units import Counts
from workbench.protocol import HookedModel

QUERY_HOOKS: tuple[Hook, ...] = ("q", "z", "pattern")
KV_HOOKS: tuple[Hook, ...] = ("k", "v")
HOOKS = get_args(Hook)


@dataclass(frozen=True)
class Site:
    """One hook in every layer, cut into units.

    Attributes:
        hook: the hook's short name.
        unit: the units' name, which is also their dimension; "layer" for none below the layer.
        owners: for each unit, the rows of the hook's head axis that belong to it; None where there is no such
            axis.
    """

    hook: Hook
    unit: HookUnit
    owners: Bool[np.ndarray, "unit owner"] | None

    @property
    def n_units(self) -> int:
        """Units per layer."""
        return 1 if self.owners is None else len(self.owners)

    def name(self, layer: int) -> str:
        """The hook's TransformerLens name in a layer."""
        inside = self.hook in QUERY_HOOKS + KV_HOOKS
        return f"blocks.{layer}.{'attn.' if inside else ''}hook_{self.hook}"

    def layers(self, model: HookedModel, parts: Anatomy) -> list[int]:
        """The layers that have the hook; not all have heads, or a branch of their own for each hook.

        Raises:
            InputError: none has it.
        """
        inside = self.hook in QUERY_HOOKS + KV_HOOKS
        known = model.hook_dict
        found = [i for i in (parts.head_layers if inside else range(parts.n_layers)) if self.name(i) in known]
        if not found:
            raise InputError(f"No layer of {parts.architecture} has hook_{self.hook}; patch resid_pre or resid_post.")
        return found

    def mask(self, units: Int[np.ndarray, " cell"], positions: Bool[np.ndarray, "cell pos"]) -> np.ndarray:
        """Where each cell writes, to broadcast over the activation.

        `[cell, pos, 1]` for the stream, `[cell, head, query, 1]` for patterns, `[cell, pos, head, 1]` for the
        rest.
        """
        if self.owners is None:
            return positions[:, :, None]
        heads = self.owners[units]
        if self.hook == "pattern":
            return heads[:, :, None, None] & positions[:, None, :, None]
        return heads[:, None, :, None] & positions[:, :, None, None]


def site(hook: Hook, unit: HookUnit | None, counts: Counts) -> Site:
    """The site of a hook; by default its units are KV groups for what attention heads own, else layers.

    Raises:
        InputError: an unknown hook, or a unit that this hook does not have.
    """
    if hook not in HOOKS:
        raise InputError(f"hook={hook!r} is unknown; {suggest(hook, HOOKS)}")
    rows, units, why = _rows_and_units(hook, counts.n_heads, counts.n_kv_heads)
    unit = next(iter(units)) if unit is None else unit
    if unit not in units:
        raise InputError(f"unit={unit!r} does not fit hook={hook!r}, which {why}; {suggest(unit, units)}")
    return Site(hook, unit, None if rows is None else heads_by_unit(units[unit], rows))


def _rows_and_units(hook: Hook, n_heads: int, n_kv: int) -> tuple[int | None, dict[HookUnit, int], str]:
    """Rows of a hook's head axis (None without one), numbers of units by kind, and why there are no others."""
    if hook in QUERY_HOOKS:
        return n_heads, {"kv_group": n_kv, "head": n_heads, "layer": 1}, "belongs to query heads"
    if hook in KV_HOOKS:
        why = f"has one row per KV head ({n_kv}), not per query head ({n_heads})"
        return n_kv, {"kv_group": n_kv, "kv_head": n_kv, "layer": 1}, why
    return None, {"layer": 1}, "is one vector per layer and position; heads are already summed in it"


@dataclass(frozen=True)
class Grid:
    """The labelled cells of a sweep over a site; cell indices run through the axes in row-major order.

    Attributes:
        where: the site.
        positions: "all" patches every position of a cell at once, "last" the last one, "each" one per cell.
        dims: layer, then the unit and the position where there are any.
        coords: their labels; positions count back from the end, -1 being the last.
        layers: the labels of those that have the hook; the cells of others stay empty.
    """

    where: Site
    positions: Positions
    dims: tuple[str, ...]
    coords: dict[str, Int[np.ndarray, " label"]]
    layers: list[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(len(self.coords[dim]) for dim in self.dims)

    def cells(self) -> list[int]:
        """The cell indices of all layers that have the hook."""
        numbers = np.arange(int(np.prod(self.shape))).reshape(self.shape)
        return numbers[np.isin(self.coords["layer"], self.layers)].ravel().tolist()

    def place(self, cells: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Layer, unit and position label (-1 where there is no axis of positions) of each cell."""
        indices = np.unravel_index(np.asarray(cells, dtype=int), self.shape)
        labels = {dim: self.coords[dim][index] for dim, index in zip(self.dims, indices, strict=True)}
        layer = labels["layer"]
        unit = labels.get(self.where.unit, np.zeros_like(layer)) if self.where.unit != "layer" else np.zeros_like(layer)
        return layer, unit, labels.get("position", np.full_like(layer, -1))


def grid(
    where: Site,
    n_layers: int,
    positions: Positions | Sequence[int],
    width: int,
    present: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    units: Sequence[int] | None = None,
) -> Grid:
    """The cells of a sweep over a site.

    Args:
        where: the site.
        n_layers: layers of the model.
        positions: "all", "last", "each" of the last `width`, or those labels.
        width: how many positions count.
        present: the layers that have the hook; by default all.
        layers: those to patch; by default all.
        units: the units of a layer to patch; by default all.

    Raises:
        InputError: unknown or repeated layers, units or positions, or a layer without the hook.
    """
    present = range(n_layers) if present is None else present
    chosen = range(n_layers) if layers is None else layers
    coords = {"layer": _labels("layers", chosen, range(n_layers))}
    missing = [] if layers is None else [layer for layer in layers if layer not in present]
    if missing:
        raise InputError(
            f"layers={list(chosen)}: layer {missing[0]} has no hook_{where.hook}; those that have it: {list(present)}."
        )
    if where.unit != "layer":
        coords[where.unit] = _labels("units", range(where.n_units) if units is None else units, range(where.n_units))
    elif units is not None:
        raise InputError(
            f"units={list(units)} chooses among units of a layer, and hook={where.hook!r} is patched by whole layers."
        )
    kind = cast("Positions", positions if isinstance(positions, str) else "each")
    if kind not in get_args(Positions):
        raise InputError(f"positions={positions!r} is unknown; {suggest(kind, get_args(Positions))}")
    if kind == "each":
        whole = range(-width, 0)
        coords["position"] = _labels("positions", whole if isinstance(positions, str) else positions, whole)
    return Grid(where, kind, tuple(coords), coords, [layer for layer in chosen if layer in present])


def _labels(what: str, chosen: Sequence[int], known: range) -> Int[np.ndarray, " label"]:
    """Chosen labels, each known and given once."""
    labels = [int(label) for label in chosen]
    strange = [label for label in labels if label not in known]
    if strange or not labels or len(set(labels)) < len(labels):
        raise InputError(
            f"{what}={labels} must be different numbers from {known[0]} to {known[-1]}"
            + (
                ": positions count back from the end, and those before the shared prefix's end cannot have an effect."
                if what == "positions"
                else "."
            )
        )
    return np.array(labels)
