"""Which tokens are extreme, in which layers? Thresholds on what was measured, applied again without running the model.

1. A token is a *sink* of a layer where enough of its heads attend to the token, *drained* where the layer's heads can
   take little from it, *peaked* where its stream after the layer is long (Guo et al. 2024, section 3, which names no
   thresholds). All are judged within one sequence, so a text needs no other text beside it.
2. A token is *extreme* in a layer where the three meet: it is a sink of the layer, drained there, and long in the
   stream that the layer reads, which is the one after the layer before.
3. A *regime* of a token goes from the first to the last layer where it is extreme without its stream becoming ordinary
   in between. One token may have several, and different tokens different ones.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from workbench.errors import InputError
from workbench.extreme.judging import MEASURES, judge
from workbench.extreme.thresholds import Thresholds

FIRST = "first token"
"""The name in tables of the first tokens of all texts together, whatever they are."""
MARKS = ("sink", "drained", "peaked", "extreme")


def classify_tokens(measured: xr.Dataset, thresholds: Thresholds | None = None) -> xr.Dataset:
    """Add verdicts and what they aggregate to; a Dataset from `extreme_tokens` can be judged again.

    Adds `sink`, `drained`, `peaked` and `extreme` (sequence, layer, position) and each token's `peak` and `drain`
    (sequence, layer, position): its stream after the layer and its values (the median over heads) relative to the
    median of the other tokens, which are all but the first and any sink. Over sequences: `sink_rate(layer, head)`, the
    share in which the head has a sink, and `first_token_sink_rate(layer, head)`; `drain_ratio(layer, kv_head)` of the
    tokens that are extreme in the layer; `peak_ratio(layer)` and `peak_ratio_max(layer)`, relative to the median and
    the maximum of the others, of the tokens that are extreme in the next layer, which reads the stream after this one;
    where there are none, in this. Where a sequence has none of these its first token stands in.

    Args:
        measured: with the variables of `extreme_tokens`.
        thresholds: the default ones if None.
    """
    limits = thresholds or Thresholds()
    dims = {name: ("sequence", *(d for d in measured[name].dims if d != "sequence")) for name in MEASURES}
    values = {name: torch.tensor(measured[name].transpose(*dims[name]).values) for name in MEASURES}
    real = torch.tensor(measured["token_id"].values >= 0)
    return with_verdicts(measured, *judge(values, real, limits), limits)


def with_verdicts(
    measured: xr.Dataset, marks: Mapping[str, Tensor], parts: Mapping[str, Tensor], limits: Thresholds
) -> xr.Dataset:
    """A Dataset with the verdicts on each token, and the means over sequences of their parts, from `judge`."""
    dims = ("sequence", "layer", "position")
    out = measured.assign({name: (dims, values.numpy()) for name, values in marks.items()})
    for name, part in parts.items():
        dims = ("sequence", *summed_dims(name, part.ndim))
        out[name] = xr.DataArray(part.numpy(), dims=dims).mean("sequence")
    out.attrs |= {f"threshold_{name}": value for name, value in dataclasses.asdict(limits).items()}
    return out


def summed_dims(name: str, ndim: int) -> tuple[str, ...]:
    """The dims of a part of `judge` behind that of the sequences."""
    return ("layer", "kv_head") if name == "drain_ratio" else ("layer", "head")[: ndim - 1]


def judged_keys(measured: xr.Dataset, min_queries: int) -> xr.DataArray:
    """Which keys enough queries see to be judged as sinks (sequence, layer, position)."""
    return measured["queries"] >= min_queries


def _read(after: xr.DataArray, before: xr.DataArray) -> xr.DataArray:
    """What each layer reads, from what stands after the layers and in front of the first."""
    return xr.concat([before, after.isel(layer=slice(-1))], "layer").transpose(*after.dims)


def _relative(norm: xr.DataArray, ordinary: xr.DataArray) -> xr.DataArray:
    """Norms relative to the median of the ordinary tokens of the same sequence."""
    return norm / norm.where(ordinary).median("position")


def regimes(judged: xr.Dataset) -> xr.Dataset:
    """Every token that is extreme, with the layers from and to which it is, one row per token and regime.

    Args:
        judged: from `extreme_tokens`.

    Returns:
        Over `regime`: `sequence`, `position`, `token`, `first_layer`, `last_layer`, and of the token in these layers
        `peak`, the largest norm of the streams that they read relative to the others', `drain`, the median over them,
        and `sink_weight`, the mean over them and their heads.
    """
    found = judged.transpose("sequence", "position", "layer", ...)
    extreme = found["extreme"].values
    limit = judged.attrs["threshold_peak"]
    ordinary = (found["token_id"] >= 0) & ~found["sink"].any("layer") & (found["position"] > 0)
    before = _relative(found["embed_norm"], ordinary)
    read = _read(found["peak"].transpose("layer", ...), before).transpose("sequence", "position", "layer").values
    weight = found["sink_weight"].mean("head").transpose("sequence", "position", "layer").values
    rows = []
    for sequence, position in np.argwhere(extreme.any(-1)):
        at = (sequence, position)
        for first, last in _runs(extreme[at], read[at] >= limit):
            layers = slice(first, last + 1)
            measures = read[at][layers].max(), np.median(found["drain"].values[at][layers]), weight[at][layers].mean()
            rows.append((*at, found["token"].values[at], first, last, *measures))
    names = ("sequence", "position", "token", "first_layer", "last_layer", "peak", "drain", "sink_weight")
    kinds = (int, int, str, int, int, float, float, float)
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return xr.Dataset(
        {n: ("regime", np.array(c, dtype=k)) for n, c, k in zip(names, columns, kinds, strict=True)},
        attrs={"n_sequences": judged.sizes["sequence"]},
    )


def _runs(extreme: np.ndarray, long: np.ndarray) -> list[tuple[int, int]]:
    """First and last extreme layer within each run of layers that read a long stream."""
    run = np.cumsum(np.diff(long, prepend=False) & long)
    return [
        (int(where[0]), int(where[-1]))
        for r in np.unique(run[extreme])
        if (where := np.flatnonzero(extreme & (run == r))).size
    ]


def by_regime(judged: xr.Dataset) -> xr.Dataset:
    """The rows of `regimes` pooled by token: first tokens together whatever they are, interior ones by their text.

    Regimes of one token that share a layer are one, from and to the median of theirs.

    Args:
        judged: from `extreme_tokens`.

    Returns:
        Over `row`, by layer and count: `token`, `first_layer`, `last_layer`, in how many `texts` it has the regime, as
        how many `tokens`, of how many that `occur`, and the medians of `peak`, `drain` and `sink_weight`.
    """
    single, (names, _) = regimes(judged), _names(judged)
    kinds = np.where(single["position"].values == 0, FIRST, single["token"].values)
    rows = []
    for kind in np.unique(kinds):
        one = single.isel(regime=np.flatnonzero(kinds == kind)).sortby("first_layer")
        reach = np.maximum.accumulate(one["last_layer"].values)
        group = np.cumsum(np.r_[False, one["first_layer"].values[1:] > reach[:-1]])
        for g in np.unique(group):
            rows.append(_pooled(one.isel(regime=group == g), str(kind), int((names == kind).sum())))
    rows.sort(key=lambda row: (row["first_layer"], -row["texts"], -row["tokens"]))
    columns = ("token", "first_layer", "last_layer", "texts", "tokens", "occur", "peak", "drain", "sink_weight")
    return xr.Dataset({name: ("row", np.array([row[name] for row in rows])) for name in columns}, attrs=single.attrs)


def _pooled(rows: xr.Dataset, kind: str, occur: int) -> dict[str, Any]:
    medians = {name: float(rows[name].median()) for name in ("peak", "drain", "sink_weight")}
    layers = {name: int(np.rint(float(rows[name].median()))) for name in ("first_layer", "last_layer")}
    texts = len(np.unique(rows["sequence"]))
    return {"token": kind, "texts": texts, "tokens": rows.sizes["regime"], "occur": occur} | layers | medians


def by_token(judged: xr.Dataset) -> xr.Dataset:
    """How often each token, by its text, occurs and is a sink, drained, peaked and extreme in some layer.

    The first tokens of all texts are one row, `FIRST`, whatever they are.

    Args:
        judged: from `extreme_tokens`.
    """
    names, real = _names(judged)
    tokens, index, counts = np.unique(names, return_inverse=True, return_counts=True)
    some = judged[list(MARKS)].any("layer").transpose("sequence", "position")
    columns = {name: ("token", np.bincount(index, some[name].values[real], len(tokens)) / counts) for name in MARKS}
    weight = judged["sink_weight"].mean(["layer", "head"]).values[real]
    columns["sink_weight"] = ("token", np.bincount(index, np.nan_to_num(weight), len(tokens)) / counts)
    table = xr.Dataset(columns | {"count": ("token", counts)}, coords={"token": tokens})
    return table.sortby(["extreme", "sink", "sink_weight"], ascending=False)


def _names(judged: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The names in tables of all real tokens, and which are real (sequence, position)."""
    text, real = judged["token"].values.astype(object), judged["token_id"].values >= 0
    return np.where(judged["position"].values == 0, FIRST, text)[real].astype(str), real


def top_sinks(judged: xr.Dataset, k: int = 2) -> xr.DataArray:
    """The k positions that receive most attention in each head, the strongest first (sequence, layer, head, rank).

    Args:
        judged: from `extreme_tokens`.
        k: how many.
    """
    weight = judged["sink_weight"].where(judged_keys(judged, judged.attrs["threshold_min_queries"])).fillna(-1)
    if not 1 <= k <= weight.sizes["position"]:
        raise InputError(f"k={k} sinks of {weight.sizes['position']} positions; give 1 to that many.")
    order = np.argsort(-weight.transpose(..., "position").values, axis=-1, kind="stable")[..., :k]
    return xr.DataArray(order, dims=("sequence", "layer", "head", "rank"), name="top_sink")
