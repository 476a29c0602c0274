"""Summary of accuracy curves: how many heads can be zeroed, how well a score ranks them, with intervals.

1. A curve is joined linearly over the realised shares, in their order; points of equal share are averaged first, since
   their order means nothing and the paper's area depends on it.
2. `free_share`: the largest share at which accuracy is still within so many points of the baseline.
3. `auc`: the area over the range of the curve divided by that range, as in the paper, which favours curves that stop
   early; `auc_common`: the same over the range that all curves cover.
4. `rank`: by that area, 1 the largest; equal areas share their mean rank. A score that selects nothing has no area.
5. `gain`: the free share beyond that of random choice.
6. Intervals: all of it again on resampled examples, the same ones for every curve.
7. `compare_curves`: what another choice of thresholds changes, example by example.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy import stats

from workbench.errors import InputError
from workbench.statistics import mean_interval, percentiles, resamples

Curve = Float[np.ndarray, " threshold"]
RANDOM = "Random"
LOSSES = (0.005, 0.01)
"""Half a point and one point of accuracy."""


def joined(share: Curve, accuracy: Curve) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve in order of their share, points of equal share averaged."""
    x, index = np.unique(share, return_inverse=True)
    return x, np.bincount(index, accuracy) / np.bincount(index)


def free_share(share: Curve, accuracy: Curve, baseline: float, loss: float) -> float:
    """The largest share at which the curve is not more than `loss` below the baseline; 0 if there is none."""
    x, y = joined(share, accuracy)
    above = y >= baseline - loss
    if above[-1]:
        return float(x[-1])
    last = int(np.flatnonzero(above)[-1]) if above.any() else -1
    if last < 0:
        return 0.0
    part = (y[last] - (baseline - loss)) / (y[last] - y[last + 1])
    return float(x[last] + part * (x[last + 1] - x[last]))


def auc(share: Curve, accuracy: Curve, upto: float | None = None) -> float:
    """The mean height of the curve over its range, or from its start to `upto`; NaN where nothing was zeroed."""
    x, y = joined(share, accuracy)
    if upto is not None and upto < x[-1]:
        y = np.append(y[x < upto], np.interp(upto, x, y))
        x = np.append(x[x < upto], upto)
    return float(np.trapezoid(y, x) / (x[-1] - x[0])) if x[-1] > x[0] else float("nan")


def summarize(
    curves: xr.Dataset, *, losses: Sequence[float] = LOSSES, n: int = 1000, seed: int = 0, level: float = 0.95
) -> xr.Dataset:
    """Free shares, areas and ranks of the curves of one model.

    Args:
        curves: with `share` and `accuracy` (score, threshold) and `baseline`, from `ablation_curve`, or one model of
            `published()`; `correct(score, threshold, example)` and `baseline_correct(example)` give intervals.
        losses: points of accuracy, as shares, that count as unharmed.
        n: resamples.
        seed: of the resampling.
        level: of the intervals.

    Returns:
        `free_share(score, loss)`, its `gain` over "Random" where that was measured, `auc`, `auc_common`, `rank` and
        `rank_common` (score), each with `_low` and `_high` where there are examples. `common_range` in attrs says how
        far the common range goes.
    """
    share = curves["share"].transpose("score", "threshold").values
    accuracy = curves["accuracy"].transpose("score", "threshold").values
    names = curves["score"].values.tolist()
    chance = names.index(RANDOM) if RANDOM in names else None
    found = _measures(share, accuracy, float(curves["baseline"]), losses, chance)
    dims = {"free_share": ("score", "loss"), "gain": ("score", "loss")}
    out = xr.Dataset(
        {name: (dims.get(name, ("score",)), values) for name, values in found.items()},
        coords={"score": curves["score"], "loss": list(losses)},
        attrs={"common_range": _common(share), "n_resamples": n, "level": level, "seed": seed},
    )
    if "correct" not in curves:
        return out
    drawn = _resampled(curves, share, losses, chance, n, seed)
    for name, values in drawn.items():
        low, high = percentiles(values, level)
        out[f"{name}_low"], out[f"{name}_high"] = (out[name].dims, low), (out[name].dims, high)
    return out


def _measures(
    share: np.ndarray, accuracy: np.ndarray, baseline: float, losses: Sequence[float], chance: int | None
) -> dict[str, np.ndarray]:
    common = _common(share)
    curves = list(zip(share, accuracy, strict=True))
    whole = np.array([auc(x, y) for x, y in curves])
    same = np.array([auc(x, y, common) for x, y in curves])
    free = np.array([[free_share(x, y, baseline, loss) for loss in losses] for x, y in curves])
    gain = {} if chance is None else {"gain": free - free[chance]}
    return gain | {
        "free_share": free,
        "auc": whole,
        "auc_common": same,
        "rank": stats.rankdata(-whole, nan_policy="omit"),
        "rank_common": stats.rankdata(-same, nan_policy="omit"),
    }


def _common(share: np.ndarray) -> float:
    """How far all curves go that go anywhere."""
    ends = share.max(axis=1)
    return float(ends[ends > 0].min(initial=1.0))


def _resampled(
    curves: xr.Dataset, share: np.ndarray, losses: Sequence[float], chance: int | None, n: int, seed: int
) -> dict[str, np.ndarray]:
    """The measures on resampled examples, the resamples last."""
    correct = curves["correct"].transpose("score", "threshold", "example").values.astype(float)
    baseline = curves["baseline_correct"].values.astype(float)
    weights = resamples(len(baseline), n, seed)
    accuracies = np.tensordot(weights, correct, (1, 2))
    rows = [_measures(share, y, b, losses, chance) for y, b in zip(accuracies, weights @ baseline, strict=True)]
    return {name: np.stack([row[name] for row in rows], axis=-1) for name in rows[0]}


def compare_curves(curves: xr.Dataset, other: xr.Dataset, *, seed: int = 0) -> xr.Dataset:
    """How much the accuracy of `other` differs from that of `curves`, on the same examples.

    Args:
        curves: from `ablation_curve`.
        other: of the same task, with thresholds fitted elsewhere, for instance.
        seed: of the resampling.

    Returns:
        `change(score, threshold)` of the accuracy with its paired interval `change_low` and `change_high`, for the
        scores and thresholds that both have, and `share_change`, that of the realised share.

    Raises:
        InputError: curves of different examples.
    """
    if not np.array_equal(curves["baseline_correct"].values, other["baseline_correct"].values):
        raise InputError(
            f"These curves are of {curves.sizes['example']} and {other.sizes['example']} examples that were not "
            "answered alike with nothing zeroed, so they cannot be compared example by example. Run one task twice."
        )
    first, second = xr.align(curves, other, join="inner", exclude=["example", "layer"])
    changed = second["correct"].astype(float) - first["correct"].astype(float)
    interval = mean_interval(changed.transpose("score", "threshold", "example").values, seed=seed)
    dims = ("score", "threshold")
    return xr.Dataset(
        {
            "change": changed.mean("example"),
            "change_low": (dims, interval.low),
            "change_high": (dims, interval.high),
            "share_change": second["share"] - first["share"],
        }
    )
