"""From scores to thresholds, and from thresholds to the heads that they select.

1. All scores of one kind, of every layer, head and sequence, are pooled and sorted: x_1 … x_N, with the cumulative
   share i / N at x_i.
2. A quantile p asks for the share p of inactive heads: tau is the inverse of the cumulative share at p, linear between
   the points, or at 1 − p for scores whose heads are inactive above the threshold.
3. Selection is strict, so p = 0 selects nothing, and heads tied with tau are kept.

The paper fits thresholds on the very prompts it tests on; `held_out=True` fits on one half of the sequences and says
what share the same threshold selects on the other.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from workbench.errors import InputError

QUANTILES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
"""The shares of heads that the paper asks for."""


def inactive_head_thresholds(
    scores: xr.DataArray, quantiles: Sequence[float | int] = QUANTILES, *, held_out: bool = False, seed: int = 0
) -> xr.Dataset:
    """Thresholds that select given shares of the heads.

    Args:
        scores: from `head_scores`.
        quantiles: shares of inactive heads, from 0 to 1.
        held_out: fit on a random half of the sequences, and apply to the other.
        seed: of the halves.

    Returns:
        A Dataset over (score, threshold), where `threshold` is the quantile: `tau`, and `selected`, the share of
        (sequence, layer, head) beyond it, of all sequences or of the half that was held out.

    Raises:
        InputError: quantiles outside [0, 1], scores that are not finite, or too few sequences to hold half out.
    """
    asked = np.asarray(list(quantiles), dtype=float)
    if not len(asked) or not bool(((asked >= 0) & (asked <= 1)).all()):
        raise InputError(
            f"quantiles={list(quantiles)} must be shares from 0 to 1, such as 0.1 for a tenth of the heads."
        )
    scores = scores.drop_sel(layer=np.atleast_1d(scores.attrs.get("headless", [])).astype(int))
    finite = np.isfinite(scores.transpose("score", ...).values).all(axis=(1, 2, 3))
    if not finite.all():
        bad = scores["score"].values[~finite]
        raise InputError(f"The scores {', '.join(bad)} hold NaN or infinite values; thresholds need finite ones.")
    fit, test = halves(scores, seed) if held_out else (scores, scores)
    tau = np.stack([_tau(fit.sel(score=name), asked) for name in scores["score"].values])
    out = xr.Dataset(
        {"tau": (("score", "threshold"), tau)},
        coords={"score": scores["score"], "inactive": scores["inactive"], "threshold": asked},
        attrs=scores.attrs | {"fitted_on": "one half of the sequences" if held_out else "all sequences", "seed": seed},
    )
    return out.assign(selected=inactive(test, out["tau"]).mean(["sequence", "layer", "head"]))


def halves(scores: xr.DataArray, seed: int = 0) -> tuple[xr.DataArray, xr.DataArray]:
    """Two random halves of the sequences."""
    n = scores.sizes["sequence"]
    if n < 2:
        raise InputError("One sequence cannot be split into halves; give at least 2 to hold half of them out.")
    order = np.random.default_rng(seed).permutation(n)
    return scores.isel(sequence=np.sort(order[: n // 2])), scores.isel(sequence=np.sort(order[n // 2 :]))


def inactive(scores: xr.DataArray, tau: xr.DataArray | float) -> xr.DataArray:
    """Which heads are beyond a threshold, when nothing is zeroed.

    Args:
        scores: from `head_scores`.
        tau: from `inactive_head_thresholds`, or one number.
    """
    return xr.where(scores["inactive"] == "above", scores > tau, scores < tau).drop_attrs(deep=False)


def _tau(scores: xr.DataArray, quantiles: np.ndarray) -> np.ndarray:
    """The inverse cumulative distribution, linear between its points."""
    ordered = np.sort(scores.values, axis=None).astype(float)
    shares = np.arange(1, len(ordered) + 1) / len(ordered)
    wanted = 1 - quantiles if str(scores["inactive"].item()) == "above" else quantiles
    return np.interp(np.clip(wanted, shares[0], 1.0), shares, ordered)
