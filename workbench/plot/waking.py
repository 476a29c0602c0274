"""Plots of heads that are dormant on one kind of text and active on another (Guo et al. 2024, figure 8).

`waking_maps` shows where one head attends on a text of each kind, `waking_scatter` its effect on the loss per sequence,
`waking_heatmap` all heads of a model at once.
"""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench.errors import InputError, suggest
from workbench.extreme.dormancy import waking_sentences
from workbench.plot.compose import beside
from workbench.plot.extreme import pattern
from workbench.plot.heatmaps import layer_by_head
from workbench.plot.marks import DOTTED, add_dots
from workbench.plot.theme import INK, PAPER, RULE, SERIES, house

SCORE_NAMES = {"loss_change": "loss change when zeroed", "sink_weight": "attention on the sink"}


def waking_maps(found: xr.Dataset, *, title: str | None = None) -> go.Figure:
    """The attention maps of one head, a domain beside the other, colours from 0 to 1; columns are the rows' tokens.

    Args:
        found: From `workbench.extreme.attention_maps`.
        title: Title above the maps.
    """
    layer, head = int(found.attrs["layer"]), int(found.attrs["head"])
    maps = []
    for i in range(found.sizes["domain"]):
        one = found.isel(domain=i, drop=True)
        maps.append(pattern(one.expand_dims({"layer": [layer], "head": [head]}), layer, head))
        maps[-1].data[0].showscale = i == found.sizes["domain"] - 1
    names = [str(name) for name in found["domain"].values]
    figure = beside(maps, names, title=title, gap=0.42 / len(names))
    return figure.update_xaxes(showticklabels=False, title_text="attended token")


def waking_scatter(result: xr.Dataset, layer: int, unit: int, *, title: str | None = None) -> go.Figure:
    """One head: mean attention on the sink against the change of the loss when it is zeroed, a marker per sequence.

    Lines mark the limits: what lies to the right of the upright one and between the level ones is dormant.

    Args:
        result: From `workbench.extreme.active_dormant`.
        layer: Which layer.
        unit: Which head, or KV group where groups were zeroed.
        title: Title above the figure; by default the head and the domains where it is dormant and active.
    """
    dim = unit_dim(result)
    at = {"layer": _one_of(result, "layer", layer), dim: _one_of(result, dim, unit)}
    one = result.sel(at)
    figure = go.Figure()
    for i, name in enumerate(result["domain"].values):
        of_domain = one.sel(domain=name)
        x, y = of_domain["sink_weight"].values, of_domain["loss_change"].values
        told = np.stack([result["sequence"].values, _excerpts(result, name)], axis=-1)
        hover = (
            f"<b>{name}</b>, sequence %{{customdata[0]}}<br>on the sink %{{x:.3f}}<br>"
            "loss change %{y:.4f}<br>%{customdata[1]}<extra></extra>"
        )
        pale = {"marker_opacity": 0.65, "marker_line_width": 0}
        add_dots(figure, x, y, str(name), SERIES[i % len(SERIES)], hover, size=6, customdata=told, **pale)
    title = title or f"Layer {layer}, {dim.replace('_', ' ')} {unit}: {waking_sentences(one).item()}"
    house(figure, title=title, height=420, top=50)
    negligible, asleep = (float(result.attrs[f"limit_{name}"]) for name in ("negligible", "asleep"))
    for side in (-negligible, negligible):
        figure.add_hline(side, line=DOTTED)
    figure.add_vline(asleep, line=DOTTED)
    figure.update_xaxes(title_text="mean attention on the sink", range=[-0.02, 1.02])
    figure.update_yaxes(title_text="loss change when zeroed (nats)")
    return figure


def waking_heatmap(
    result: xr.Dataset, pair: str | None = None, score: str = "loss_change", *, title: str | None = None
) -> go.Figure:
    """All heads: the difference between two domains, with marks where a head is dormant in one and active in the other.

    Args:
        result: From `workbench.extreme.active_dormant`.
        pair: Which pair of domains, as in `result["pair"]`; the first by default.
        score: "loss_change" or "sink_weight".
        title: Title above the map.
    """
    dim = unit_dim(result)
    known = [str(name) for name in result["pair"].values]
    pair = known[0] if pair is None else pair
    for word, name, words in ((pair, "pair", known), (score, "score", list(SCORE_NAMES))):
        if word not in words:
            raise InputError(f"{name}={word!r} is not in this result; {suggest(word, words)}")
    chosen = result.sel(pair=pair)
    values = chosen["difference"].sel(score=score).transpose("layer", ...).values
    group = int(result.attrs["group_size"])
    width = group if dim == "kv_group" else 1
    first, second = str(chosen["first"].item()), str(chosen["second"].item())
    figure = layer_by_head(
        np.repeat(values, width, axis=1),
        group,
        end=None,
        centred=True,
        label=f"{SCORE_NAMES[score]}, {pair}",
        title=title,
    )
    wakes, phase = result["wakes"], result["phase"]
    marks = {
        f"dormant in {second}, active in {first}": ("triangle-up", wakes.sel(dormant_in=second, active_in=first)),
        f"dormant in {first}, active in {second}": ("triangle-down", wakes.sel(dormant_in=first, active_in=second)),
        "dormant in all": ("circle", (phase == "dormant").all("domain")),
        "active in all": ("square", (phase == "active").all("domain")),
    }
    sentences = waking_sentences(result).transpose("layer", ...).values
    for name, (symbol, marked) in marks.items():
        rows, columns = np.nonzero(marked.transpose("layer", ...).values)
        if len(rows):
            x, hover = columns * width + (width - 1) / 2, "layer %{y}: %{customdata}<extra></extra>"
            more = {"marker_line": {"width": 1.2, "color": INK}, "customdata": sentences[rows, columns]}
            add_dots(figure, x, rows, name, PAPER, hover, size=9, symbol=symbol, showlegend=True, **more)
    return figure.update_layout(margin_t=82 if title else 48, legend_y=1.01, plot_bgcolor=RULE)


def unit_dim(result: xr.Dataset) -> str:
    """The name of the units' axis: "head" or "kv_group"."""
    if "wakes" not in result:
        raise InputError(
            f"This Dataset does not say where heads are dormant or active; it holds "
            f"{', '.join(map(str, result.data_vars))}. Give what active_dormant returned, or add the tests with "
            "phases(...)."
        )
    return next(str(dim) for dim in result["effect"].dims if dim not in ("domain", "layer"))


def _one_of(result: xr.Dataset, dim: str, value: int) -> int:
    known = [int(v) for v in result[dim].values]
    if value not in known:
        raise InputError(f"{dim}={value} is not in this result; choose one of {known}.")
    return value


def _excerpts(result: xr.Dataset, domain: str) -> np.ndarray:
    """The beginning of each sequence's text on one line, for hovering."""
    if "text" not in result.coords:
        return np.full(result.sizes["sequence"], "")
    texts = result["text"].sel(domain=domain).values.astype(str)
    return np.array([" ".join(text.split())[:70].replace("<", "&lt;") for text in texts])
