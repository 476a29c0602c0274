"""Thresholds applied to the measures of some sequences, wherever these lie; see `verdict.py` for what they mean."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.extreme.thresholds import Thresholds

MEASURES = ("sink_weight", "queries", "residual_norm", "embed_norm", "value_norm", "head_value_norm")
"""What verdicts are about."""


def judge(
    measured: Mapping[str, Tensor], real: Bool[Tensor, "sequence pos"], limits: Thresholds
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Verdicts on each token, and what the aggregates over sequences are means of.

    Args:
        measured: `MEASURES` with the dims of `extreme_tokens`.
        real: which positions hold tokens.
        limits: the thresholds.

    Returns:
        `sink`, `drained`, `peaked`, `extreme`, `peak` and `drain` (sequence, layer, position), and by the names of the
        aggregates each sequence's part of them (sequence, layer, ...).
    """
    heavy = _heavy(measured, limits)
    sink = heavy.sum(2) / heavy.shape[2] >= limits.sink_heads
    first = torch.zeros_like(sink)
    first[..., 0] = True
    ordinary = real & ~sink.any(1)
    ordinary[:, 0] = False
    stream = measured["residual_norm"]
    peak, before = _relative(stream, ordinary[:, None]), _relative(measured["embed_norm"], ordinary)
    value = _relative(measured["value_norm"], ordinary[:, None, None])
    drain = _median(_relative(measured["head_value_norm"], ordinary[:, None, None]), 2)
    drained = drain <= limits.drain
    extreme = sink & drained & (torch.cat([before[:, None], peak[:, :-1]], 1) >= limits.peak)
    own = _either(extreme, first)
    subject = _either(torch.cat([extreme[:, 1:], torch.zeros_like(extreme[:, :1])], 1), own)
    highest = stream.masked_fill(subject | stream.isnan(), -torch.inf).amax(-1, keepdim=True)
    highest = highest.masked_fill(highest == -torch.inf, torch.nan)
    marks = {"sink": sink, "drained": drained, "peaked": peak >= limits.peak, "extreme": extreme}
    parts = {
        "sink_rate": heavy.any(-1),
        "first_token_sink_rate": heavy[..., 0],
        "drain_ratio": _mean(value, own[:, :, None]),
        "peak_ratio": _mean(peak, subject),
        "peak_ratio_max": _mean(stream / highest, subject),
    }
    return marks | {"peak": peak, "drain": drain}, parts


def _heavy(measured: Mapping[str, Tensor], limits: Thresholds) -> Bool[Tensor, "sequence layer head pos"]:
    """Which keys are a sink of each head; the first token by the queries after it alone."""
    weight, queries = measured["sink_weight"], measured["queries"]
    heavy = weight > limits.sink_weight
    seen_by = queries[:, :, None, 0]
    heavy[..., 0] = (weight[..., 0] * seen_by - 1) / (seen_by - 1).clamp_min(1) > limits.sink_weight
    return heavy & (queries >= limits.min_queries)[:, :, None]


def _relative(norm: Float[Tensor, "*row pos"], ordinary: Bool[Tensor, "*rest pos"]) -> Tensor:
    """Norms relative to the median of the ordinary tokens of the same sequence."""
    return norm / _median(norm.masked_fill(~ordinary, torch.nan), -1)[..., None]


def _median(values: Tensor, dim: int) -> Tensor:
    """The median of what is not NaN; of an even number of values the mean of the two in the middle."""
    lower, upper = values.nanmedian(dim).values, -(-values).nanmedian(dim).values
    return (lower + upper) / 2


def _either(these: Bool[Tensor, "*row pos"], otherwise: Bool[Tensor, "*row pos"]) -> Tensor:
    """These tokens of a layer and sequence; where there are none, the others."""
    return torch.where(these.any(-1, keepdim=True), these, otherwise)


def _mean(values: Float[Tensor, "*row pos"], chosen: Bool[Tensor, "*rest pos"]) -> Tensor:
    """The mean over chosen tokens of what is not NaN."""
    return values.masked_fill(~chosen, torch.nan).nanmean(-1)
