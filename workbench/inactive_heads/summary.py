"""Summary of accuracy curves: how many heads can be zeroed, how well a score ranks them, with intervals.

1. A curve is joined linearly over the realised shares, in their order; points of equal share are averaged first, since
   their order means nothing and the paper's area depends on it.
2. `free_share`: the largest share at which accuracy is still within so many points of the baseline. A curve that ends
   there tells a lower bound only (`free_share_at_least`).
3. `auc`: the area over the range of the curve divided by that range, as in the paper, which favours curves that stop
   early; `auc_common`: the same over the range that all curves cover.
4. `rank`: by that area, 1 the largest; equal areas share their mean rank. A score that selects nothing has no area.
5. `gain`: the free share beyond that of random choice.
6. Intervals: all of it again on resampled examples, the same ones for every curve.
7. `loss_at`: what is lost where a given share is zeroed, and whether that is within so many points.
8. `compare_curves`: what another choice of thresholds changes, example by example.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy import stats

from workbench.errors import InputError
from workbench.statistics import mean_interval, percentiles, resamples

Curve = Float[np.ndarray, " threshold"]
Curves = Float[np.ndarray, "*resample threshold"]
Values = Float[np.ndarray, "*resample"] | float
RANDOM = "Random"
LOSSES = (0.005, 0.01)
"""Half a point and one point of accuracy."""
UNSEEN = 3
"""Where none of n answers was lost, up to so many in n may be (95 %, the rule of three)."""


def joined(share: Curve, accuracy: Curves) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve, of each resample, in order of their share, points of equal share averaged."""
    x, index = np.unique(share, return_inverse=True)
    return x, np.stack([accuracy[..., index == i].mean(-1) for i in range(len(x))], axis=-1)


def free_share(share: Curve, accuracy: Curves, baseline: Values, loss: float) -> Values:
    """The largest share at which the curve is not more than `loss` below the baseline; 0 if there is none."""
    x, y = joined(share, accuracy)
    floor = np.asarray(baseline)[..., None] - loss
    above = y >= floor
    last = len(x) - 1 - above[..., ::-1].argmax(-1, keepdims=True)
    after = np.minimum(last + 1, len(x) - 1)
    here, there = np.take_along_axis(y, last, -1), np.take_along_axis(y, after, -1)
    part = np.divide(here - floor, here - there, out=np.zeros_like(here), where=here > there)
    return np.where(above.any(-1), (x[last] + part * (x[after] - x[last]))[..., 0], 0.0)


def ends_within(share: Curve, accuracy: Curves, baseline: Values, loss: float) -> np.ndarray | np.bool_:
    """Whether the curve's last point is not more than `loss` below the baseline, so that its free share is a bound."""
    return joined(share, accuracy)[1][..., -1] >= np.asarray(baseline) - loss


def auc(share: Curve, accuracy: Curves, upto: float | None = None) -> Values:
    """The mean height of the curve over its range, or from its start to `upto`; NaN where nothing was zeroed."""
    x, y = joined(share, accuracy)
    if x[-1] <= x[0]:
        return np.full(y.shape[:-1], np.nan)
    if upto is not None and upto < x[-1]:
        y = np.concatenate([y[..., x < upto], np.expand_dims(_height(x, y, upto), -1)], axis=-1)
        x = np.append(x[x < upto], upto)
    return np.trapezoid(y, x) / (x[-1] - x[0])


def _height(x: np.ndarray, y: np.ndarray, share: float) -> Values:
    """The height of joined curves at a share within their range."""
    i = int(np.clip(np.searchsorted(x, share), 1, len(x) - 1))
    part = (share - x[i - 1]) / (x[i] - x[i - 1])
    return y[..., i - 1] + part * (y[..., i] - y[..., i - 1])


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
        `rank_common` (score), each with `_low` and `_high` where there are examples. `free_share_at_least` says where
        a curve ends within the loss, so that its free share is a lower bound, and `free_share_high_at_least` the same
        of the interval's upper end. `common_range` in attrs says how far the common range goes.
    """
    share = curves["share"].transpose("score", "threshold").values
    accuracy = curves["accuracy"].transpose("score", "threshold").values
    names = curves["score"].values.tolist()
    chance = names.index(RANDOM) if RANDOM in names else None
    found = _measures(share, accuracy, float(curves["baseline"]), losses, chance)
    dims = dict.fromkeys(("free_share", "gain", "free_share_at_least"), ("score", "loss"))
    out = xr.Dataset(
        {name: (dims.get(name, ("score",)), values) for name, values in found.items()},
        coords={"score": curves["score"], "loss": list(losses)},
        attrs={"common_range": _common(share), "n_resamples": n, "level": level, "seed": seed},
    )
    if "correct" not in curves:
        return out
    again, baseline = _redrawn(curves, n, seed)
    drawn = _measures(share, again, baseline, losses, chance)
    bounded = drawn.pop("free_share_at_least").mean(-1) > (1 - level) / 2
    out["free_share_high_at_least"] = (("score", "loss"), bounded)
    for name, values in drawn.items():
        low, high = percentiles(values, level)
        out[f"{name}_low"], out[f"{name}_high"] = (out[name].dims, low), (out[name].dims, high)
    return out


def _measures(
    share: np.ndarray, accuracy: np.ndarray, baseline: Values, losses: Sequence[float], chance: int | None
) -> dict[str, np.ndarray]:
    """The measures of each score, share [score, threshold] and accuracy [score, *resample, threshold]."""
    common = _common(share)
    curves = list(zip(share, accuracy, strict=True))
    whole = np.stack([auc(x, y) for x, y in curves])
    same = np.stack([auc(x, y, common) for x, y in curves])
    free = np.stack([np.stack([free_share(x, y, baseline, loss) for loss in losses]) for x, y in curves])
    gain = {} if chance is None else {"gain": free - free[chance]}
    bound = np.stack([np.stack([ends_within(x, y, baseline, loss) for loss in losses]) for x, y in curves])
    return gain | {
        "free_share": free,
        "free_share_at_least": bound,
        "auc": whole,
        "auc_common": same,
        "rank": stats.rankdata(-whole, axis=0, nan_policy="omit"),
        "rank_common": stats.rankdata(-same, axis=0, nan_policy="omit"),
    }


def _common(share: np.ndarray) -> float:
    """How far all curves go that go anywhere."""
    ends = share.max(axis=1)
    return float(ends[ends > 0].min(initial=1.0))


def _redrawn(curves: xr.Dataset, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy [score, resample, threshold] and baseline [resample] on resampled examples, the same ones for both."""
    correct = curves["correct"].transpose("score", "threshold", "example").values.astype(float)
    baseline = curves["baseline_correct"].values.astype(float)
    weights = resamples(len(baseline), n, seed)
    return np.tensordot(weights, correct, (1, 2)).transpose(1, 0, 2), weights @ baseline


def loss_at(
    curves: xr.Dataset, share: float = 0.1, within: float = 0.005, *, n: int = 1000, seed: int = 0, level: float = 0.95
) -> xr.Dataset:
    """What is lost where a share of the heads is zeroed, between the measured shares, and whether that is little.

    Args:
        curves: as for `summarize`.
        share: of the heads.
        within: points of accuracy, as a share, that may be lost.
        n: resamples.
        seed: of the resampling.
        level: of the intervals.

    Returns:
        Per score `lost`, `lost_low` and `lost_high` (NaN without examples, and all NaN where a curve does not go so
        far), and the `verdict`: "within" or "beyond" where the interval, or without examples the value, lies on that
        side, "not reached", else "open". Too few questions to see such a loss (`UNSEEN`) leave "within" open.
    """
    where = curves["share"].transpose("score", "threshold").values
    accuracy = curves["accuracy"].transpose("score", "threshold").values
    far = where.max(axis=1) >= share

    def lost(accuracies: np.ndarray, baseline: Values) -> np.ndarray:
        out = np.full(accuracies.shape[:-1], np.nan)
        for i in np.flatnonzero(far):
            out[i] = baseline - _height(*joined(where[i], accuracies[i]), share)
        return out

    value = lost(accuracy, float(curves["baseline"]))
    low = high = value
    enough = True
    if "correct" in curves:
        low, high = percentiles(lost(*_redrawn(curves, n, seed)), level)
        enough = curves.sizes["example"] * within >= UNSEEN
    verdict = np.select(
        [~far, (high <= within) & enough, low > within], ["not reached", "within", "beyond"], default="open"
    )
    ends = (low, high) if "correct" in curves else (np.full_like(value, np.nan),) * 2
    found = {"lost": value, "lost_low": ends[0], "lost_high": ends[1], "verdict": verdict.astype(object)}
    return xr.Dataset(
        {name: ("score", values) for name, values in found.items()},
        coords={"score": curves["score"]},
        attrs={"share": share, "within": within, "level": level},
    )


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
