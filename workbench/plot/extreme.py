"""Plots of extreme tokens: attention sinks, value norms, residual norms and their coordinates.

Each takes what `workbench.extreme_tokens` returned. `value_norms` and `residual_norms` are the second and third panel
of the paper's first figure (Guo et al. 2024); `patterns` gives the first.
"""

from collections import Counter

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench.errors import InputError
from workbench.extreme.verdict import judged_keys
from workbench.plot.heatmaps import layer_by_head
from workbench.plot.marks import band, colour_bar, named_ticks
from workbench.plot.theme import AGAINST, DIVERGING, INK, PAPER, RULE, SEQUENTIAL, SERIES, SMALL, SOFT, TOWARDS, house
from workbench.plot.tokens import token_labels

DROPPED = 0.01
"""Share of the smallest and of the largest value norms of a token that are left out, as in the paper."""
MOST_TOKENS = 40
LABELLED = 12
"""Layers whose number is written below the axis, at most."""
HIDDEN = 20
"""Times the median of the others from which a norm hides them on a linear axis."""
READ = 20
"""Tokens whose text stands beside an attention map, at most; of more, every second or third."""
RANKS = ("largest", "second", "third", "fourth", "fifth")
READABLE = 0.06
"""Share of a bar from which on its coordinate is written into it."""


def sink_heatmap(
    found: xr.Dataset, measure: str = "sink_weight", *, position: int | None = None, title: str | None = None
) -> go.Figure:
    """Layer by head: attention on the sinks, or the share of texts in which a head has one.

    Args:
        found: From `extreme_tokens`.
        measure: "sink_weight" (mean over texts, at each head's most attended judged token), "sink_logit" (of that
            token), "sink_rate" or "first_token_sink_rate".
        position: With "sink_weight" and "sink_logit": this position in every text instead.
        title: Title above the map.
    """
    group = int(found.attrs["group_size"])
    if measure in ("sink_rate", "first_token_sink_rate"):
        return layer_by_head(found[measure].values, group, label=measure.replace("_", " "), title=title)
    if measure not in ("sink_weight", "sink_logit"):
        raise InputError(
            f"measure={measure!r} is not one of sink_weight, sink_logit, sink_rate, first_token_sink_rate."
        )
    values = found[measure].isel(position=_position(found, position) if position is not None else _strongest(found))
    mean = values.mean("sequence").values
    if measure == "sink_weight":
        return layer_by_head(mean, group, label="attention received", title=title)
    return layer_by_head(mean, group, end=None, centred=bool((mean < 0).any()), label="sink logit", title=title)


def value_norms(found: xr.Dataset, *, sequence: int = 0, title: str | None = None) -> go.Figure:
    """Letter-value plot: the norms of one text's values through W_O, over all layers and heads, token by token.

    The widest box holds half of the heads, each narrower pair of boxes half of what is left; the line is the median.
    Extreme tokens are red.

    Args:
        found: From `extreme_tokens`.
        sequence: Which text.
        title: Title above the figure.
    """
    one = _text(found, sequence)
    norms = one["head_value_norm"].values.reshape(-1, one.sizes["position"])
    red = _marked(one).values
    figure = go.Figure()
    for token in range(norms.shape[1]):
        _letter_values(figure, token, norms[:, token], TOWARDS if red[token] else AGAINST)
    house(figure, title=title, height=340)
    _token_axis(figure, one["token"].values)
    figure.update_yaxes(title_text="norm of the value through W<sub>O</sub>", rangemode="tozero")
    return figure


def _letter_values(figure: go.Figure, x: int, values: np.ndarray, colour: str) -> None:
    low, high = np.nanquantile(values, [DROPPED, 1 - DROPPED])
    kept = values[(values >= low) & (values <= high)]
    depth = max(1, int(np.log2(len(kept))) - 2)
    for level in range(depth, 0, -1):
        tail = 0.5 ** (level + 1)
        bottom, top = np.quantile(kept, [tail, 1 - tail])
        width = 0.8 * (1 - (level - 1) / depth)
        figure.add_bar(
            x=[x],
            y=[top - bottom],
            base=[bottom],
            width=width,
            offset=-width / 2,
            showlegend=False,
            marker={"color": colour, "opacity": 0.25 + 0.5 * (depth - level + 1) / depth, "line": {"width": 0}},
            hovertemplate=f"middle {1 - 2 * tail:.0%} of heads: {bottom:.3g} to {top:.3g}<extra></extra>",
        )
    middle = float(np.median(kept))
    figure.add_scatter(
        x=[x - 0.4, x + 0.4],
        y=[middle, middle],
        mode="lines",
        line={"color": INK, "width": 1.6},
        showlegend=False,
        hovertemplate=f"median {middle:.3g}<extra></extra>",
    )


def residual_norms(found: xr.Dataset, *, sequence: int | None = None, title: str | None = None) -> go.Figure:
    """The stream's norm after each layer: the first token, other extreme ones, the median and the largest of the rest.

    The axis is logarithmic where a linear one would hide all but the peak.

    Args:
        found: From `extreme_tokens`.
        sequence: Which text; None draws the mean over the texts that have such a token, with the range over them.
        title: Title above the figure.
    """
    some = found if sequence is None else found.isel(sequence=[_sequence(found, sequence)])
    norm, first = some["residual_norm"], some["position"] == 0
    inner = some["extreme"].any("layer") & ~first
    others = norm.where(~inner & ~first)
    lines = {
        "first token": (norm.isel(position=0), TOWARDS),
        "other extreme tokens": (norm.where(inner).max("position"), SERIES[2]),
        "largest of the others": (others.max("position"), AGAINST),
        "median of the others": (others.median("position"), SOFT),
    }
    lines = {name: line for name, line in lines.items() if bool(line[0].notnull().any())}
    figure = go.Figure()
    layers = np.arange(norm.sizes["layer"])
    for name, (values, colour) in lines.items():
        if values.sizes["sequence"] > 1:
            low, high = values.min("sequence").values, values.max("sequence").values
            figure.add_scatter(**band(layers, low, high, colour, f"{name}, range over texts"))
        figure.add_scatter(
            x=layers,
            y=values.mean("sequence").values,
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 5},
            hovertemplate=f"{name}<br>after layer %{{x}}: %{{y:.1f}}<extra></extra>",
        )
    house(figure, title=title, height=340)
    figure.update_layout(margin_t=84 if title else 48)
    figure.update_xaxes(title_text="Layer", showgrid=False)
    figure.update_yaxes(title_text="norm of the residual stream", rangemode="tozero")
    if float((norm.max("position") / others.median("position")).max()) > HIDDEN:
        figure.update_yaxes(type="log", dtick=1)
    return figure


def peak_coordinates(
    found: xr.Dataset, *, sequence: int | None = None, most: int = 5, title: str | None = None
) -> go.Figure:
    """Which coordinates carry the token of largest norm in each layer, as shares of its squared norm.

    Args:
        found: From `extreme_tokens`.
        sequence: Which text; None for the mean over texts.
        most: Coordinates with a colour of their own, those with the largest share anywhere, by rank; the rest is grey.
            The numbers in the bars are the coordinates.
        title: Title above the figure.
    """
    some = found if sequence is None else found.isel(sequence=[_sequence(found, sequence)])
    share = coordinate_shares(some)
    largest = np.argsort(-share.max(0), kind="stable")[: min(most, len(SERIES) - 1)]
    chosen = [int(c) for c in largest if share[:, c].max() > 0]
    layers = np.arange(len(share))
    figure = go.Figure()
    left = np.ones(len(share))
    for index, c in enumerate(chosen):
        _stack(figure, layers, 1 - left, share[:, c], f"{RANKS[index]} coordinate", SERIES[index], c)
        left = left - share[:, c]
    _stack(figure, layers, 1 - left, left, "all others", RULE)
    house(figure, title=title, height=340)
    figure.update_layout(margin_t=84 if title else 48)
    longest, step = _longest(some), -(-len(layers) // LABELLED)
    names = [
        f"{layer if layer % step == 0 else ''}<br>{token if layer == 0 or token != longest[layer - 1] else ''}"
        for layer, token in zip(layers, longest, strict=True)
    ]
    axis = "Layer, and its token of largest norm" + ("" if len(some["sequence"]) == 1 else " in most texts")
    figure.update_xaxes(title_text=axis, **named_ticks(names, layers))
    figure.update_yaxes(title_text="share of the squared norm", range=[0, 1])
    return figure


def coordinate_shares(found: xr.Dataset) -> np.ndarray:
    """Share of the squared norm of each layer's longest token by coordinate, the mean over texts (layer, coordinate).

    Args:
        found: From `extreme_tokens`.
    """
    coordinate = found["peak_coordinate"].transpose("sequence", "layer", "rank").values.astype(int)
    share = found["peak_share"].transpose("sequence", "layer", "rank").values
    total = np.zeros((share.shape[1], coordinate.max() + 1))
    for of_text, values in zip(coordinate, share, strict=True):
        np.put_along_axis(total, of_text, np.take_along_axis(total, of_text, 1) + values, 1)
    return total / len(share)


def _longest(found: xr.Dataset) -> list[str]:
    """The token of largest norm in each layer, by its text; over several texts the commonest, or "first"."""
    position = found["peak_position"].transpose("sequence", "layer").values.astype(int)
    tokens = [token_labels(row) for row in found["token"].values]
    names = [[tokens[i][p] if p or len(tokens) == 1 else "first" for p in row] for i, row in enumerate(position)]
    return [Counter(of_layer).most_common(1)[0][0] for of_layer in zip(*names, strict=True)]


def _stack(
    figure: go.Figure,
    layers: np.ndarray,
    base: np.ndarray,
    values: np.ndarray,
    name: str,
    colour: str,
    coordinate: int | None = None,
) -> None:
    detail = name if coordinate is None else f"coordinate {coordinate}"
    figure.add_bar(
        x=layers,
        y=values,
        base=base,
        width=0.75,
        offset=-0.375,
        name=name,
        text=[str(coordinate) if coordinate is not None and share > READABLE else "" for share in values],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        textfont={"color": PAPER, "size": SMALL},
        marker={"color": colour, "line": {"width": 0}},
        hovertemplate=f"after layer %{{x}}, {detail}: %{{y:.1%}}<extra></extra>",
    )


def pattern(found: xr.Dataset, layer: int, head: int, *, title: str | None = None) -> go.Figure:
    """The attention map of one head, colours from 0 to 1, with the tokens as labels.

    Args:
        found: From `workbench.extreme.patterns`.
        layer: Which layer.
        head: Which query head.
        title: Title above the map.
    """
    weights = found["pattern"].sel(layer=layer, head=head).values
    n = len(weights)
    figure = go.Figure(
        go.Heatmap(
            z=np.where(np.tril(np.ones((n, n), dtype=bool)), weights, np.nan),
            zmin=0,
            zmax=1,
            colorscale=SEQUENTIAL,
            hoverongaps=False,
            hovertemplate="from <b>%{y}</b><br>to <b>%{x}</b><br>weight %{z:.3f}<extra></extra>",
            colorbar=colour_bar(nticks=5),
            name=f"layer {layer}, head {head}",
        )
    )
    house(figure, title=title, height=340)
    shown = range(0, n, -(-n // READ))
    ticks = named_ticks([label for i, label in enumerate(token_labels(found["token"].values)) if i in shown], [*shown])
    figure.update_xaxes(**ticks, tickangle=-60, range=[-0.5, n - 0.5])
    figure.update_yaxes(**ticks, range=[n - 0.5, -0.5])
    return figure


def _token_axis(figure: go.Figure, tokens: np.ndarray) -> None:
    figure.update_xaxes(**named_ticks(token_labels(tokens)), tickangle=-60, range=[-0.6, len(tokens) - 0.4])


def _text(found: xr.Dataset, sequence: int) -> xr.Dataset:
    one = found.isel(sequence=_sequence(found, sequence))
    return one.isel(position=slice(min(int(one["length"]), MOST_TOKENS)))


def _sequence(found: xr.Dataset, sequence: int) -> int:
    n = found.sizes["sequence"]
    if not 0 <= sequence < n:
        raise InputError(f"sequence={sequence}, but the result holds {n} texts, 0 to {n - 1}.")
    return sequence


def _position(found: xr.Dataset, position: int) -> int:
    n = int(found["length"].min())
    if not 0 <= position < n:
        raise InputError(f"position={position}, but the shortest text has the positions 0 to {n - 1}.")
    return position


def _strongest(found: xr.Dataset) -> xr.DataArray:
    """Of each text and head, the most attended position among those that enough queries see."""
    seen = judged_keys(found, found.attrs["threshold_min_queries"])
    return found["sink_weight"].where(seen).fillna(-1).argmax("position")


def _marked(found: xr.Dataset) -> xr.DataArray:
    """The tokens that are extreme in some layer; where there are none, the sinks."""
    extreme, sink = (found[name].any("layer") for name in ("extreme", "sink"))
    return extreme if bool(extreme.any()) else sink


def peak_sources(result: xr.Dataset, *, title: str | None = None) -> go.Figure:
    """What is left of the followed token's stream when a part of the model is zeroed: one row per part, layers across.

    Colours give the norm relative to the unchanged model on a log scale: red where zeroing lets it collapse (the part
    makes the peak), blue where it grows (the part removes it). Beside each part stands its change of loss.

    Args:
        result: From `workbench.extreme.peak_sources`.
        title: Title above the map.
    """
    if "residual_norm" not in result or "intervention" not in result.dims:
        raise InputError("This is no result of workbench.extreme.peak_sources: it has no residual_norm(intervention).")
    norm = result["residual_norm"].transpose("intervention", "layer").values
    change = result["loss_change"].mean("sequence").values
    base, rest = norm[0], norm[1:]
    names = [str(name) for name in result["intervention"].values[1:]]
    labels = [f"{name}  ({delta:+.2f})" for name, delta in zip(names, change[1:], strict=True)]
    with np.errstate(divide="ignore"):
        shown = np.clip(np.log2(rest / base), -5, 5)
    figure = go.Figure(
        go.Heatmap(
            z=shown,
            x=np.arange(norm.shape[1]),
            y=labels,
            customdata=np.dstack([rest, np.broadcast_to(base, rest.shape)]),
            zmin=-4,
            zmax=4,
            colorscale=DIVERGING,
            xgap=1,
            ygap=1,
            hovertemplate="without <b>%{y}</b><br>after layer %{x}: norm %{customdata[0]:.1f}, "
            "else %{customdata[1]:.1f}<extra></extra>",
            colorbar=colour_bar(
                "norm, relative",
                11,
                title_side="right",
                tickvals=[-4, -2, 0, 2, 4],
                ticktext=["1/16", "1/4", "1", "4", "16"],
            ),
            meta={"customdata": ["norm", "norm_unchanged"]},
            name="norm relative to the unchanged model",
        )
    )
    house(figure, title=title, height=110 + 19 * len(labels))
    figure.update_xaxes(title_text="After layer", showgrid=False, dtick=max(1, -(-norm.shape[1] // 16)))
    figure.update_yaxes(autorange="reversed", showgrid=False, title_text="zeroed  (change of loss)")
    return figure
