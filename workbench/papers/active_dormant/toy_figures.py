"""Active-dormant heads: the paper's figures on toy models as named recipes.

They are drawn from the training runs that come with the package (`workbench.bigram_backcopy.measured`), at full size
where they were run at full size; the published numbers stand beside ours.
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench import bigram_backcopy as toys
from workbench.bigram_backcopy import published
from workbench.bigram_backcopy.records import LINE
from workbench.papers.active_dormant.sentences import events_line
from workbench.papers.recipes import Drawn, FigureRecipe
from workbench.plot import compose
from workbench.plot import toys as plots
from workbench.plot.marks import add_line
from workbench.plot.theme import INK, OTHERS

TRIGGERS = 0.2555
"""Share of positions that hold a trigger, in sequences of 256 tokens."""
COMPARED_AT = 10_000
"""The step up to which the run from the published first weights is drawn and at which the caption compares it."""
SINK = 0.3
"""Attention from which a head has a sink, as in `extreme.Thresholds`."""
NAMES = {
    "three-layer": "AdamW",
    "three-layer-sgd": "SGD",
    "three-layer-relu": "AdamW, ReLU attention",
    "two-layer": "2xTF",
    "two-layer-mlp": "2xTF+MLP",
    "mlp-layer-mlp": "MLP+TF+MLP",
    "attention-layer-mlp": "Attn+TF+MLP",
}


def paper_record(name: str) -> xr.Dataset:
    """The record of a full-size run that comes with the package."""
    return toys.measured(name, "paper").record


def one_layer() -> Drawn:
    """Figures 2 and 3: attention map and value norms of the long run, and losses without a part."""
    found = toys.measured("one-layer-long", "paper")
    line, cuts = found.line, found.interventions.isel(seed=0)
    assert line is not None
    triggers = [token == " " for token in LINE]
    named = {"none": "full", "no MLP 0": "no MLP", "no attention 0": "no attention"}
    losses = {
        loss: {named[cut]: [float(cuts[name].sel(intervention=cut))] for cut in named}
        for name, loss in (("bigram_excess", "bigram, over the oracle"), ("backcopy", "backcopy"))
    }
    told = {
        loss: {named[cut]: published.INTERVENTIONS[cut][place] for cut in named}
        for place, loss in ((1, "bigram, over the oracle"), (0, "backcopy"))
    }
    values = line["value_norm"].isel(layer=0, head=0)
    norms = plots.sequence_bars(
        values.values.tolist(), LINE, triggers, label="Value norm", reference=published.VALUE_NORMS
    )
    shares = normalised(paper_record("one-layer"))
    figure = compose.grid(
        [
            [plots.attention_map(line["pattern"].isel(layer=0, head=0).values, LINE), norms],
            [plots.bars(losses, reference=told, label="Loss (nats)"), shares],
        ],
        [
            ["Attention (to the token across)", "Value norms (triggers dark)"],
            ["Loss without a part", "Over training, three seeds"],
        ],
        title="One layer after 100,000 steps, and how it came there",
        legends="rows",
    )
    others = float(values[1:].mean())
    sentence = (
        f"The value of <s> has norm {float(values[0]):.2f}, that of the other tokens {others:.1f} on average; without "
        f"attention the bigram loss stays {losses['bigram, over the oracle']['no attention'][0]:.3f} over the oracle "
        f"while the backcopy loss rises from {losses['backcopy']['full'][0]:.1e} to "
        f"{losses['backcopy']['no attention'][0]:.2f}."
    )
    return Drawn(figure, sentence)


def normalised(record: xr.Dataset) -> go.Figure:
    """The paper's five curves of a record of `bigram_backcopy.train`, each divided by its largest value."""
    shares = toys.dynamics(record)["normalised"]
    names = {
        "bigram_excess": "bigram, over the oracle",
        "backcopy": "backcopy",
        "sink": "attention on &lt;s&gt;",
        "value_bos": "value norm of &lt;s&gt;",
        "sink_logit": "sink logit",
    }
    curves = {label: shares.sel(curve=name, drop=True) for name, label in names.items()}
    return plots.steps(curves, label="Share of the largest value")


def dynamics() -> Drawn:
    """Figure 4: three seeds of 10,000 steps, and the long run, beside the published curve."""
    record, long = paper_record("one-layer"), paper_record("one-layer-long")
    same = paper_record("one-layer-authors")
    runs = {
        "three seeds": record,
        "long run": long,
        "from the published first weights": same.sel(step=slice(0, COMPARED_AT)),
    }
    panels, titles = [], []
    wanted = (
        ("backcopy", "Backcopy loss (nats)", True),
        ("sink", "Attention on <s>", False),
        ("value_bos", "Value norm of <s>", False),
        ("sink_logit", "Sink logit", False),
        ("residual_bos", "Residual norm of <s>", True),
        ("bigram_excess", "Bigram loss over the oracle", True),
    )
    for name, title, log in wanted:
        curves = {label: _only(run[name]) for label, run in runs.items()}
        told = published.ONE_LAYER.get(name)
        reference = {"three seeds": (published.ONE_LAYER["step"], told)} if told else None
        panels.append(plots.steps(curves, reference=reference, log_y=log))
        titles.append(title.replace("<s>", "&lt;s&gt;"))
    figure = compose.grid([panels[:3], panels[3:]], [titles[:3], titles[3:]], title="One layer over training", gap=0.08)
    final = record["sink"].isel(step=-1).values
    return Drawn(
        figure,
        f"{events_line(record, published.EVENTS)}. Attention on <s> ends between {final.min():.2f} and "
        f"{final.max():.2f} over three seeds. "
        f"From the published first weights, after {COMPARED_AT:,} steps: {_beside_published(same)}; with tf32 "
        f"products: {_beside_published(paper_record('one-layer-authors-tf32'))}. Afterwards they leave "
        "the published curves further, attention after 15,000 steps too (not drawn). Full float32, other sequences and "
        "twice the rate do the same, two other draws of such weights and sequences of half the length do not; why the "
        "published run stays is not known.",
    )


def _beside_published(record: xr.Dataset) -> str:
    """Every published measure of one layer at `COMPARED_AT`, ours beside it."""
    names = {
        "sink": "attention on <s>",
        "backcopy": "backcopy loss",
        "sink_logit": "sink logit",
        "value_bos": "value norm",
        "residual_bos": "residual norm",
    }
    place = published.ONE_LAYER["step"].index(COMPARED_AT)
    ours = {name: float(record[name].sel(step=COMPARED_AT).squeeze()) for name in names}
    return ", ".join(
        f"{what} {ours[n]:.3g} (published {published.ONE_LAYER[n][place]:.3g})" for n, what in names.items()
    )


def optimizer_and_attention() -> Drawn:
    """Figure 7c: residual norm of `<s>` after layer 0, and after each layer at the end."""
    runs = {name: paper_record(name) for name in published.RESIDUAL if name != "step"}
    curves = {NAMES[name]: run["residual_bos"].isel(layer=0) for name, run in runs.items()}
    told = {NAMES[name]: (published.RESIDUAL["step"], published.RESIDUAL[name]) for name in runs}
    last = {name: run["residual_bos"].isel(step=-1).transpose("layer", "seed").values for name, run in runs.items()}
    ends = {NAMES[name]: {f"layer {i}": norms.tolist() for i, norms in enumerate(last[name])} for name in last}
    axis: dict[str, Any] = {"label": "Residual norm of &lt;s&gt;", "log_y": True}
    figure = compose.beside(
        [plots.steps(curves, reference=told, **axis), plots.bars(ends, **axis)],
        ["After layer 0, over training", "After each layer, after 10,000 steps"],
        title="Three layers: which optimizer and attention make the peak",
    )
    relu = last["three-layer-relu"]
    small = toys.measured("three-layer-relu").record["residual_bos"].isel(step=-1, layer=0).values
    same = {name: paper_record(f"{name}-authors") for name in runs}
    text = "; ".join(
        f"{NAMES[name]}: norm {last[name][0].mean():.0f} after layer 0 (published {published.RESIDUAL[name][-1]:.1f}), "
        f"sink {float(run['sink'].isel(step=-1).max()):.2f}"
        for name, run in runs.items()
    )
    again = ", ".join(
        f"{NAMES[name]} {float(run['residual_bos'].isel(step=-1, layer=0).squeeze()):.1f}" for name, run in same.items()
    )
    return Drawn(
        figure,
        f"{text}. ReLU attention has no sink and no peak after layer 0, but norms of {relu[1].item():,.0f} "
        f"and {relu[2].item():,.0f} after layers 1 and 2, where its first row is not normalised. These are one run "
        f"each; from the published first weights the norm after layer 0 is {again}. Of three small runs with ReLU "
        f"attention the norm after layer 0 ends at {_listed(small)}.",
    )


def architectures() -> Drawn:
    """Figures 7a and 7b: peak by structure, and what is left of sink, drain and peak without layer 0."""
    names = {name: NAMES[name].replace("AdamW", "3xTF") for name in published.STRUCTURES}
    same = {n: _peaks(paper_record(f"{n}-authors")) for n in names}
    ours = {
        "full size": {names[n]: _peaks(paper_record(n)) for n in names if n != "two-layer"},
        "full size, the published first weights": {names[n]: peak for n, peak in same.items()},
        "small": {names[n]: _peaks(toys.measured(n).record) for n in names},
    }
    told = {"full size": {names[n]: v for n, v in published.STRUCTURES.items()}}
    cuts = toys.measured("two-layer-mlp", "paper").interventions.isel(seed=0)
    gap = (cuts["residual_bos"] - cuts["residual_others"]).isel(layer=0)
    value = "value norm, layer 1"
    parts = {
        "peak after layer 0": (gap, "residual"),
        "sink logit, layer 1": (cuts["sink_logit"].isel(layer=1, head=0), "sink_logit"),
        value: (cuts["value_bos"].isel(layer=1, head=0), "value_bos"),
    }
    sides = (("none", "with layer 0"), ("no layer 0", "without layer 0"))
    left = {label: {part: [float(v.sel(intervention=cut))] for part, (v, _) in parts.items()} for cut, label in sides}
    known = {
        label: {part: published.WITHOUT_LAYER_0[key][place] for part, (_, key) in parts.items()}
        for place, (_, label) in enumerate(sides)
    }
    peaks = plots.bars(ours, reference=told, label="Norm of &lt;s&gt; over the others")
    without = plots.bars(left, reference=known, label="Norm or logit", colours=OTHERS)
    figure = compose.stack(
        {"Residual peak after layer 0, by structure": peaks, "2xTF+MLP with layer 0 and without": without},
        title="Which layers make the peak, and what hangs on it",
        legends="rows",
    )
    return Drawn(
        figure,
        f"Without layer 0 the peak of 2xTF+MLP falls from {float(gap.sel(intervention='none')):.0f} to "
        f"{float(gap.sel(intervention='no layer 0')):.1f}, and the value norm of <s> rises from "
        f"{left['with layer 0'][value][0]:.2f} to {left['without layer 0'][value][0]:.1f}. "
        "From the published first weights the peaks are "
        + ", ".join(f"{names[n]} {same[n][0]:.1f} (published {told:g})" for n, told in published.STRUCTURES.items())
        + f"; from others that of Attn+TF+MLP is {ours['full size']['Attn+TF+MLP'][0]:.0f} and that of 2xTF+MLP "
        f"{ours['full size']['2xTF+MLP'][0]:.0f}: first weights decide. One run each.",
    )


def _listed(values: np.ndarray) -> str:
    *first, last = (f"{value:,.0f}" for value in np.sort(values))
    return f"{', '.join(first)} and {last}"


def _peaks(record: xr.Dataset) -> list[float]:
    """How far the residual norm of `<s>` after layer 0 ends above that of the others, per seed."""
    last = record.isel(step=-1, layer=0)
    return (last["residual_bos"] - last["residual_others"]).values.tolist()


def variants() -> Drawn:
    """Attention that tokens get from queries that are no trigger, in other languages."""
    shown = {
        "one-layer": "backcopy",
        "five-triggers": "five triggers",
        "skip": "skip",
        "delimiters": "delimiters",
        "no-bos": "no BOS",
        "markov": "no triggers",
    }
    shares: dict[str, dict[str, list[float]]] = {"<s>": {}, "triggers": {}, "line break and delimiters": {}}
    for name, label in shown.items():
        got = toys.measured(name).record["attention_to"].isel(layer=0, head=0)
        task = toys.Task(**toys.experiment(name).task)
        triggers = [task.symbols[i] for i in task.trigger_ids]
        sides = [token for token in ("\n", "<d>") if token in got["token"].values and token not in triggers]
        if task.bos_ids:
            shares["<s>"][label] = got.sel(token="<s>").values.tolist()
        shares["triggers"][label] = got.sel(token=triggers).sum("token").values.tolist()
        shares["line break and delimiters"][label] = got.sel(token=sides).sum("token").values.tolist()
    figure = plots.bars(
        {name.replace("<s>", "&lt;s&gt;"): series for name, series in shares.items()},
        label="Share of attention",
        title="Where queries that are no trigger look, small models, three seeds",
    )
    mean = {name: {k: float(np.mean(v)) for k, v in series.items()} for name, series in shares.items()}
    return Drawn(
        figure,
        f"With copying <s> gets {mean['<s>']['backcopy']:.2f} of the attention of other queries; without BOS the "
        f"triggers get {mean['triggers']['no BOS']:.2f} and the line break "
        f"{mean['line break and delimiters']['no BOS']:.2f}; without triggers there is nothing to switch off and <s> "
        f"gets {mean['<s>']['no triggers']:.2f}.",
    )


def theory() -> Drawn:
    """Figure 4: gradient flow and the scalar model of the peak, with the predicted limits as dotted lines."""
    given = toys.problem(toys.Task())
    sinks = toys.flow(given, "alpha")
    start = np.random.default_rng(0).normal(size=len(given.z))
    both = toys.flow(given, "both", beta=start)
    apart = {"largest distance over keys": _over_time(abs(both["beta"] - both["drained"]).max("key"))}
    flows = {
        "Sinks: &#945; grows like &#189; log t (dotted: limit)": _alphas(sinks, limits=True),
        "Sinks and drains together: one &#945;": _alphas(both),
        "Drains: distance of &#946; from its limit": plots.steps(apart, log_y=True, colours=(INK,)),
    }
    for panel in flows.values():
        panel.update_xaxes(title_text="Time")
    panels, titles = [*flows.values(), _toy_peak()], [*flows, "Peaks: norm under log(t) / (m&#179; t)"]
    figure = compose.grid(
        [panels[:2], panels[2:]],
        [titles[:2], titles[2:]],
        title="Gradient flow of the simplified model",
        legends="rows",
    )
    late = sinks.sel(time=slice(1e7, None))
    slopes = np.polyfit(np.log(late["time"].values), late["alpha"].values, 1)[0]
    last = both["alpha"].isel(time=-1)
    return Drawn(
        figure,
        f"Slopes of alpha against log t: {slopes.min():.3f} to {slopes.max():.3f} (predicted 0.5). With both free, the "
        f"sink logits end at {float(last.mean()):.2f}, {float(last.max() - last.min()):.1e} apart, and beta within "
        f"{float(abs(both['beta'] - both['drained']).isel(time=-1).max()):.1e} of the predicted form.",
    )


def _alphas(flow: xr.Dataset, limits: bool = False) -> go.Figure:
    """Sink logits over time, with the lines that they approach."""
    curves = {f"&#945; of {q}": _over_time(flow["alpha"].sel(query=q)) for q in flow["query"].values}
    figure = plots.steps(curves, label="Sink logit")
    late = flow["time"].values[flow["time"].values > 1e3]
    for offset in flow["offset"].values if limits else ():
        add_line(figure, late, 0.5 * np.log(late) + offset, "predicted", INK, width=1, dash="dot", showlegend=False)
    return figure


def _toy_peak() -> go.Figure:
    """The norm in the scalar model of the peak under two optimizers."""
    norm = toys.peak()["norm"]
    shown = norm.isel(step=np.unique(np.geomspace(1, norm.sizes["step"] - 1, 200).astype(int)))
    names = {"Adam": "adam", "SGD": "sgd"}
    known = {label: published.TOY_PEAK[name] for label, name in names.items()}
    told = {label: (list(curve), list(curve.values())) for label, curve in known.items()}
    curves = {label: shown.sel(optimizer=name, drop=True) for label, name in names.items()}
    return plots.steps(curves, reference=told, label="Norm", colours=OTHERS[1:])


def _only(curve: xr.DataArray) -> xr.DataArray:
    """The single layer and head of a one-layer model."""
    return curve.isel({dim: 0 for dim in ("layer", "head") if dim in curve.dims}, drop=True)


def _over_time(curve: xr.DataArray) -> xr.DataArray:
    return curve.drop_vars("query", errors="ignore").rename(time="step")


def retrained_rows() -> dict[str, dict[str, float]]:
    """What another optimizer or attention does to extreme tokens: rows for `extreme.add_rows`, from full-size runs.

    Each is a three-layer model after 10,000 steps; its loss is compared with that under AdamW and softmax attention.
    """
    rows, base = {}, None
    for name in ("three-layer", "three-layer-sgd", "three-layer-relu"):
        last = paper_record(name).isel(step=-1, seed=0)
        loss = TRIGGERS * float(last["backcopy"]) + (1 - TRIGGERS) * float(last["bigram"])
        base = loss if base is None else base
        layer = int(last["sink"].isel(head=0).argmax("layer"))
        norms = last["value_norm"].isel(layer=layer, head=0)
        rows[f"toy: {NAMES[name]}"] = {
            "loss_change": loss - base,
            "sink_rate": float((last["sink"] > SINK).mean()),
            "first_token_weight": float(last["sink"].isel(layer=layer, head=0)),
            "peak_ratio": float((last["residual_bos"] / last["residual_others"]).isel(layer=0)),
            "drain_ratio": float(norms.sel(token="<s>") / norms.where(norms["token"] != "<s>").median()),
        }
    return rows


RECIPES = (
    FigureRecipe("active-dormant/one-layer", one_layer),
    FigureRecipe("active-dormant/dynamics", dynamics),
    FigureRecipe("active-dormant/optimizer-and-attention", optimizer_and_attention),
    FigureRecipe("active-dormant/architectures", architectures),
    FigureRecipe("active-dormant/variants", variants),
    FigureRecipe("active-dormant/theory", theory),
)
