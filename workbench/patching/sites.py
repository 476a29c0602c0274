"""Where activations can be patched: the hooks, the units that each has, and the grid of cells to patch.

Queries, z and attention patterns exist once per query head, keys and values once per KV head, and the rest
once per layer. Nothing is padded from one to the other: a unit that a hook does not have is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from jaxtyping import Bool, Int

from workbench.errors import InputError, suggest
from workbench.models.anatomy import heads_by_unit
from workbench.names import Hook, HookUnit, Positions
from workbench.patching.units import Counts

QUERY_HOOKS: tuple[Hook, ...] = ("q", "z", "pattern")
KV_HOOKS: tuple[Hook, ...] = ("k", "v")
STREAM_HOOKS: tuple[Hook, ...] = ("attn_out", "mlp_out", "resid_pre", "resid_post")
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
    """The site of a hook.

    Args:
        hook: one of q, k, v, z, pattern, attn_out, mlp_out, resid_pre, resid_post.
        unit: "head", "kv_group", "kv_head" or "layer"; by default KV groups for what attention heads own,
            else layers.
        counts: the model's numbers of layers and heads.

    Raises:
        InputError: an unknown hook, or a unit that this hook does not have.
    """
    if hook not in HOOKS:
        raise InputError(f"hook={hook!r} is unknown; {suggest(hook, HOOKS)}")
    allowed = _units_of(hook)
    unit = allowed[0] if unit is None else unit
    if unit not in allowed:
        why = {
            **dict.fromkeys(
                KV_HOOKS, f"has one row per KV head ({counts.n_kv_heads}), not per query head ({counts.n_heads})"
            ),
            **dict.fromkeys(STREAM_HOOKS, "is one vector per layer and position; heads are already summed in it"),
        }.get(hook, "belongs to query heads")
        raise InputError(f"unit={unit!r} does not fit hook={hook!r}, which {why}; {suggest(unit, allowed)}")
    if unit == "layer":
        rows = {**dict.fromkeys(KV_HOOKS, counts.n_kv_heads), **dict.fromkeys(QUERY_HOOKS, counts.n_heads)}.get(hook)
        return Site(hook, unit, None if rows is None else np.ones((1, rows), dtype=bool))
    if hook in KV_HOOKS:
        return Site(hook, unit, np.eye(counts.n_kv_heads, dtype=bool))
    n_units = counts.n_heads if unit == "head" else counts.n_kv_heads
    return Site(hook, unit, heads_by_unit(n_units, counts.n_heads))


def _units_of(hook: Hook) -> tuple[HookUnit, ...]:
    if hook in STREAM_HOOKS:
        return ("layer",)
    return ("kv_group", "head", "layer") if hook in QUERY_HOOKS else ("kv_group", "kv_head", "layer")


@dataclass(frozen=True)
class Grid:
    """The labelled cells of a sweep; cell indices run through the axes in row-major order.

    Attributes:
        dims: layer, then the unit and the position where there are any.
        coords: their labels; positions count back from the end, -1 being the last.
    """

    dims: tuple[str, ...]
    coords: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(len(self.coords[dim]) for dim in self.dims)

    def cells(self) -> list[int]:
        """All cell indices."""
        return list(range(int(np.prod(self.shape))))

    def place(self, where: Site, cells: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Layer, unit and position label (None: not a grid of positions) of each cell."""
        index = dict(zip(self.dims, np.unravel_index(np.asarray(cells, dtype=int), self.shape), strict=True))
        unit = (
            index.get(where.unit, np.zeros(len(cells), dtype=int))
            if where.unit != "layer"
            else np.zeros(len(cells), int)
        )
        labels = np.asarray(self.coords["position"])[index["position"]] if "position" in index else None
        return index["layer"], unit, labels


def grid(where: Site, n_layers: int, positions: Positions, width: int) -> Grid:
    """The cells of a sweep over a site.

    Args:
        where: the site.
        n_layers: layers of the model.
        positions: "all" patches every position of a cell at once, "last" the last one, "each" one position
            per cell.
        width: for "each", how many positions count, from the end.
    """
    if positions not in get_args(Positions):
        raise InputError(f"positions={positions!r} is unknown; {suggest(positions, get_args(Positions))}")
    dims, coords = ["layer"], {"layer": np.arange(n_layers)}
    if where.unit != "layer":
        dims.append(where.unit)
        coords[where.unit] = np.arange(where.n_units)
    if positions == "each":
        dims.append("position")
        coords["position"] = np.arange(-width, 0)
    return Grid(tuple(dims), coords)
