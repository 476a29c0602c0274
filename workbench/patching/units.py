"""Which query heads act together: heads, KV groups, layers and any other sets.

Query head h reads KV head h // group_size, so KV group g owns the heads from g * group_size up to
(g + 1) * group_size - 1. An address is a (layer, head) pair. `senders` lists the sets of heads to patch,
each as a mask over (layer, head), on the labelled grid where their results belong. All of it is arithmetic
on indices: no model is needed, and a wrong index is refused before one runs.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast, get_args

import numpy as np
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int

from workbench.errors import InputError, suggest
from workbench.models.anatomy import Anatomy, heads_by_unit
from workbench.names import Unit

Address = tuple[int, int]
UNITS = get_args(Unit)
Result = TypeVar("Result", bound=xr.Dataset | xr.DataArray)


class HeadCounts(NamedTuple):
    """What fixes the addresses of a model's heads: how many there are, and the layers that have none."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    headless: tuple[int, ...] = ()

    @property
    def whole_mixers(self) -> tuple[int, ...]:
        """The layers that hold a mixer without heads, as far as is known here."""
        return self.headless


Counts = Anatomy | HeadCounts


@dataclass(frozen=True, eq=False)
class Senders:
    """Sets of heads to patch, one after another, and the labelled grid on which their results belong.

    Attributes:
        dims: names of the grid's axes.
        coords: labels, as xarray takes them.
        mask: the heads of each unit; units run through the grid in row-major order. None in a layer without heads.
        whole: the layers of which each unit sends what mixers without heads put out, too.
    """

    dims: tuple[str, ...]
    coords: dict[str, Any]
    mask: Bool[np.ndarray, "unit layer head"]
    whole: Bool[np.ndarray, "unit layer"]

    @property
    def sending(self) -> Int[np.ndarray, " row"]:
        """The units that send anything: all but those of layers without heads."""
        return np.flatnonzero(self.mask.any((1, 2)) | self.whole.any(1))

    def filled(self, values: Float[np.ndarray, "row *rest"]) -> Float[np.ndarray, "unit *rest"]:
        """Values of the units that send on the whole grid, NaN elsewhere."""
        whole = np.full((len(self), *values.shape[1:]), np.nan)
        whole[self.sending] = values
        return whole

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the grid's axes; their product is the number of units."""
        return tuple(len(self.coords[dim]) for dim in self.dims)

    def __len__(self) -> int:
        return len(self.mask)


def heads_of(group: int, group_size: int) -> range:
    """Query heads of a KV group."""
    return range(group * group_size, (group + 1) * group_size)


def per_layer(unit: Unit, counts: Counts) -> int:
    """Units of a kind in each layer."""
    if unit not in UNITS:
        raise InputError(
            f"unit={unit!r} is no kind of unit; {suggest(unit, UNITS)} For other sets of heads give units=."
        )
    return {"head": counts.n_heads, "kv_group": counts.n_kv_heads, "layer": 1}[unit]


def senders(unit: Unit, units: Mapping[str, Any] | Sequence[Any] | None, counts: Counts) -> Senders:
    """The sets of heads to patch: all units of a kind, or `units`: sets of (layer, head) pairs in a list or by name."""
    if units is not None:
        return _custom_senders(units, counts)
    n_units, n_layers, n_heads = per_layer(unit, counts), counts.n_layers, counts.n_heads
    mask = einsum(
        np.eye(n_layers, dtype=bool),
        heads_by_unit(n_units, n_heads),
        "sender_layer layer, unit head -> sender_layer unit layer head",
    )
    mask = rearrange(mask, "sender_layer unit layer head -> (sender_layer unit) layer head")
    mask[:, list(counts.headless)] = False
    coords = {"layer": np.arange(n_layers)}
    if unit == "layer":
        return Senders(("layer",), coords, mask, np.diag(np.isin(np.arange(n_layers), counts.whole_mixers)))
    if not mask.any():
        raise InputError(
            f"unit={unit!r}: none of the {n_layers} layers has attention heads that can be reached; unit='layer' "
            "measures each layer's mixer as a whole."
        )
    return Senders(("layer", unit), coords | {unit: np.arange(n_units)}, mask, _nothing_whole(mask))


def _nothing_whole(mask: Bool[np.ndarray, "unit layer head"]) -> Bool[np.ndarray, "unit layer"]:
    return np.zeros(mask.shape[:2], dtype=bool)


def counts_of(result: xr.Dataset | xr.DataArray) -> HeadCounts:
    """Numbers of layers and heads from a result's attributes."""
    missing = [name for name in HeadCounts._fields[:3] if name not in result.attrs]
    if missing:
        raise InputError(
            f"The result's attributes lack {', '.join(missing)}, which tie groups to heads. Pass the "
            "whole Dataset that the patching function returned, not one of its variables."
        )
    numbers = (int(result.attrs[name]) for name in HeadCounts._fields[:3])
    return HeadCounts(*numbers, tuple(np.atleast_1d(result.attrs.get("headless", ())).astype(int).tolist()))


def with_units(result: Result) -> Result:
    """A result without the layers that have no units of its kind, which are NaN in it."""
    headless = list(counts_of(result).headless) if "headless" in result.attrs else []
    if not headless or "layer" not in result.dims:
        return result
    values = result["contribution"] if isinstance(result, xr.Dataset) else result
    empty = [layer for layer in headless if bool(np.isnan(values.sel(layer=layer)).all())]
    return cast(Result, result.drop_sel(layer=empty))


def _custom_senders(units: Mapping[str, Any] | Sequence[Any], counts: Counts) -> Senders:
    named = dict(units) if isinstance(units, Mapping) else dict(enumerate(units))
    if not named:
        raise InputError("units= is empty; give at least one set of (layer, head) pairs.")
    sets = [checked_heads(heads, counts, f"units[{name!r}]") for name, heads in named.items()]
    mask = np.zeros((len(sets), counts.n_layers, counts.n_heads), dtype=bool)
    for row, heads in zip(mask, sets, strict=True):
        row[tuple(np.transpose(heads))] = True
    labels = list(named) if isinstance(units, Mapping) else [_label(heads) for heads in sets]
    return Senders(
        ("unit",), {"unit": np.arange(len(sets)), "label": ("unit", np.array(labels))}, mask, _nothing_whole(mask)
    )


def checked_heads(
    heads: Any,
    counts: Counts,
    where: str,
    otherwise: str = "",
    whole: str = "path_patch(unit='layer') measures its mixer as a whole",
) -> list[Address]:
    """A set of heads as (layer, head) pairs, each of them once and in the model.

    `where` is what an error calls the set, such as "units[0]", `otherwise` what could be given instead, and `whole`
    what can be done with a layer without heads.
    """
    try:
        pairs = [(operator.index(layer), operator.index(head)) for layer, head in heads]
    except (TypeError, ValueError) as cause:
        raise InputError(
            f"{where} must be a list of (layer, head) pairs of integers, such as [(3, 0), (3, 1)]{otherwise}."
        ) from cause
    if not pairs:
        raise InputError(f"{where} is empty; give at least one (layer, head).")
    for number, (layer, head) in enumerate(pairs):
        for name, index, n, what in (
            ("layer", layer, counts.n_layers, "layers"),
            ("head", head, counts.n_heads, "query heads per layer"),
        ):
            if not 0 <= index < n:
                raise InputError(
                    f"{where} holds {(layer, head)}: {name}={index}: the model has {n} {what}, numbered 0 to {n - 1}."
                )
        if layer in counts.headless:
            raise InputError(
                f"{where} holds {(layer, head)}: layer {layer} has no attention heads that can be reached; {whole}."
            )
        if (layer, head) in pairs[:number]:
            raise InputError(f"{where} holds {(layer, head)} more than once; list every (layer, head) once.")
    return pairs


def _label(heads: Sequence[Address]) -> str:
    shown = " ".join(f"L{layer}H{head}" for layer, head in heads[:4])
    return shown if len(heads) <= 4 else f"{shown} and {len(heads) - 4} more"
