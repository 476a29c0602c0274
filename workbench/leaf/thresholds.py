"""From token scores to candidate tokens: the two definitions of the threshold.

quantile   (as in the released code) of the n prunable values in ascending order, the cut is the one at index
           floor(n q), but at most 0.5; all tokens at or below the cut are candidates. Without ties and cap these are
           floor(n q) + 1 tokens: at least one per example.
absolute   (as in the paper's text and figure) all tokens at or below the threshold itself.

Both act on values of a range from 0 to 1 in which 0 is the most confounding (`oriented`).
"""

from collections.abc import Sequence
from math import floor
from typing import get_args

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from workbench.errors import InputError, check_known, suggest
from workbench.names import Reading

CAP = 0.5
"""No token above it is a candidate in the quantile reading, however few lie below."""


def unit_range(values: np.ndarray, flat: float = 0.0) -> np.ndarray:
    """Each row (..., position) between 0 and 1: (x - min) / (max - min) without NaNs; `flat` if all are equal."""
    with np.errstate(invalid="ignore"):
        low = np.fmin.reduce(values, axis=-1, keepdims=True)
        width = np.fmax.reduce(values, axis=-1, keepdims=True) - low
        scaled = (values - low) / np.where(width > 0, width, np.nan)
    return np.where(np.isnan(values), np.nan, np.where(width > 0, scaled, flat))


def oriented(found: xr.Dataset, score: str | None = None) -> xr.DataArray:
    """A score between 0, the most confounding token of its example, and 1; NaN where a token may not be pruned.

    Where all tokens of an example score alike, each gets 1: nothing stands out. `found` is from
    `workbench.leaf.sensitivity`, and `score` may be left out where it has only one.

    Raises:
        InputError: a score that was not computed, or none named where there are several.
    """
    known = [str(s) for s in found["score"].values]
    if score is None and len(known) > 1:
        raise InputError(f"This result has the scores {', '.join(known)}; say which with score=….")
    score = known[0] if score is None else score
    if score not in known:
        raise InputError(f"The score {score!r} is not in this result; {suggest(score, known)}")
    one = found["sensitivity"].sel(score=score)
    values = one.values.astype(float)
    if str(found["confounding"].sel(score=score).item()) == "high":
        values = -values
    return one.copy(data=unit_range(values, flat=1.0)).drop_vars(["score", "confounding"], errors="ignore")


def candidates(
    found: xr.Dataset,
    score: str | None = None,
    *,
    threshold: float | Sequence[float] = 0.10,
    reading: Reading = "quantile",
    like: xr.DataArray | None = None,
) -> xr.DataArray:
    """Which tokens may be confounders.

    Args:
        found: from `workbench.leaf.sensitivity`.
        score: which of its scores; None where there is only one.
        threshold: a fraction, or several.
        reading: "quantile" or "absolute".
        like: candidates of another score: as many tokens of each example are taken, the most confounding first, and
            thresholds and reading are those of `like`.

    Returns:
        Booleans (example, position), or (threshold, example, position) for several thresholds.

    Raises:
        InputError: a threshold outside 0 to 1, an unknown reading, or what `oriented` refuses.
    """
    values = oriented(found, score)
    if like is not None:
        return like.copy(data=_as_many(values.values, like.values))
    check_known("reading", reading, get_args(Reading))
    several = not np.isscalar(threshold)
    wanted = [float(t) for t in np.atleast_1d(threshold)]
    wrong = [t for t in wanted if not 0 <= t <= 1]
    if wrong or not wanted:
        raise InputError(f"threshold={wrong or wanted} is no fraction between 0 and 1, such as 0.10.")
    take = _quantile if reading == "quantile" else _absolute
    chosen = np.stack([np.stack([take(row, t) for row in values.values]) for t in wanted])
    coords = {name: values.coords[name] for name in ("example",) if name in values.coords}
    facts = {"score": score or str(found["score"].values[0]), "reading": reading}
    all_ = xr.DataArray(
        chosen, dims=("threshold", "example", "position"), coords={"threshold": wanted, **coords}, attrs=facts
    )
    return all_ if several else all_.isel(threshold=0)


def _quantile(row: np.ndarray, q: float) -> np.ndarray:
    ordered = np.sort(row[~np.isnan(row)])
    if not len(ordered):
        return np.zeros(len(row), dtype=bool)
    at = min(floor(len(ordered) * q + 1e-9), len(ordered) - 1)
    return _absolute(row, min(float(ordered[at]), CAP))


def _absolute(row: np.ndarray, tau: float) -> np.ndarray:
    return np.nan_to_num(row, nan=np.inf) <= tau


def _as_many(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    ranks = rankdata(np.nan_to_num(values, nan=np.inf), "ordinal", axis=-1)
    return (ranks <= like.sum(-1, keepdims=True)) & ~np.isnan(values)
