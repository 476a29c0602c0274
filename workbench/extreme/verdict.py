"""Which tokens are extreme? Thresholds on what was measured, applied again without running the model.

A token is a *sink* where enough heads of some layer attend to it, *drained* where those heads can take little from
it, *peaked* where the stream is long at it, and *extreme* where it is all three (Guo et al. 2024, section 3, which
names no thresholds). All are judged within one sequence, so a text needs no other text beside it.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench.errors import InputError


@dataclass(frozen=True)
class Thresholds:
    """What counts as a sink, a drain and a peak.

    Attributes:
        sink_weight: attention received above which a head has the token as its sink; 0.3 is Gu et al.'s ε.
        sink_heads: share of the heads of some layer that must have it; a quarter, so that a few heads that follow
            one token for its meaning don't make it a sink.
        min_queries: a token seen by fewer queries (in short texts: by fewer than half of them) is not judged, since
            the mean of a few queries passes 0.3 by chance, its own attention to itself alone being one of them.
        drain: value norm relative to the median of the other tokens, the median over the heads that have the token
            as their sink; at most half.
        peak: stream norm relative to the median of the other tokens, in the layer where it is largest; at least 3.
            Ordinary tokens of the embedded models stay below 2.
    """

    sink_weight: float = 0.3
    sink_heads: float = 0.25
    min_queries: int = 8
    drain: float = 0.5
    peak: float = 3.0

    def __post_init__(self):
        """Refuse thresholds that nothing or everything meets."""
        if not (0 < self.sink_weight < 1 and 0 < self.sink_heads <= 1):
            raise InputError(
                f"sink_weight={self.sink_weight} must lie between 0 and 1, and sink_heads={self.sink_heads} above 0 "
                "and at most 1: both are shares."
            )
        if self.min_queries < 1 or self.drain <= 0 or self.peak <= 0:
            raise InputError(
                f"min_queries={self.min_queries} must be at least 1, drain={self.drain} and peak={self.peak} positive."
            )


def classify_tokens(measured: xr.Dataset, thresholds: Thresholds | None = None) -> xr.Dataset:
    """Add verdicts and what they aggregate to; a Dataset from `extreme_tokens` can be judged again.

    Adds `sink`, `drained`, `peaked` and `extreme` (sequence, position), `sink_rate(layer, head)`: share of sequences
    in which the head has a sink, `first_token_sink_rate(layer, head)`: the same for the first token alone,
    `drain_ratio(layer, kv_head)`, `peak_ratio(layer)` and `peak_ratio_max(layer)`: value and stream norms of the
    extreme tokens relative to the median (or maximum) of the other tokens, the mean over sequences. Where a sequence
    has no extreme token its sinks stand in, and where it has no sink its first token.

    Args:
        measured: with the variables of `extreme_tokens`.
        thresholds: the default ones if None.
    """
    limits = thresholds or Thresholds()
    judged = _judged(measured, limits.min_queries)
    heavy = (measured["sink_weight"] > limits.sink_weight) & judged
    sink = (heavy.mean("head") >= limits.sink_heads).any("layer")
    ordinary = measured["token_id"].notnull() & (measured["token_id"] >= 0) & ~sink
    drain = _relative(measured["head_value_norm"], ordinary)
    drained = drain.where(heavy).median(["layer", "head"]) <= limits.drain
    peak = _relative(measured["residual_norm"], ordinary)
    peaked = peak.max("layer") >= limits.peak
    extreme = sink & drained & peaked
    subject = xr.where(sink.any("position"), sink, measured["position"] == 0)
    subject = xr.where(extreme.any("position"), extreme, subject)
    over_max = measured["residual_norm"] / measured["residual_norm"].where(~subject).max("position")
    out = measured.assign(
        sink=sink,
        drained=drained,
        peaked=peaked,
        extreme=extreme,
        sink_rate=heavy.any("position").mean("sequence"),
        first_token_sink_rate=heavy.isel(position=0).mean("sequence"),
        drain_ratio=_of(_relative(measured["value_norm"], ordinary), subject),
        peak_ratio=_of(peak, subject),
        peak_ratio_max=_of(over_max, subject),
    )
    out.attrs |= {f"threshold_{name}": value for name, value in dataclasses.asdict(limits).items()}
    return out


def _judged(measured: xr.Dataset, min_queries: int) -> xr.DataArray:
    return measured["queries"] >= np.minimum(min_queries, (measured["length"] + 1) // 2)


def _relative(norm: xr.DataArray, ordinary: xr.DataArray) -> xr.DataArray:
    """Norms relative to the median of the ordinary tokens of the same sequence."""
    return norm / norm.where(ordinary).median("position")


def _of(ratio: xr.DataArray, subject: xr.DataArray) -> xr.DataArray:
    """The mean over the subjects of each sequence, then over sequences."""
    return ratio.where(subject).mean("position").mean("sequence")


def by_token(judged: xr.Dataset) -> xr.Dataset:
    """How often each token, by its text, occurs and is a sink, drained, peaked and extreme; the first token apart.

    Args:
        judged: from `extreme_tokens`.
    """
    text = judged["token"].values
    first = np.broadcast_to(judged["position"].values == 0, text.shape)
    real = judged["token_id"].values >= 0
    names = np.char.add(np.where(first, "first token: ", ""), text.astype(str))[real]
    tokens, index, counts = np.unique(names, return_inverse=True, return_counts=True)
    columns = {
        name: ("token", np.bincount(index, judged[name].values[real], len(tokens)) / counts)
        for name in ("sink", "drained", "peaked", "extreme")
    }
    weight = judged["sink_weight"].mean(["layer", "head"]).values[real]
    columns["sink_weight"] = ("token", np.bincount(index, np.nan_to_num(weight), len(tokens)) / counts)
    table = xr.Dataset(columns | {"count": ("token", counts)}, coords={"token": tokens})
    return table.sortby(["extreme", "sink", "sink_weight"], ascending=False)


def top_sinks(judged: xr.Dataset, k: int = 2) -> xr.DataArray:
    """The k positions that receive most attention in each head, the strongest first (sequence, layer, head, rank).

    Args:
        judged: from `extreme_tokens`.
        k: how many.
    """
    weight = judged["sink_weight"].where(_judged(judged, judged.attrs["threshold_min_queries"])).fillna(-1)
    if not 1 <= k <= weight.sizes["position"]:
        raise InputError(f"k={k} sinks of {weight.sizes['position']} positions; give 1 to that many.")
    order = np.argsort(-weight.transpose(..., "position").values, axis=-1, kind="stable")[..., :k]
    return xr.DataArray(order, dims=("sequence", "layer", "head", "rank"), name="top_sink")
