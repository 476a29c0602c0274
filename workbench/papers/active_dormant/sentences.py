"""The report's section on extreme tokens, and the sentences about them that other figures use too."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from workbench.bigram_backcopy import dynamics
from workbench.extreme import by_token, waking_sentences

CONTROL = "tuned, nothing discouraged"
"""The row that tuned rows are compared with: all tuning makes texts of its own kind easier."""


def extremes_line(found: xr.Dataset) -> str:
    """What is extreme in the first text, in one sentence."""
    one = found.isel(sequence=0)
    where = np.flatnonzero(one["extreme"].values)
    if not len(where):
        return "no token of the prompt is a sink, drained and peaked at once."
    tokens = ", ".join(f"\u201c{str(one['token'].values[i]).strip() or '␣'}\u201d (position {i})" for i in where)
    value, plain = one["head_value_norm"], ~one["extreme"] & (one["token_id"] >= 0)
    ratio = value.where(one["extreme"]).max("position") / value.where(plain).median("position")
    drain = float(ratio.median())
    norm = one["residual_norm"]
    ratio = norm.where(one["extreme"]).max("position") / norm.where(~one["extreme"]).median("position")
    layer = int(ratio.argmax("layer"))
    return (
        f"{tokens} is extreme: the norm of its values is {drain:.2f} times that of the others, and of its stream up to "
        f"{float(ratio[layer]):.1f} times (after layer {layer})."
    )


def peak_line(found: xr.Dataset) -> str:
    """Which coordinates carry the peak of the first text, in one sentence."""
    one = found.isel(sequence=0)
    layer = int(one["peak_ratio"].argmax("layer"))
    share = one["peak_share"].values[layer]
    coordinates = ", ".join(str(int(c)) for c in one["peak_coordinate"].values[layer][:3])
    return f"after layer {layer} the coordinates {coordinates} hold {share[:3].sum():.0%} of the squared norm."


def sink_line(found: xr.Dataset) -> str:
    """How many heads rest on the first token, in one sentence."""
    rate = found["first_token_sink_rate"]
    weight = found["sink_weight"].isel(position=0).mean("sequence")
    layer, head = np.unravel_index(int(np.argmax(weight.values)), weight.shape)
    return (
        f"{int((rate > 0.5).sum())} of {rate.size} heads rest on the first token in most dialogues, most of all head "
        f"{head} of layer {layer} with {float(weight.values[layer, head]):.0%} of the attention."
    )


def training_line(found: xr.Dataset) -> str:
    """When sink, drain and peak pass half of their final size, in one sentence."""
    last = found.isel(step=-1)
    layer = int(last["sink_weight"].sel(token="first").mean("head").argmax("layer"))
    here = found.isel(layer=layer).sel(token="first").mean("head")
    others = found.isel(layer=layer).sel(token="other").mean("head")
    curves = {
        "attention on the first token": here["sink_weight"],
        "its value's drain": 1 - here["value_norm"] / others["value_norm"],
        "its residual peak": here["residual_norm"] / others["residual_norm"] - 1,
    }
    parts = []
    for name, curve in curves.items():
        late = curve >= curve.isel(step=-1) / 2
        step = int(found["step"].values[int(late.values[::-1].cumprod()[::-1].argmax())])
        parts.append(f"{name} passes half of its final size for good by step {step:,}")
    return f"in layer {layer}, " + ", ".join(parts) + f", of {int(found['step'].values[-1]):,}."


def waking_heads(found: xr.Dataset) -> np.ndarray:
    """Which heads are dormant in one domain and active in another `[layer, head]`."""
    return found["wakes"].any(["dormant_in", "active_in"]).transpose("layer", "head").values


def domains_line(found: xr.Dataset) -> str:
    """How many heads are dormant in one domain and active in another, in one sentence."""
    waking = np.argwhere(waking_heads(found))
    texts = f"{found.sizes['sequence']} texts per domain"
    if not len(waking):
        return f"no head is shown to be dormant in one domain and active in another ({texts})."
    difference = abs(found["difference"].sel(score="loss_change")).max("pair").values
    layer, head = max(map(tuple, waking), key=lambda at: difference[at])
    some = "1 head is dormant" if len(waking) == 1 else f"{len(waking)} heads are dormant"
    return (
        f"{some} in one domain and active in another ({texts}); the largest difference is that of head {head} of layer "
        f"{layer}, {waking_sentences(found).sel(layer=layer, head=head).item()}."
    )


def remedies_line(found: xr.Dataset) -> str:
    """Which remedy lowers the sinks and which the peak, and at what price, in one sentence."""
    mean = found.mean("domain")
    rows = mean.isel(remedy=slice(1, None))

    def told(name: str, unit: str) -> str:
        best = rows.isel(remedy=int(rows[name].argmin("remedy")))
        before, after, price = float(mean[name][0]), float(best[name]), float(best["loss_change"])
        against = ""
        if best["kind"].item() == "tuning" and CONTROL in found["remedy"].values:
            price -= float(mean["loss_change"].sel(remedy=CONTROL))
            against = " against the same tuning with nothing discouraged"
        return f"\u201c{best['remedy'].item()}\u201d ({unit} {before:.2f} to {after:.2f}, loss {price:+.3f}{against})"

    text = f"sinks are lowered most by {told('sink_rate', 'sink rate')}, the peak by {told('peak_ratio', 'peak ratio')}"
    schemes = [str(name) for name in found["scheme"].values] if "scheme" in found.dims else []
    if "W8A8 per tensor" in schemes:
        added = mean["quantized_loss_change"].sel(scheme="W8A8 per tensor")
        best = int(added.isel(remedy=slice(1, None)).argmin("remedy")) + 1
        text += (
            f"; rounding weights and activations to 8 bits per tensor adds {float(added[0]):.3f} to the loss, and "
            f"least after \u201c{found['remedy'].values[best]}\u201d ({float(added[best]):.3f})"
        )
    return text + "."


def tokens_table(found: xr.Dataset) -> str:
    """How often each kind of token is a sink, drained and peaked, as text; the twelve most frequent sinks.

    Args:
        found: of `extreme_tokens`.
    """
    table = by_token(found)
    table = table.isel(token=np.flatnonzero(table["sink"].values)[:12])
    rows = [f"{'token':24}{'count':>7}{'sink':>7}{'drained':>9}{'peaked':>8}{'extreme':>9}"]
    for i in range(table.sizes["token"]):
        row = table.isel(token=i)
        rows.append(
            f"{str(row['token'].item())!r:24}{int(row['count']):7d}{float(row['sink']):7.0%}"
            f"{float(row['drained']):9.0%}{float(row['peaked']):8.0%}{float(row['extreme']):9.0%}"
        )
    return "\n".join([*rows, sink_line(found), peak_line(found).capitalize()])


def domains_table(found: xr.Dataset) -> str:
    """How many heads have each verdict, and which are dormant in one domain and active in another, as text.

    Args:
        found: of `active_dormant`.
    """
    sentences = waking_sentences(found).transpose("layer", "head").values
    names, counts = np.unique(sentences, return_counts=True)
    rows = [f"{count:5d} heads: {name}" for count, name in sorted(zip(counts, names, strict=True), reverse=True)]
    woken = np.argwhere(waking_heads(found))
    return "\n".join(rows + [f"layer {layer}, head {head}: {sentences[layer, head]}" for layer, head in woken])


def remedies_table(found: xr.Dataset) -> str:
    """What each remedy does to loss, sinks and peak, and what rounding then costs, as text.

    Args:
        found: of `compare_remedies`.
    """
    width = max(len(str(name)) for name in found["remedy"].values) + 2
    schemes = [str(name) for name in found["scheme"].values] if "scheme" in found.dims else []
    rows = [f"{'remedy':{width}}{'loss':>8}{'sinks':>8}{'peak':>8}" + "".join(f"{name[:14]:>16}" for name in schemes)]
    mean = found.mean("domain")
    for name in found["remedy"].values:
        row = mean.sel(remedy=name)
        errors = "".join(f"{float(row['quantized_loss_change'].sel(scheme=scheme)):16.3f}" for scheme in schemes)
        rows.append(
            f"{name!s:{width}}{float(row['loss_change']):+8.3f}{float(row['sink_rate']):8.0%}"
            f"{float(row['peak_ratio']):8.1f}{errors}"
        )
    rows.append("Means over domains. loss: change against none; under each rounding: change of loss by rounding.")
    return "\n".join(rows)


def events_line(record: xr.Dataset, published: Mapping[str, float | int] | None = None) -> str:
    """At which step each event of a toy model's training happens, over seeds.

    Args:
        record: of `bigram_backcopy.train`.
        published: steps by event, shown beside ours.
    """
    steps = dynamics(record)["event_step"]
    parts = []
    for name in map(str, steps["event"].values):
        values = steps.sel(event=name).values
        told = f" (published {published[name]:.0f})" if published and name in published else ""
        parts.append(f"{name} {_step_range(values)}{told}")
    text = ", ".join(parts)
    return text[0].upper() + text[1:]


def _step_range(values: np.ndarray) -> str:
    if np.isnan(values).all():
        return "in no seed"
    low, high = np.nanmin(values), np.nanmax(values)
    return f"at step {low:.0f}" if low == high else f"at step {low:.0f} to {high:.0f}"
