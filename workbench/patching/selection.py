"""Selection of the K = round(ratio * number of units) units with the most negative contribution, and matched controls.

Controls of the same size are drawn from everything that was not selected, so that none holds what it controls for.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError, WorkbenchWarning, suggest
from workbench.names import Metric, Unit
from workbench.patching.scores import DEFAULT_METRIC
from workbench.patching.units import Address, HeadCounts, counts_of, heads_of, per_layer


@dataclass(frozen=True)
class Selection:
    """Units chosen out of a model, in order of rank, and the query heads that they hold.

    Attributes:
        by: kind of unit, "head", "kv_group" or "layer".
        units: (layer, index) of each unit; for layers the index is 0.
        heads: (layer, head) of every query head in the units, in the same order.
        contribution: each unit's contribution, empty where the units were not ranked.
        ratio: share of the units that was asked for, None for controls.
        metric: what the ranking was by.
        counts: layers, query heads and KV heads of the model.
        matched: the same number of query heads, chosen one by one; None unless asked for.
    """

    by: Unit
    units: tuple[Address, ...]
    heads: tuple[Address, ...]
    counts: HeadCounts
    contribution: tuple[float, ...] = ()
    ratio: float | None = None
    metric: str = ""
    matched: "Selection | None" = None

    @property
    def share(self) -> float:
        """Share of all query heads that is selected."""
        return len(self.heads) / (self.counts.n_layers * self.counts.n_heads)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, fit for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {
            "counts": {name: value for name, value in self.counts._asdict().items() if value != ()},
            "share": self.share,
            "matched": self.matched and self.matched.to_dict(),
        }


def budget(ratio: float, n_units: int) -> int:
    """Number of units that a ratio, above 0 and at most 1, stands for: the nearest integer, and at least one."""
    if not 0 < ratio <= 1:
        raise InputError(f"ratio={ratio} must be a share above 0 and at most 1, such as 0.04 for 4 %.")
    k = round(ratio * n_units)
    if k == 0:
        warnings.warn(
            f"ratio={ratio} of {n_units} units rounds to none, so one is taken: {1 / n_units:.1%} of them.",
            WorkbenchWarning,
            stacklevel=3,
        )
    return max(k, 1)


def select_units(
    contribution: xr.Dataset | xr.DataArray,
    ratio: float = 0.04,
    by: Unit = "kv_group",
    *,
    metric: Metric = DEFAULT_METRIC,
    heads: xr.Dataset | xr.DataArray | None = None,
) -> Selection:
    """The units that push hardest towards the behaviour: those with the most negative contribution.

    Args:
        contribution: what a patching function returned, measured per `by`.
        ratio: share of the units to take.
        by: kind of unit, "kv_group", "head" or "layer".
        metric: the metric to rank by.
        heads: the same measured per head. Then `matched` holds the best single heads, as many as the units
            hold.
    """
    values = _ranked_values(contribution, by, metric)
    chosen = _most_negative(
        values, budget(ratio, int(np.isfinite(values).sum())), by, counts_of(contribution), ratio=ratio, metric=metric
    )
    if heads is None:
        return chosen
    per_head = _ranked_values(heads, "head", metric)
    matched = _most_negative(per_head, len(chosen.heads), "head", counts_of(heads), ratio=chosen.share, metric=metric)
    return replace(chosen, matched=matched)


def random_units(selection: Selection, n_draws: int = 5, seed: int = 0) -> list[Selection]:
    """`n_draws` controls of as many units of the same kind, drawn from those that were not selected."""
    pool = _others(selection.by, selection.units, selection.counts)
    return _controls(selection, selection.by, n_draws, seed, lambda rng: _draw(rng, pool, len(selection.units)))


def same_layer_units(selection: Selection, n_draws: int = 5, seed: int = 0) -> list[Selection]:
    """`n_draws` controls of as many units of the same kind in each layer, drawn from those that were not selected."""
    taken = Counter(layer for layer, _ in selection.units)
    pool = _others(selection.by, selection.units, selection.counts)

    def draw(rng: np.random.Generator) -> list[Address]:
        return [
            unit
            for layer in sorted(taken)
            for unit in _draw(rng, [u for u in pool if u[0] == layer], taken[layer], f"layer {layer}")
        ]

    return _controls(selection, selection.by, n_draws, seed, draw)


def random_heads(selection: Selection, n_draws: int = 5, seed: int = 0) -> list[Selection]:
    """`n_draws` controls of as many single query heads as the selection holds, drawn from the others."""
    pool = _others("head", selection.heads, selection.counts)
    return _controls(selection, "head", n_draws, seed, lambda rng: _draw(rng, pool, len(selection.heads)))


def complete_to_groups(heads: Selection, n_groups: int | None = None) -> Selection:
    """The KV groups of the selected heads, in order of their first head; only the first `n_groups` if it is given."""
    size = heads.counts.n_heads // heads.counts.n_kv_heads
    groups = list(dict.fromkeys((layer, head // size) for layer, head in heads.heads))
    return _selection("kv_group", groups[:n_groups], heads.counts, metric=heads.metric)


def _ranked_values(contribution: xr.Dataset | xr.DataArray, by: Unit, metric: str) -> np.ndarray:
    """Contributions on the (layer, unit) grid for one metric."""
    counts = counts_of(contribution)
    n_units = per_layer(by, counts)
    values = contribution["contribution"] if isinstance(contribution, xr.Dataset) else contribution
    if "metric" in values.dims:
        known = [str(name) for name in values["metric"].values]
        if metric not in known:
            raise InputError(f"metric={metric!r} was not measured; {suggest(metric, known)}")
        values = values.sel(metric=metric)
    wanted = ("layer",) if by == "layer" else ("layer", by)
    if set(values.dims) != set(wanted):
        raise InputError(
            f"by={by!r} needs contributions over {wanted}, and these are over {values.dims}. Effects of "
            f"heads do not add up to effects of groups: measure again with unit={by!r}."
        )
    array = np.asarray(values.transpose(*wanted), dtype=float).reshape(-1, n_units)
    unknown = np.isnan(array)
    unknown[list(counts.headless)] = False
    if unknown.any():
        raise InputError(
            f"{int(unknown.sum())} of {array.size} contributions to {metric} are NaN and cannot be "
            "ranked. Where a score of an example is exactly 0, its relative change is undefined: rank by "
            "logit_diff."
        )
    return array


def _most_negative(values: np.ndarray, k: int, by: Unit, counts: HeadCounts, **facts: Any) -> Selection:
    order = np.argsort(values, axis=None, kind="stable")[:k]
    units = [(int(flat) // values.shape[1], int(flat) % values.shape[1]) for flat in order]
    return _selection(by, units, counts, contribution=tuple(values.ravel()[order].tolist()), **facts)


def _selection(by: Unit, units: Sequence[Address], counts: HeadCounts, **facts: Any) -> Selection:
    size = counts.n_heads // per_layer(by, counts)
    heads = tuple((layer, head) for layer, index in units for head in heads_of(index, size))
    return Selection(by, tuple(units), heads, counts, **facts)


def _others(by: Unit, chosen: Sequence[Address], counts: HeadCounts) -> list[Address]:
    layers = [layer for layer in range(counts.n_layers) if by == "layer" or layer not in counts.headless]
    every = ((layer, index) for layer in layers for index in range(per_layer(by, counts)))
    return [unit for unit in every if unit not in set(chosen)]


def _controls(
    selection: Selection, by: Unit, n_draws: int, seed: int, draw: Callable[[np.random.Generator], list[Address]]
) -> list[Selection]:
    rng = np.random.default_rng(seed)
    return [_selection(by, draw(rng), selection.counts) for _ in range(n_draws)]


def _draw(rng: np.random.Generator, pool: list[Address], k: int, where: str = "the model") -> list[Address]:
    if k > len(pool):
        raise InputError(
            f"A control needs {k} units that were not selected, and {where} has {len(pool)} left. Use a "
            "smaller ratio or another control."
        )
    return [pool[i] for i in rng.choice(len(pool), size=k, replace=False)]
