"""Offline attention views: a token by token map with a head picker, and shaded text.

`attention` draws with Plotly. Its backend "circuitsvis" shows the CircuitsVis view instead, where that
package is installed: CircuitsVis itself prefers to load its script from a content network, so the copy of
the script that lies in the installed package is written into the page (about 1.3 MB) and nothing is fetched.
`shaded_text` is plain HTML and CSS, so it also prints.
"""

from collections.abc import Iterable
from html import escape
from importlib import import_module
from typing import Literal, overload

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench.errors import InputError
from workbench.plot.html import Html, render
from workbench.plot.marks import colour_bar, named_ticks
from workbench.plot.theme import RULE, SEQUENTIAL, house

Layer = int | None
Heads = tuple[int, ...] | None
Plotly = Literal["plotly"]
CircuitsVis = Literal["circuitsvis"]
LESS_THAN = "\ue000"
"""Stands for `<` in a token until the token is inside a script, where a literal `</script>` would end it."""
PALE = 0.15
"""The colour scale of `shaded_text` ends no lower, so that attention spread thin is drawn pale."""


@overload
def attention(
    result: xr.Dataset, *, layer: Layer = ..., heads: Heads = ..., backend: Plotly = ..., title: str | None = ...
) -> go.Figure: ...
@overload
def attention(
    result: xr.Dataset, *, layer: Layer = ..., heads: Heads = ..., backend: CircuitsVis, title: str | None = ...
) -> Html: ...
def attention(
    result: xr.Dataset, *, layer: Layer = None, heads: Heads = None, backend: str = "plotly", title: str | None = None
) -> go.Figure | Html:
    """Attention of chosen heads, from every token (down) to every token (across).

    Colours run from 0 to the largest weight on any token but the first, so that a strong sink on the first
    token does not wash the rest out; hovering gives the exact weight.

    Args:
        result: Dataset with `pattern` over (layer,) head, query and key, and the tokens in `token`.
        layer: Which layer, where the result has several.
        heads: Which heads to offer in the picker; None offers all.
        backend: "plotly", or "circuitsvis" for the CircuitsVis view as offline HTML.
        title: Title above the map.

    Raises:
        InputError: no pattern or tokens, a layer or head that is not there, or an unknown backend.
    """
    chosen = _select(result, layer, heads)
    if backend == "circuitsvis":
        return _circuitsvis(chosen)
    if backend != "plotly":
        raise InputError(f"unknown backend {backend!r} for attention; use 'plotly' or 'circuitsvis'.")
    weights, labels = chosen["pattern"].values.astype(float), token_labels(chosen["token"].values)
    names = [int(h) for h in chosen["head"].values]
    where = f"layer {layer}, " if layer is not None else ""
    n = len(labels)
    below = np.tril(np.ones((n, n), dtype=bool))
    end = colour_end(weights)
    figure = go.Figure()
    for index, head in enumerate(names):
        figure.add_heatmap(
            z=np.where(below, weights[index], np.nan),
            visible=index == 0,
            name=f"head {head}",
            zmin=0,
            zmax=end,
            colorscale=SEQUENTIAL,
            hoverongaps=False,
            hovertemplate="from <b>%{y}</b><br>to <b>%{x}</b><br>weight %{z:.3f}<extra></extra>",
            colorbar=colour_bar("weight", nticks=5),
        )
    house(figure, title=title, height=int(min(1100, 170 + 11.5 * n)))
    _pick(figure, [f"{where}head {h}" for h in names])
    ticks = named_ticks(labels) | {"tickfont_size": 9}
    figure.update_xaxes(**ticks, tickangle=-90, title_text="attended token", range=[-0.5, n - 0.5])
    figure.update_yaxes(**ticks, title_text="token that attends", range=[n - 0.5, -0.5])
    return figure


def _pick(figure: go.Figure, names: list[str]) -> None:
    """A drop-down that shows one trace at a time."""
    if len(names) < 2:
        return
    buttons = [
        {"label": name, "method": "update", "args": [{"visible": [i == j for j in range(len(names))]}]}
        for i, name in enumerate(names)
    ]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "pad": {"b": 10}}
    look = {"bgcolor": "white", "bordercolor": RULE, "font": {"size": 13}}
    figure.update_layout(margin_t=58, updatemenus=[menu | look])


def shaded_text(
    result: xr.Dataset, *, layer: Layer = None, heads: Heads = None, query: int = -1, mean: bool = False
) -> Html:
    """The text itself, each token shaded by the attention that one position pays to it.

    The first token, where attention rests, is outlined and not shaded.

    Args:
        result: Dataset as for `attention`.
        layer: Which layer, where the result has several.
        heads: Which heads, one paragraph each.
        query: The position that attends; -1 is the last.
        mean: One paragraph for the mean over the heads instead of one for each.
    """
    chosen = _select(result, layer, heads)
    weights = chosen["pattern"].values.astype(float)
    rows = weights[:, query, :]
    names = [f"Head {int(h)}" for h in chosen["head"].values]
    if mean:
        rows, names = (rows.mean(axis=0, keepdims=True), ["Mean of heads " + ", ".join(n.split()[1] for n in names)])
    end = max(PALE, float(rows[:, 1:].max()) if rows.shape[1] > 1 else 0.0)
    shown = []
    for name, row in zip(names, rows, strict=True):
        top = int(row.argmax())
        label = f"{name}: most weight, {row[top]:.0%}, on {visible_token(str(chosen['token'].values[top]))!r}"
        alphas = [None, *np.clip(row[1:] / end, 0, 1).tolist()]
        words = [str(token) for token in chosen["token"].values]
        shown.append({"name": name, "label": label, "tokens": list(zip(words, row.tolist(), alphas, strict=True))})
    return render("workbench.plot", "shaded_text", rows=shown)


def visible_token(token: str) -> str:
    """A token with its white space made visible."""
    return token.replace("\n", "\u21b5").replace("\t", "\u21e5").replace(" ", "\u00b7")


def token_labels(tokens: Iterable[object]) -> list[str]:
    """Labels of tokens in a Plotly figure, which reads a small part of HTML: long ones are cut, all are escaped."""
    labels = [visible_token(str(t)) for t in tokens]
    return [escape(t if len(t) <= 14 else t[:13] + "\u2026", quote=False) for t in labels]


def colour_end(weights: np.ndarray) -> float:
    """End of the colour scale: the largest weight on any key but the first, at least 0.05."""
    rest = weights[..., 1:, 1:]
    return float(min(1.0, max(0.05, rest.max() if rest.size else 1.0)))


def _select(result: xr.Dataset, layer: Layer, heads: Heads) -> xr.Dataset:
    missing = [name for name in ("pattern", "token") if name not in result]
    if missing:
        raise InputError(
            f"attention needs 'pattern' and 'token' in the Dataset; missing: {', '.join(missing)}. "
            f"It has: {', '.join(map(str, result.variables))}."
        )
    chosen = result
    if "layer" in result["pattern"].dims:
        known = [int(v) for v in result["layer"].values]
        if layer is None and len(known) == 1:
            layer = known[0]
        if layer not in known:
            raise InputError(f"layer={layer} is not in this result; choose one of {known}.")
        chosen = chosen.sel(layer=layer)
    if heads is not None:
        known = [int(v) for v in result["head"].values]
        wrong = [h for h in heads if h not in known]
        if wrong:
            raise InputError(f"heads {wrong} are not in this result; it has {known}.")
        chosen = chosen.sel(head=list(heads))
    return chosen.transpose(..., "head", "query", "key")


def _circuitsvis(chosen: xr.Dataset) -> Html:
    try:
        render = import_module("circuitsvis.utils.render")
    except ImportError as error:
        raise InputError(
            "backend='circuitsvis' needs the package circuitsvis, which is not installed. "
            "Install it with `pip install circuitsvis`, or use backend='plotly'."
        ) from error
    page = render.render_local(
        "AttentionHeads",
        attention=chosen["pattern"].values.astype(float),
        tokens=[visible_token(str(t)).replace("<", LESS_THAN) for t in chosen["token"].values],
        attentionHeadNames=[f"head {int(h)}" for h in chosen["head"].values],
    )
    return Html(page.replace(r"\ue000", r"\u003c"))
