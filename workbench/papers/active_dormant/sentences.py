"""The report's section on extreme tokens, and the sentences about them that other figures use too."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from workbench.bigram_backcopy import dynamics
from workbench.extreme import by_regime, by_token, near_misses, regimes, waking_sentences, waking_table
from workbench.extreme.dormancy import CONDITIONS, texts_zeroed
from workbench.extreme.verdict import FIRST, MARKS
from workbench.papers.recipes import listed
from workbench.plot.extreme import coordinate_shares

CONTROL = "tuned, nothing discouraged"
"""The row that tuned rows are compared with: all tuning makes texts of its own kind easier."""
ROWS = 12
"""Rows of a table of heads, at most."""
MOST = 4
"""Tokens of some layers that a sentence names."""


def extremes_line(found: xr.Dataset) -> str:
    """What is extreme in the first text and in which layers, in one sentence."""
    one = found.isel(sequence=[0])
    rows = regimes(one)
    if not rows.sizes["regime"]:
        return "no token of the prompt is a sink, drained and long in one layer."
    parts = []
    for position in dict.fromkeys(rows["position"].values.tolist()):
        own = rows.isel(regime=np.flatnonzero(rows["position"] == position))
        told = [
            f"{_layers(int(r['first_layer']), int(r['last_layer']))} (norm of its stream up to {float(r['peak']):.1f} "
            f"times that of the others, of its values {float(r['drain']):.2f} times)"
            for r in _each(own, "regime")
        ]
        parts.append(f"{_quoted(own['token'].values[0])} (position {position}) is extreme in {' and '.join(told)}")
    return "; ".join(parts) + "."


def regimes_line(found: xr.Dataset) -> str:
    """Which tokens are extreme in which layers of all texts, in one sentence."""
    rows = by_regime(found)
    n, stretches = rows.attrs["n_sequences"], []
    for row in _each(rows, "row"):
        if not stretches or int(row["first_layer"]) > max(int(r["last_layer"]) for r in stretches[-1]):
            stretches.append([])
        stretches[-1].append(row)
    if not stretches:
        return f"no token of the {n} texts is a sink, drained and long in one layer."
    parts = []
    for stretch in stretches:
        first, last = min(int(r["first_layer"]) for r in stretch), max(int(r["last_layer"]) for r in stretch)
        low, high = min(float(r["peak"]) for r in stretch), max(float(r["peak"]) for r in stretch)
        names = [_kind(r, n) for r in stretch[:MOST]]
        more = len(stretch) - len(names)
        who = listed([*names, f"{more} other tokens"] if more > 0 else names) + (" alone" if len(stretch) == 1 else "")
        size = f"{low:.0f} to {high:.0f}" if round(high) > round(low) else f"{high:.0f}"
        verb = "is" if len(stretch) == 1 else "are"
        parts.append(f"in {_layers(first, last)} {who} {verb} extreme, up to {size} times as long as the others")
    return "; ".join(parts) + "."


def _kind(row: xr.Dataset, n: int) -> str:
    token = str(row["token"].item())
    name = f"the {FIRST}" if token == FIRST else _quoted(token)
    return f"{name} (in {int(row['texts'])} of {n} texts)"


def _quoted(token: object) -> str:
    return f"\u201c{str(token).strip(' ').replace(chr(10), '⏎') or '␣'}\u201d"


def _layers(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def _each(table: xr.Dataset, dim: str) -> list[xr.Dataset]:
    return [table.isel({dim: i}) for i in range(table.sizes[dim])]


def peak_line(found: xr.Dataset) -> str:
    """Which coordinates carry the peak, over all texts, in one sentence."""
    layer = int(found["peak_ratio"].argmax("layer"))
    share = coordinate_shares(found.isel(layer=[layer]))[0]
    top = np.argsort(-share, kind="stable")[:3]
    coordinates = ", ".join(str(c) for c in top)
    over = "" if found.sizes["sequence"] == 1 else f", the mean of {found.sizes['sequence']} texts"
    return f"after layer {layer} the coordinates {coordinates} hold {share[top].sum():.0%} of the squared norm{over}."


def sink_line(found: xr.Dataset) -> str:
    """How many heads rest on the first token, in one sentence."""
    rate = found["first_token_sink_rate"]
    weight = found["sink_weight"].isel(position=0).mean("sequence")
    layer, head = np.unravel_index(int(np.argmax(weight.values)), weight.shape)
    return (
        f"{int((rate > 0.5).sum())} of {rate.size} heads rest on the first token in most texts, most of all head "
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
    """How many heads are dormant in one domain and active in another, and how sure that is, in one sentence."""
    table, near = waking_table(found), near_misses(found)
    n, texts = _measured(found), f"{found.sizes['sequence']} texts per domain"
    heads = len({(int(r["layer"]), int(r["head"])) for r in _each(table, "row")})
    if heads:
        some = "1 head wakes" if heads == 1 else f"{heads} heads wake"
        return f"{some} ({n}, {texts}); {_woken(table.isel(row=0))}."
    text = f"no head is shown to be dormant in one domain and active in another ({n}, {texts})"
    if near.sizes["row"]:
        row = near.isel(row=0)
        text += f"; nearest is {_woken(row)}, but this fails: {row['failed'].item()}"
    return text + "."


def _measured(found: xr.Dataset) -> str:
    n_texts = texts_zeroed(found)
    size = n_texts.size
    known, stopped = int((n_texts > 0).sum()), int(((n_texts > 0) & (n_texts < found.sizes["sequence"])).sum())
    chosen = ", chosen by their attention" if "shortlist" in found.attrs else ""
    early = f", {stopped} of them stopped early" if stopped else ""
    return (f"{known} of {size} heads measured{chosen}" if known < size else f"all {size} heads measured") + early


def _woken(row: xr.Dataset) -> str:
    return (
        f"head {int(row['head'])} of layer {int(row['layer'])}, dormant in {row['dormant_in'].item()} (attention on "
        f"the sink {float(row['rest_sink']):.2f}, effect {float(row['rest_effect']):+.4f} nats) and active in "
        f"{row['active_in'].item()} (effect {float(row['effect']):+.4f}, {float(row['effect_low']):.4f} to "
        f"{float(row['effect_high']):.4f}; corrected p = {_p(float(row['p_corrected']))})"
    )


def head_line(found: xr.Dataset, layer: int, head: int) -> str:
    """What a result says of one head in each domain, in one sentence."""
    one = found.sel(layer=layer, head=head)
    parts = []
    for name in map(str, found["domain"].values):
        sink, effect, low, high = (
            float(one[x].sel(domain=name)) for x in ("sink", "effect", "effect_low", "effect_high")
        )
        parts.append(f"effect {effect:+.4f} nats, {low:.4f} to {high:.4f}, attention on the sink {sink:.2f} in {name}")
    p = float(one["p_corrected"].sel(score="loss_change").min("pair"))
    verdict = waking_sentences(one).item()
    return f"head {head} of layer {layer} is {verdict} ({'; '.join(parts)}; corrected p = {_p(p)})."


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else f"{value:.1e}"


def _attention_differs(found: xr.Dataset) -> xr.DataArray:
    """Heads that rest in a domain and attend to the sink differently in another (layer, head)."""
    p = found["p_corrected"].sel(score="sink_weight").min("pair")
    asleep = (found["sink"] >= found.attrs["limit_asleep"]).any("domain")
    return ((p < found.attrs["limit_alpha"]) & asleep).transpose("layer", "head")


def misleading_head(found: xr.Dataset) -> tuple[int, int] | None:
    """The head whose attention on the sink differs most between domains of those that never matter, if there is one."""
    still = _attention_differs(found) & found["phase"].isin(["dormant", "idle"]).all("domain")
    spread = (found["sink"].max("domain") - found["sink"].min("domain")).where(still).transpose("layer", "head")
    if not bool(still.any()):
        return None
    layer, head = np.unravel_index(int(spread.fillna(-1).values.argmax()), spread.shape)
    return int(spread["layer"][layer]), int(spread["head"][head])


def attention_line(found: xr.Dataset) -> str:
    """How far attention alone would mislead: heads whose attention on the sink differs and that never matter."""
    apart = _attention_differs(found)
    if not bool(apart.any()):
        return "no head that rests in a domain attends to the sink differently in another."
    still = int((apart & found["phase"].isin(["dormant", "idle"]).all("domain")).sum())
    text = (
        f"{int(apart.sum())} of the heads that rest in a domain attend to the sink differently in another; {still} of "
        "these have no effect in any"
    )
    at = misleading_head(found)
    if at:
        weights = found["sink"].sel(layer=at[0], head=at[1]).values
        told = ", ".join(f"{w:.2f} in {d}" for d, w in zip(found["domain"].values, weights, strict=True))
        text += f", such as head {at[1]} of layer {at[0]} ({told})"
    return text + "."


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
    """Which tokens are extreme in which layers, how often and by how much, as text."""
    table, n = by_regime(found), found.sizes["sequence"]
    rows = [f"{'extreme token':24}{'layers':>9}{'texts':>9}{'tokens':>9}{'sink':>7}{'drain':>7}{'peak':>8}"]
    for row in _each(table, "row"):
        layers = f"{int(row['first_layer'])}-{int(row['last_layer'])}"
        texts, tokens = f"{int(row['texts'])}/{n}", f"{int(row['tokens'])}/{int(row['occur'])}"
        name = str(row["token"].item())
        rows.append(
            f"{name if name == FIRST else repr(name):24}{layers:>9}{texts:>9}{tokens:>9}"
            f"{float(row['sink_weight']):7.2f}{float(row['drain']):7.2f}{float(row['peak']):8.1f}"
        )
    marks = by_token(found)
    counts = {name: int((marks[name] * marks["count"]).sum().round()) for name in MARKS}
    notes = [
        "sink: attention received; drain, peak: norms of values and of the stream read, relative to the other tokens.",
        f"Of {int(marks['count'].sum())} tokens {counts['sink']} are sinks in some layer, {counts['drained']} drained, "
        f"{counts['peaked']} long; {counts['extreme']} are all three in one layer.",
    ]
    lines = [regimes_line(found), sink_line(found), peak_line(found)]
    return "\n".join([*rows, *notes, *(line[0].upper() + line[1:] for line in lines)])


def domains_table(found: xr.Dataset) -> str:
    """How many heads have each verdict, which wake and which nearly do, with effects, intervals and p, as text."""
    sentences = waking_sentences(found).transpose("layer", "head").values
    names, counts = np.unique(sentences, return_counts=True)
    rows = [f"{count:5d} heads: {name}" for count, name in sorted(zip(counts, names, strict=True), reverse=True)]
    head = (
        f"{'head':>7}  {'dormant in':14}{'sink':>6}{'effect':>9}  {'active in':14}{'effect':>9}{'interval':>20}{'p':>9}"
    )
    for title, table in (("wakes", waking_table(found)), ("all but one condition", near_misses(found))):
        if table.sizes["row"]:
            rows += ["", f"{title}:", head + ("  fails" if title != "wakes" else "")]
            rows += [_domains_row(row) for row in _each(table, "row")[:ROWS]]
    limits = {name: found.attrs[f"limit_{name}"] for name in ("asleep", "negligible", "alpha")}
    rule = "; ".join(text.format(**limits) for text in CONDITIONS.values())
    n = f"{_measured(found)}, {found.sizes['sequence']} texts per domain of {found.attrs['length']} tokens"
    lines = [domains_line(found), attention_line(found)]
    counted = found.attrs.get("n_candidates", int((texts_zeroed(found) > 0).sum()))
    notes = [
        f"A head wakes if {rule}. p is corrected for {counted} heads ({n}).",
        *(x[0].upper() + x[1:] for x in lines),
    ]
    return "\n".join([*rows, "", *notes])


def _domains_row(row: xr.Dataset) -> str:
    interval = f"{float(row['effect_low']):.4f} to {float(row['effect_high']):.4f}"
    return (
        f"{int(row['layer'])}.{int(row['head'])}".rjust(7) + f"  {row['dormant_in'].item()!s:14}"
        f"{float(row['rest_sink']):6.2f}{float(row['rest_effect']):+9.4f}  {row['active_in'].item()!s:14}"
        f"{float(row['effect']):+9.4f}{interval:>20}{_p(float(row['p_corrected'])):>9}"
        + (f"  {row['failed'].item()}" if row["failed"].item() else "")
    )


def remedies_table(found: xr.Dataset) -> str:
    """What each remedy does to loss, sinks and peak, and what rounding then costs, as text."""
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
    """At which step each event of a toy model's training happens, over seeds, with published steps beside ours."""
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
