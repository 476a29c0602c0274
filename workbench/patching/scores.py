"""From answer logits to contributions: how much each patched unit pushes a model towards a behaviour.

1. `scores`: a is the behaviour's token and b the other one. logit_ratio = l_a / (l_a + l_b),
   logit_diff = l_a - l_b, prob = p_a / (p_a + p_b), which is the logistic function of logit_diff.
2. `contribution`: the mean over examples of (patched - base) / base for logit_ratio and prob, and of
   patched - base for logit_diff. Negative: the unit pushes towards the behaviour, since the value that it
   has in the other prompt lowers the score.
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
from workbench.names import Metric

METRICS = get_args(Metric)
RELATIVE = ("logit_ratio", "prob")


def check_metrics(names: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics' names as a tuple, once each is known.

    Args:
        names: metrics asked for.
    """
    if isinstance(names, str) or not names:
        raise InputError(f"metrics={names!r} must be a list of names. {suggest(names, METRICS)}")
    for name in names:
        if name not in METRICS:
            raise InputError(f"metric {name!r} is unknown; {suggest(name, METRICS)}")
    return tuple(names)


def scores(
    l_a: Float[np.ndarray, "*cell"], l_b: Float[np.ndarray, "*cell"], names: Sequence[Metric] = METRICS
) -> Float[np.ndarray, "metric *cell"]:
    """Each metric of a pair of answer logits.

    Args:
        l_a: logits of the behaviour's token.
        l_b: logits of the other token.
        names: metrics wanted, in the order of the first axis.
    """
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
    tolerance: float = 0.1,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Scores of the base, source and patched runs, and each unit's contribution with its standard error.

    Args:
        base: logits (l_a, l_b) of the runs that are patched.
        source: logits of the runs that the patches come from.
        patched: logits of the patched runs, with the units' axes in `dims` or flattened into one.
        dims: names of the units' axes.
        coords: their labels.
        metrics: scores wanted.
        tolerance: see `unstable`.
        attrs: provenance to keep.
    """
    metrics = check_metrics(metrics)
    base, source, patched = (np.asarray(values, dtype=float) for values in (base, source, patched))
    n_examples = base.shape[-1]
    patched = patched.reshape(2, *(len(coords[dim]) for dim in dims), n_examples)
    _check_logits(base, patched)
    scored = {"base": scores(*base, metrics), "source": scores(*source, metrics), "patched": scores(*patched, metrics)}
    change = _change(scored["base"], scored["patched"], metrics)
    spread = change.std(-1, ddof=1) if n_examples > 1 else np.full(change.shape[:-1], np.nan)
    units = ("metric", *dims)
    dataset = xr.Dataset(
        {
            "base": (("metric", "example"), scored["base"]),
            "source": (("metric", "example"), scored["source"]),
            "patched": ((*units, "example"), scored["patched"]),
            "contribution": (units, change.mean(-1)),
            "stderr": (units, spread / np.sqrt(n_examples)),
        },
        coords={"metric": list(metrics), **coords, "example": np.arange(n_examples)},
        attrs=dict(attrs or {}),
    )
    dataset.attrs |= unstable(base, metrics, tolerance)
    return dataset


def effects(dataset: xr.Dataset) -> xr.DataArray:
    """Each example's own contribution: the relative or absolute change of its score, NaN where undefined.

    Args:
        dataset: a patching result.
    """
    base, patched = dataset["base"].transpose("metric", "example"), dataset["patched"]
    ordered = patched.transpose("metric", ..., "example")
    change = _change(base.values, ordered.values, metrics_of(dataset))
    return ordered.copy(data=change).rename(None).transpose(*patched.dims)


def _change(
    base: Float[np.ndarray, "metric example"],
    patched: Float[np.ndarray, "metric *unit example"],
    metrics: Sequence[str],
) -> Float[np.ndarray, "metric *unit example"]:
    base = base.reshape(base.shape[0], *[1] * (patched.ndim - 2), base.shape[-1])
    relative = np.isin(metrics, RELATIVE).reshape(-1, *[1] * (patched.ndim - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        change = (patched - base) / np.where(relative, base, 1.0)
    return np.where(np.isfinite(change), change, np.nan)


def unstable(
    base: Float[np.ndarray, "answer example"], metrics: Sequence[Metric] = METRICS, tolerance: float = 0.1
) -> dict[str, Any]:
    """Counts of examples whose relative scores should not be trusted; warns where there are any.

    With s = l_a + l_b the relative change of the ratio is, to first order, dl_a / l_a - ds / s: the change
    of the logits magnified by 1 / |l_a| and 1 / |s|. An example counts as unstable where either is below
    `tolerance` times |l_a| + |l_b|; the default, 0.1, stands for a tenfold magnification. The ratio's
    derivatives are l_b / s**2 and -l_a / s**2, so it rises with the behaviour only where both logits are
    positive; elsewhere the example counts as reversed. A prob below `tolerance` counts as unstable because
    its relative change can exceed 1 / tolerance.

    Args:
        base: logits (l_a, l_b) of the unpatched runs.
        metrics: scores that are used; others are not counted.
        tolerance: smallest denominator that is trusted, as a share of the logits' size.
    """
    l_a, l_b = np.asarray(base, dtype=float)
    size = np.abs(l_a) + np.abs(l_b)
    small = (np.abs(l_a + l_b) < tolerance * size) | (np.abs(l_a) < tolerance * size) | (size == 0)
    counted = {
        "ratio_unstable_examples": (small, "logit_ratio", "logit_ratio or its denominator is near 0"),
        "ratio_reversed_examples": (
            np.minimum(l_a, l_b) < 0,
            "logit_ratio",
            "a logit is negative, which can turn the direction of logit_ratio,",
        ),
        "prob_unstable_examples": (
            expit(l_a - l_b) < tolerance,
            "prob",
            f"the base prob is below {tolerance}",
        ),
    }
    counts = {name: int(which.sum()) for name, (which, metric, _) in counted.items() if metric in metrics}
    found = [f"{counted[name][2]} in {n}" for name, n in counts.items() if n]
    if found:
        warnings.warn(
            f"Of {l_a.size} examples, {'; '.join(found)}. Their relative changes cannot be trusted and "
            "enter the mean: read logit_diff instead.",
            WorkbenchWarning,
            stacklevel=3,
        )
    return counts | {"unstable_tolerance": tolerance}


def _check_logits(base: np.ndarray, patched: np.ndarray) -> None:
    if base.shape[-1] == 0:
        raise InputError("There are no examples, so there is no contribution to compute.")
    bad = int((~np.isfinite(base)).any(axis=0).sum())
    broken = int((~np.isfinite(patched)).sum())
    if bad or broken:
        raise InputError(
            f"{bad} of {base.shape[-1]} examples have NaN or infinite answer logits in the base run, and "
            f"{broken} of {patched.size} patched logits are such. The weights are damaged or the dtype is "
            "too small."
        )
