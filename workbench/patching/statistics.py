"""Statistics of a grid of contributions: concentration, intervals, and agreement of two estimates.

Kurtosis depends on how many units there are: one outlier among N equal values gives a Pearson kurtosis of
N - 2 + 1 / (N - 1), the largest possible, and k equal outliers give about N / k.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from einops import rearrange
from scipy import stats

from workbench.errors import InputError
from workbench.patching.scores import resampled
from workbench.patching.selection import budget
from workbench.patching.units import HeadCounts, counts_of, with_units
from workbench.statistics import Numbers, percentiles, resamples

_CHUNK = 2**24  # numbers held at once while resampling, 128 MiB


def kurtosis(
    contribution: xr.Dataset | xr.DataArray, n_boot: int = 1000, seed: int = 0, level: float = 0.95
) -> xr.Dataset:
    """Biased kurtosis (Fisher and Pearson) of all units' contributions, per metric, with percentile intervals.

    They are from `n_boot` resamples of the examples; there are none for 0, or for a DataArray, which has no examples.
    """
    contribution = with_units(contribution)
    values = _contributions(contribution)
    flat = _flat(values)
    n = flat.shape[-1]
    numbers = {"fisher": _fisher(flat)}
    attrs = {"n_units": n, "largest_possible_pearson": n - 2 + 1 / (n - 1) if n > 1 else 1.0}
    if n_boot and isinstance(contribution, xr.Dataset):
        weights = resamples(contribution.sizes["example"], n_boot, seed).T
        step = max(1, _CHUNK // values.size)
        parts = [
            _fisher(_merged(values, resampled(contribution, weights[:, i : i + step])), axis=-2)
            for i in range(0, n_boot, step)
        ]
        numbers["fisher_low"], numbers["fisher_high"] = percentiles(np.concatenate(parts, axis=-1), level)
        attrs |= {"n_boot": n_boot, "level": level, "seed": seed}
    numbers |= {name.replace("fisher", "pearson"): value + 3 for name, value in numbers.items()}
    return _dataset(values, numbers, **attrs)


def top_mass(contribution: xr.Dataset | xr.DataArray, ratio: float = 0.04) -> xr.DataArray:
    """Share of all negative contribution that lies in the most negative `ratio` of the units, per metric."""
    contribution = with_units(contribution)
    values = _contributions(contribution)
    mass = -np.minimum(np.sort(_flat(values), axis=-1), 0)
    top, total = mass[..., : budget(ratio, mass.shape[-1])].sum(axis=-1), mass.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return _per_metric(values, top / total).rename("top_mass")


def layer_sums(contribution: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Each layer's sum of contributions: of the negative ones with their sign turned, and of all."""
    contribution = with_units(contribution)
    values = _contributions(contribution)
    if "layer" not in values.dims:
        raise InputError(f"Sums per layer need a layer axis; these contributions are over {values.dims}.")
    within = [dim for dim in _unit_dims(values) if dim != "layer"]
    negative = values.clip(max=0, keep_attrs=False)
    return xr.Dataset(
        {"pro_behaviour": -negative.sum(within, skipna=False), "signed": values.sum(within, skipna=False)}
    )


def bootstrap(dataset: xr.Dataset, n: int = 1000, seed: int = 0, level: float = 0.95) -> xr.Dataset:
    """Percentile interval, `low` to `high`, of each contribution over `n` resamples of a patching result's examples."""
    dataset = with_units(dataset)
    weights = resamples(dataset.sizes["example"], n, seed).T
    ends = zip(("low", "high"), percentiles(resampled(dataset, weights), level), strict=True)
    template, dims = dataset["patched"].isel(example=0, drop=True), dataset["contribution"].dims
    bounds = {name: template.copy(data=end).transpose(*dims) for name, end in ends}
    return xr.Dataset(bounds, attrs={"n_boot": n, "level": level, "seed": seed})


def split_half(dataset: xr.Dataset, n_splits: int = 100, seed: int = 0) -> xr.Dataset:
    """Rank correlation, per metric, between contributions from two random halves of the examples, `n_splits` times."""
    dataset = with_units(dataset)
    values, n = _contributions(dataset), dataset.sizes["example"]
    half = n // 2
    if half < 1:
        raise InputError(f"Two halves need at least 2 examples, and there are {n}.")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_splits):
        order = rng.permutation(n)
        weights = np.zeros((n, 2))
        weights[order[:half], 0] = weights[order[half : 2 * half], 1] = 1 / half
        both = _merged(values, resampled(dataset, weights))
        found.append(_spearman(both[..., 0], both[..., 1]))
    low, high = np.percentile(found, [2.5, 97.5], axis=0)
    numbers = {"spearman": np.mean(found, axis=0), "spearman_low": low, "spearman_high": high}
    return _dataset(values, numbers, n_splits=n_splits, examples_per_half=half, seed=seed)


def within_group_variance(dataset: xr.Dataset, n_permutations: int = 2000, seed: int = 0) -> xr.Dataset:
    """Share of the variance over heads that lies inside KV groups, against heads shuffled inside their layer.

    A share below the null's says that heads of a group act alike beyond what heads of a layer do. `p_value`
    is the one-sided chance of so small a share under the null, `icc` the intra-class correlation ICC(1)
    with the KV group as class. Where groups cannot be told from heads or from layers the comparison is NaN
    and `attrs["note"]` says so.

    Args:
        dataset: what a patching function returned with unit="head".
        n_permutations: shuffles for the null, drawn by `seed`.
        seed: of the shuffles.
    """
    dataset = with_units(dataset)
    values, counts = _contributions(dataset), counts_of(dataset)
    if set(_unit_dims(values)) != {"layer", "head"}:
        raise InputError(f"Variance inside groups needs single heads; these contributions are over {values.dims}.")
    grid = values.transpose(..., "layer", "head").values
    observed = _inside_share(grid, counts.n_kv_heads)
    rng = np.random.default_rng(seed)
    heads = np.broadcast_to(np.arange(counts.n_heads), grid.shape[-2:])
    shuffles = (rng.permuted(heads, axis=-1) for _ in range(n_permutations))
    layers = np.arange(grid.shape[-2])[:, None]
    null = np.stack([_inside_share(grid[..., layers, order], counts.n_kv_heads) for order in shuffles])
    low, high = np.percentile(null, [2.5, 97.5], axis=0)
    as_small = (null <= observed + 1e-12).sum(axis=0)
    numbers = {
        "within_share": observed,
        "icc": _icc(observed, grid.shape[-2] * counts.n_kv_heads, counts.n_heads // counts.n_kv_heads),
        "null_share": null.mean(axis=0),
        "null_low": low,
        "null_high": high,
        "p_value": np.where(np.isnan(observed), np.nan, (as_small + 1) / (n_permutations + 1)),
    }
    note, undefined = _degenerate(counts)
    numbers |= {name: np.full_like(observed, np.nan) for name in numbers if name in undefined}
    return _dataset(values, numbers, n_permutations=n_permutations, seed=seed, note=note)


def compare_estimates(
    approx: xr.Dataset | xr.DataArray, exact: xr.Dataset | xr.DataArray, ratio: float = 0.04
) -> xr.Dataset:
    """How close an estimate of the contributions is to the exact ones of the same units, per metric.

    `worst_error` is the largest difference over the largest exact value, `top_overlap` the share of the top `ratio` of
    the units that both have in common.
    """
    estimate, truth = _contributions(with_units(approx)), _contributions(with_units(exact))
    try:
        estimate, truth = xr.align(estimate.transpose(*truth.dims), truth, join="exact")
    except ValueError as cause:
        raise InputError(f"The two results are not over the same units: {cause}") from cause
    a, e = _flat(estimate), _flat(truth)
    top = budget(ratio, e.shape[-1])
    tops = [np.argsort(values, axis=-1, kind="stable")[..., :top] for values in (a, e)]
    common = (tops[0][..., :, None] == tops[1][..., None, :]).sum(axis=(-1, -2))
    with np.errstate(divide="ignore", invalid="ignore"):
        worst = np.abs(a - e).max(axis=-1) / np.abs(e).max(axis=-1)
    numbers = {"pearson": _pearson(a, e), "spearman": _spearman(a, e), "worst_error": worst}
    return _dataset(truth, numbers | {"top_overlap": common / top}, n_top=top)


def _contributions(contribution: xr.Dataset | xr.DataArray) -> xr.DataArray:
    return contribution["contribution"] if isinstance(contribution, xr.Dataset) else contribution


def _unit_dims(values: xr.DataArray) -> list[str]:
    return [str(dim) for dim in values.dims if dim not in ("metric", "example")]


def _flat(values: xr.DataArray) -> np.ndarray:
    """The values with all unit axes in one: (metric, unit), or (unit) where there is no metric axis."""
    dims = _unit_dims(values)
    ordered = values.transpose(..., *dims).values
    return ordered.reshape(*ordered.shape[: ordered.ndim - len(dims)], -1)


def _merged(values: xr.DataArray, draws: np.ndarray) -> np.ndarray:
    """Resampled contributions `[metric, *unit, resample]` with all unit axes in one, like `_flat`."""
    lead = draws.ndim - 1 - len(_unit_dims(values))
    return draws.reshape(*draws.shape[:lead], -1, draws.shape[-1])


def _per_metric(values: xr.DataArray, numbers: Numbers) -> xr.DataArray:
    """Numbers, one per metric, with the metric's labels."""
    return values.isel(dict.fromkeys(_unit_dims(values), 0), drop=True).copy(data=numbers)


def _dataset(values: xr.DataArray, numbers: Mapping[str, Numbers], **attrs: Any) -> xr.Dataset:
    return xr.Dataset({name: _per_metric(values, number) for name, number in numbers.items()}, attrs=attrs)


def _centred(values: np.ndarray, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """Distances from the mean, exactly 0 where they are only rounding."""
    away = values - values.mean(axis=axis, keepdims=True)
    rounding = 8 * np.finfo(float).eps * np.abs(values).max(axis=axis, keepdims=True)
    return np.where(np.abs(away) <= rounding, 0.0, away)


def _fisher(values: np.ndarray, axis: int = -1) -> Numbers:
    away = _centred(values, axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (away**4).mean(axis=axis) / (away**2).mean(axis=axis) ** 2 - 3


def _pearson(x: np.ndarray, y: np.ndarray) -> Numbers:
    """Correlation over the last axis, NaN where either side is constant."""
    x, y = _centred(x), _centred(y)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))


def _spearman(x: np.ndarray, y: np.ndarray) -> Numbers:
    return _pearson(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))


def _inside_share(grid: np.ndarray, n_kv_heads: int) -> Numbers:
    """Sum of squares inside KV groups over the total, for (..., layer, head)."""
    groups = rearrange(grid, "... (kv_group group_head) -> ... kv_group group_head", kv_group=n_kv_heads)
    inside = (_centred(groups) ** 2).sum(axis=(-1, -2, -3))
    total = (_centred(grid, (-1, -2)) ** 2).sum(axis=(-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return inside / total


def _degenerate(counts: HeadCounts) -> tuple[str, tuple[str, ...]]:
    """Why KV groups that are single heads or whole layers have no variance within groups."""
    null = ("null_share", "null_low", "null_high", "p_value")
    if counts.n_kv_heads == counts.n_heads:
        return "Every KV group is a single head, so no variance can lie inside groups.", ("within_share", "icc", *null)
    if counts.n_kv_heads == 1:
        return "Every KV group is a whole layer, so shuffling heads inside layers changes nothing.", null
    return "", ()


def _icc(inside_share: Numbers, n_groups: int, size: int) -> Numbers:
    """ICC(1) of a one-way layout from the share of the sum of squares inside groups."""
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (1 - inside_share) / np.float64(n_groups - 1)
        inside = inside_share / np.float64(n_groups * (size - 1))
        return (between - inside) / (between + (size - 1) * inside)
