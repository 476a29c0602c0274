"""Active-dormant heads: the paper's figures on toy models as named recipes.

1. `one-layer` (figures 2 and 3): attention map, value norms, and losses without attention or MLP.
2. `dynamics` (figure 4): losses, sink, value norm and sink logit over training, with bands over seeds.
3. `optimizer-and-attention` (figure 7c and appendix): residual norm at `<s>` for AdamW, SGD and ReLU attention.
4. `architectures` (figures 7a and 7b): which structures have a residual peak, and what is left without layer 0.
5. `variants`: which tokens become sinks in other languages.
6. `theory` (figure 4): gradient flow with the slopes and limits that the theorems predict.

They are drawn from the training runs that come with the package (`workbench.bigram_backcopy.measured`), at full size
where they were run at full size; the published numbers stand beside ours.
"""

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
from workbench.plot.theme import SERIES, SOFT

TRIGGERS = 0.2555
"""Share of positions that hold a trigger, in sequences of 256 tokens."""
SAME_UNTIL = 10_000
"""Until when the run from the authors' first weights is drawn; rounding drives its sink logit off after 3,000 steps."""
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


def one_layer() -> Drawn:
    """Attention map and value norms of the long run, and losses without a part."""
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
    shares = normalised(toys.measured("one-layer", "paper").record)
    figure = compose.grid(
        [
            [plots.attention_map(line["pattern"].isel(layer=0, head=0).values, LINE), norms],
            [plots.bars(losses, reference=told, label="Loss (nats)"), shares],
        ],
        [
            ["Attention (to the token across)", "Value norms (triggers red)"],
            ["Loss without a part", "Over training: share of the largest value, three seeds"],
        ],
        title="One layer after 100,000 steps, and how it came there",
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
    """The paper's five curves of a training record, each divided by its largest value.

    Args:
        record: of `bigram_backcopy.train`.
    """
    shares = toys.dynamics(record)["normalised"]
    names = {
        "bigram_excess": "bigram, over the oracle",
        "backcopy": "backcopy",
        "sink": "attention on &lt;s&gt;",
        "value_bos": "value norm of &lt;s&gt;",
        "sink_logit": "sink logit",
    }
    return plots.steps({label: shares.sel(curve=name, drop=True) for name, label in names.items()})


def dynamics() -> Drawn:
    """Three seeds of 10,000 steps, and the long run, beside the published curve."""
    record = toys.measured("one-layer", "paper").record
    long = toys.measured("one-layer-long", "paper").record
    same = toys.measured("one-layer-authors", "paper").record.sel(step=slice(0, SAME_UNTIL))
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
        runs = {"three seeds": record, "long run": long, "from the authors' first weights": same}
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
        f"{final.max():.2f} over three seeds, since triggers and the line break, which are never copied, take the "
        "rest; from the authors' first weights it ends at "
        f"{float(same['sink'].isel(step=-1).squeeze()):.2f} (published 0.81).",
    )


def optimizer_and_attention() -> Drawn:
    """Residual norm of `<s>` after layer 0, and after each layer at the end."""
    runs = {name: toys.measured(name, "paper").record for name in published.RESIDUAL if name != "step"}
    curves = {NAMES[name]: run["residual_bos"].isel(layer=0) for name, run in runs.items()}
    told = {NAMES[name]: (published.RESIDUAL["step"], published.RESIDUAL[name]) for name in runs}
    ends = {
        NAMES[name]: {
            f"layer {layer}": [float(run["residual_bos"].isel(step=-1, layer=layer).mean())] for layer in range(3)
        }
        for name, run in runs.items()
    }
    norms = plots.bars(ends, label="Residual norm of &lt;s&gt;", log_y=True)
    figure = compose.beside(
        [plots.steps(curves, reference=told, label="Residual norm of &lt;s&gt;", log_y=True), norms],
        ["After layer 0, over training", "After each layer, after 10,000 steps"],
        title="Three layers: which optimizer and attention make the peak",
    )
    sinks = {name: float(run["sink"].isel(step=-1).max()) for name, run in runs.items()}
    relu = runs["three-layer-relu"]["residual_bos"].isel(step=-1).mean("seed").values
    text = "; ".join(
        f"{NAMES[name]}: norm {float(run['residual_bos'].isel(step=-1, layer=0).mean()):.0f} after layer 0 "
        f"(published {published.RESIDUAL[name][-1]:.0f}), sink {sinks[name]:.2f}"
        for name, run in runs.items()
    )
    return Drawn(
        figure,
        f"{text}. ReLU attention has no sink and no peak after layer 0, but {relu[1]:.0f} and {relu[2]:.0f} after "
        "layers 1 and 2, where its first row is not normalised.",
    )


def architectures() -> Drawn:
    """Peak by structure at both sizes, and what is left of sink, drain and peak without layer 0."""
    ours: dict[str, dict[str, list[float]]] = {"full size": {}, "full size, the authors' weights": {}, "small": {}}
    for name in published.STRUCTURES:
        for scale, label in (("paper", "full size"), ("small", "small")):
            if name == "two-layer" and scale == "paper":
                continue
            last = toys.measured(name, scale).record.isel(step=-1, layer=0)
            ours[label][NAMES[name].replace("AdamW", "3xTF")] = (
                last["residual_bos"] - last["residual_others"]
            ).values.tolist()
    same = toys.measured("attention-layer-mlp-authors", "paper").record.isel(step=-1, layer=0)
    from_same = (same["residual_bos"] - same["residual_others"]).values.tolist()
    ours["full size, the authors' weights"]["Attn+TF+MLP"] = from_same
    told = {"full size": {NAMES[n].replace("AdamW", "3xTF"): v for n, v in published.STRUCTURES.items()}}
    cuts = toys.measured("two-layer-mlp", "paper").interventions.isel(seed=0)
    gap = (cuts["residual_bos"] - cuts["residual_others"]).isel(layer=0)
    parts = {
        "peak after layer 0": (gap, "residual"),
        "sink logit, layer 1": (cuts["sink_logit"].isel(layer=1, head=0), "sink_logit"),
        "value norm, layer 1": (cuts["value_bos"].isel(layer=1, head=0), "value_bos"),
    }
    sides = (("none", "full"), ("no layer 0", "without layer 0"))
    left = {label: {part: [float(v.sel(intervention=cut))] for part, (v, _) in parts.items()} for cut, label in sides}
    known = {
        label: {part: published.WITHOUT_LAYER_0[key][place] for part, (_, key) in parts.items()}
        for place, (_, label) in enumerate(sides)
    }
    figure = compose.grid(
        [
            [plots.bars(ours, reference=told, label="Norm of &lt;s&gt; over the others")],
            [plots.bars(left, reference=known, colours=(SERIES[3], SOFT))],
        ],
        [["Residual peak after layer 0, by structure"], ["2xTF+MLP, full and without layer 0"]],
        title="Which layers make the peak, and what hangs on it",
    )
    missing = ours["full size"]["Attn+TF+MLP"][0]
    return Drawn(
        figure,
        f"Without layer 0 the peak of 2xTF+MLP falls from {float(gap.sel(intervention='none')):.0f} to "
        f"{float(gap.sel(intervention='no layer 0')):.1f}, and the value norm of <s> rises from "
        f"{left['full']['value norm, layer 1'][0]:.2f} to {left['without layer 0']['value norm, layer 1'][0]:.1f}. "
        f"Attn+TF+MLP, published without a peak (-1.4), has none from the authors' first weights ({from_same[0]:.1f}) "
        f"and one of {missing:.0f} from other weights.",
    )


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
    figure_values: dict[str, dict[str, list[float]]] = {"<s>": {}, "triggers": {}, "line break and delimiters": {}}
    for name, label in shown.items():
        record = toys.measured(name).record
        got = record["attention_to"].isel(layer=0, head=0)
        task = toys.Task(**toys.experiment(name).task)
        triggers = [task.symbols[i] for i in task.trigger_ids]
        sides = [token for token in ("\n", "<d>") if token in got["token"].values and token not in triggers]
        if task.bos_ids:
            figure_values["<s>"][label] = got.sel(token="<s>").values.tolist()
        figure_values["triggers"][label] = got.sel(token=triggers).sum("token").values.tolist()
        figure_values["line break and delimiters"][label] = got.sel(token=sides).sum("token").values.tolist()
    figure = plots.bars(
        {name.replace("<s>", "&lt;s&gt;"): series for name, series in figure_values.items()},
        label="Share of attention",
        title="Where queries that are no trigger look, small models, three seeds",
    )
    mean = {name: {k: float(np.mean(v)) for k, v in series.items()} for name, series in figure_values.items()}
    return Drawn(
        figure,
        f"With copying <s> gets {mean['<s>']['backcopy']:.2f} of the attention of other queries; without BOS the "
        f"triggers get {mean['triggers']['no BOS']:.2f} and the line break "
        f"{mean['line break and delimiters']['no BOS']:.2f}; without triggers there is nothing to switch off and <s> "
        f"gets {mean['<s>']['no triggers']:.2f}.",
    )


def theory() -> Drawn:
    """Gradient flow and the scalar model of the peak, with predictions as dotted lines."""
    given = toys.problem(toys.Task())
    sinks = toys.flow(given, "alpha")
    start = np.random.default_rng(0).normal(size=len(given.z))
    both = toys.flow(given, "both", beta=start)
    peak = toys.peak()
    panels = [
        _alphas(sinks),
        plots.steps(
            {f"&#945; of {q}": _over_time(both["alpha"].sel(query=q)) for q in given.queries}, label="Sink logit"
        ),
        plots.steps(
            {"largest distance over keys": _over_time(abs(both["beta"] - both["drained"]).max("key"))}, log_y=True
        ),
        plots.steps(
            {
                "Adam" if name == "adam" else "SGD": peak["norm"]
                .sel(optimizer=name, drop=True)
                .isel(step=np.unique(np.geomspace(1, peak.sizes["step"] - 1, 200).astype(int)))
                for name in ("adam", "sgd")
            },
            reference={
                "Adam": (list(published.TOY_PEAK["adam"]), list(published.TOY_PEAK["adam"].values())),
                "SGD": (list(published.TOY_PEAK["sgd"]), list(published.TOY_PEAK["sgd"].values())),
            },
        ),
    ]
    titles = [
        "Sinks: &#945; grows like &#189; log t (dotted: limit)",
        "Sinks and drains together: one &#945;",
        "Drains: distance of &#946; from its limit",
        "Peaks: norm under log(t) / (m&#179; t)",
    ]
    for panel in panels[:3]:
        panel.update_xaxes(title_text="Time")
    figure = compose.grid(
        [panels[:2], panels[2:]], [titles[:2], titles[2:]], title="Gradient flow of the simplified model"
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


def _alphas(sinks: xr.Dataset) -> go.Figure:
    figure = plots.steps(
        {f"&#945; of {q}": _over_time(sinks["alpha"].sel(query=q)) for q in sinks["query"].values}, label="Sink logit"
    )
    t = sinks["time"].values[1:]
    for offset in sinks["offset"].values:
        figure.add_scatter(
            x=t[t > 1e3],
            y=0.5 * np.log(t[t > 1e3]) + offset,
            mode="lines",
            line={"color": "#1f2933", "width": 1, "dash": "dot"},
            name="predicted",
            showlegend=False,
        )
    return figure


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
        last = toys.measured(name, "paper").record.isel(step=-1, seed=0)
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
