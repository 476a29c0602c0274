"""From answer logits to contributions: how much each patched unit pushes a model towards a behaviour.

1. `scores`: a is the behaviour's token and b the other one. logit_ratio = l_a / (l_a + l_b),
   logit_diff = l_a - l_b, prob = p_a / (p_a + p_b), which is the logistic function of logit_diff.
2. `contribution`: (mean patched - mean base) / mean base for logit_ratio and prob, the ratio of means over examples,
   with the standard error of the delta method; the mean of patched - base for logit_diff. Negative: the unit pushes
   towards the behaviour, since the value that it has in the other prompt lowers the score. The papers' own estimator,
   the mean over examples of (patched - base) / base, is there by name ("mean_of_ratios", `estimated`): one example
   with a base near 0 can decide it.
3. `unstable`: the ratio is built from raw logits, so it explodes where they cancel and can run backwards
   where one is negative. Such examples are counted, and the counts travel with the result.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.special import expit

from workbench.errors import InputError, WorkbenchWarning, suggest
from workbench.names import Estimator, Metric

METRICS = get_args(Metric)
RELATIVE = ("logit_ratio", "prob")
DEFAULT_METRIC: Metric = "logit_diff"
"""The score by which units are ranked, selected and drawn unless another is asked for."""
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
TOLERANCE = 0.1
"""The smallest denominator of a relative score that is trusted, as a share of the logits' size."""


def check_metrics(names: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics' names as a tuple, once each is known."""
    if isinstance(names, str) or not names:
        raise InputError(f"metrics={names!r} must be a list of names. {suggest(names, METRICS)}")
    for name in names:
        if name not in METRICS:
            raise InputError(f"metric {name!r} is unknown; {suggest(name, METRICS)}")
    return tuple(names)


def scores(
    l_a: Float[np.ndarray, "*cell"], l_b: Float[np.ndarray, "*cell"], names: Sequence[Metric] = METRICS
) -> Float[np.ndarray, "metric *cell"]:
    """Each metric of the logits of the behaviour's token (a) and of the other token (b)."""
    names = check_metrics(names)
    l_a, l_b = np.asarray(l_a, dtype=float), np.asarray(l_b, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        formulas = {
            "logit_ratio": lambda: l_a / (l_a + l_b),
            "logit_diff": lambda: l_a - l_b,
            "prob": lambda: expit(l_a - l_b),
        }
        return np.stack([formulas[name]() for name in names])


def metrics_of(result: xr.Dataset | xr.DataArray) -> list[Metric]:
    """The metrics that a patching result holds."""
    return cast(list[Metric], [str(name) for name in result["metric"].values])


def contribution(
    base: Float[np.ndarray, "answer example"],
    source: Float[np.ndarray, "answer example"],
    patched: Float[np.ndarray, "answer *unit example"],
    *,
    dims: Sequence[str],
    coords: Mapping[str, Any],
    metrics: Sequence[Metric] = METRICS,
) -> xr.Dataset:
    """Scores of the base, source and patched runs, and each unit's contribution with its standard error.

    Args:
        base: logits (l_a, l_b) of the runs that are patched.
        source: logits of the runs that the patches come from.
        patched: logits of the patched runs, with the units' axes in `dims` or flattened into one; NaN where a unit was
            not measured.
        dims: names of the units' axes, with their labels in `coords`.
        coords: those labels.
        metrics: scores wanted.
    """
    metrics = check_metrics(metrics)
    base, source, patched = (np.asarray(values, dtype=float) for values in (base, source, patched))
    n_examples = base.shape[-1]
    patched = patched.reshape(2, *(len(coords[dim]) for dim in dims), n_examples)
    _check_logits(base, patched)
    dataset = xr.Dataset(
        {
            "base": (("metric", "example"), scores(*base, metrics)),
            "source": (("metric", "example"), scores(*source, metrics)),
            "patched": (("metric", *dims, "example"), scores(*patched, metrics)),
        },
        coords={"metric": list(metrics), **coords, "example": np.arange(n_examples)},
        attrs=unstable(base, metrics),
    )
    return estimated(dataset)


def estimated(dataset: xr.Dataset, estimator: Estimator = "ratio_of_means") -> xr.Dataset:
    """A patching result with its contributions and standard errors by another estimator of the relative scores.

    With P and B the patched and base scores of the examples and R the contribution:

    - "ratio_of_means": R = mean(P - B) / mean(B), standard error sd(P - B (1 + R)) / (sqrt(n) mean(B)).
    - "mean_of_ratios" (Chen et al. 2024): R = mean((P - B) / B), standard error of that mean.

    The contribution to logit_diff, mean(P - B), is the same under both.

    Args:
        dataset: a patching result.
        estimator: one of `ESTIMATORS`.

    Returns:
        The same with `contribution` and `stderr` (NaN for one example) over metric and units; attrs `estimator`.
    """
    if estimator not in ESTIMATORS:
        raise InputError(f"estimator={estimator!r} is unknown; {suggest(estimator, ESTIMATORS)}")
    base, patched, relative = _aligned(dataset)
    n = patched.sizes["example"]
    found = _estimates(base, patched.values, np.full((n, 1), 1 / n), relative, estimator)[..., 0]
    spread = np.full(found.shape, np.nan)
    if n > 1:
        spread = _influence(base, patched.values, found, relative, estimator).std(-1, ddof=1) / np.sqrt(n)
    template = patched.isel(example=0, drop=True)
    return dataset.assign(contribution=template.copy(data=found), stderr=template.copy(data=spread)).assign_attrs(
        estimator=estimator
    )


def resampled(
    dataset: xr.Dataset, weights: Float[np.ndarray, "example draw"]
) -> Float[np.ndarray, "metric *unit draw"]:
    """Contributions under other weights of the examples, each column with sum 1, by the result's own estimator.

    Numerator and denominator are weighted together. The axes are those of `patched` without examples, then draws.
    """
    base, patched, relative = _aligned(dataset)
    estimator = str(dataset.attrs.get("estimator", "mean_of_ratios"))
    values = _estimates(base, patched.values, weights, relative, estimator)
    return np.moveaxis(values, 0, dataset["patched"].transpose(..., "example").dims.index("metric"))


def _aligned(dataset: xr.Dataset) -> tuple[np.ndarray, xr.DataArray, np.ndarray]:
    """Base scores that broadcast against the patched ones `[metric, *unit, example]`, and which scores are relative."""
    patched = dataset["patched"].transpose("metric", ..., "example")
    base = dataset["base"].transpose("metric", "example").values
    return (
        base.reshape(len(base), *[1] * (patched.ndim - 2), -1),
        patched,
        np.isin(dataset["metric"].values.astype(str), RELATIVE),
    )


def _estimates(
    base: np.ndarray, patched: np.ndarray, weights: np.ndarray, relative: np.ndarray, estimator: str
) -> np.ndarray:
    """Contributions `[metric, *unit, resample]` from scores `[metric, *unit, example]` and weights of the examples."""
    found = np.empty((*patched.shape[:-1], weights.shape[1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        for metric, is_relative in enumerate(relative):
            change = patched[metric] - base[metric]
            if is_relative and estimator == "ratio_of_means":
                found[metric] = (change @ weights) / (base[metric] @ weights)
            else:
                each = change / base[metric] if is_relative else change
                found[metric] = np.where(np.isfinite(each), each, np.nan) @ weights
    return np.where(np.isfinite(found), found, np.nan)


def _influence(
    base: np.ndarray, patched: np.ndarray, found: np.ndarray, relative: np.ndarray, estimator: str
) -> np.ndarray:
    """Values per example whose spread is that of the estimate."""
    moved = np.empty(patched.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        for metric, is_relative in enumerate(relative):
            if is_relative and estimator == "ratio_of_means":
                residual = patched[metric] - base[metric] * (1 + found[metric][..., None])
                moved[metric] = residual / base[metric].mean(-1, keepdims=True)
            else:
                change = patched[metric] - base[metric]
                moved[metric] = change / base[metric] if is_relative else change
    return np.where(np.isfinite(moved), moved, np.nan)


def unstable(base: Float[np.ndarray, "answer example"], metrics: Sequence[Metric] = METRICS) -> dict[str, Any]:
    """Counts of examples whose relative scores should not be trusted; warns where there are any.

    With s = l_a + l_b the relative change of the ratio is, to first order, dl_a / l_a - ds / s: the change
    of the logits magnified by 1 / |l_a| and 1 / |s|. An example counts as unstable where either is below
    `TOLERANCE` times |l_a| + |l_b|; 0.1 stands for a tenfold magnification. The ratio's
    derivatives are l_b / s**2 and -l_a / s**2, so it rises with the behaviour only where both logits are
    positive; elsewhere the example counts as reversed. A prob below `TOLERANCE` counts as unstable because
    its relative change can exceed 1 / TOLERANCE.
    """
    l_a, l_b = np.asarray(base, dtype=float)
    size = np.abs(l_a) + np.abs(l_b)
    small = (np.abs(l_a + l_b) < TOLERANCE * size) | (np.abs(l_a) < TOLERANCE * size) | (size == 0)
    counted = {
        "ratio_unstable_examples": (small, "logit_ratio", "logit_ratio or its denominator is near 0"),
        "ratio_reversed_examples": (
            np.minimum(l_a, l_b) < 0,
            "logit_ratio",
            "a logit is negative, which can turn the direction of logit_ratio,",
        ),
        "prob_unstable_examples": (expit(l_a - l_b) < TOLERANCE, "prob", f"the base prob is below {TOLERANCE}"),
    }
    counts = {name: int(which.sum()) for name, (which, metric, _) in counted.items() if metric in metrics}
    found = [f"{counted[name][2]} in {n}" for name, n in counts.items() if n]
    if found:
        warnings.warn(
            f"Of {l_a.size} examples, {'; '.join(found)}. Their relative changes cannot be trusted: read logit_diff "
            "instead.",
            WorkbenchWarning,
            stacklevel=3,
        )
    return counts | {"unstable_tolerance": TOLERANCE}


def _check_logits(base: np.ndarray, patched: np.ndarray) -> None:
    if base.shape[-1] == 0:
        raise InputError("There are no examples, so there is no contribution to compute.")
    bad = int((~np.isfinite(base)).any(axis=0).sum())
    measured = ~np.isnan(patched).all(axis=(0, -1), keepdims=True)
    broken = int((measured & ~np.isfinite(patched)).sum())
    if bad or broken:
        raise InputError(
            f"{bad} of {base.shape[-1]} examples have NaN or infinite answer logits in the base run, and "
            f"{broken} of {patched.size} patched logits are such. The weights are damaged or the dtype is "
            "too small."
        )
