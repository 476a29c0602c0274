"""Extreme tokens over training: attention, values, sink logit and residual norm by step, panels (a) to (d)."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from workbench.errors import InputError, suggest
from workbench.plot.marks import add_line, band
from workbench.plot.theme import ACCENT, AGAINST, SERIES, SOFT, TOWARDS, house
from workbench.plot.tokens import token_labels

_PANELS = (
    ("sink_weight", "Attention received"),
    ("value_norm", "Value norm through W<sub>O</sub>"),
    ("sink_logit", "Sink logit"),
    ("residual_norm", "Residual norm"),
)
_COLOURS = (TOWARDS, ACCENT, AGAINST, *SERIES[3:5])


def training_panels(
    result: xr.Dataset, *, layer: int | None = None, linear_until: float | int | None = None, title: str | None = None
) -> go.Figure:
    """Four panels over training steps: attention received, value norm, sink logit and residual norm.

    Lines are means over the heads of a layer, bands one standard error of that mean. In the first panel the dotted line
    is the attention on all followed tokens together.

    Args:
        result: from `workbench.extreme.training_dynamics`.
        layer: which layer; by default the one whose heads attend most to the first followed token at the last step.
        linear_until: the step up to which the axis is linear; beyond it, it is logarithmic. By default the first
            step after 0.
        title: Title above the figure.

    Raises:
        InputError: not such a result, or a layer that it does not have.
    """
    missing = [name for name, _label in _PANELS if name not in result]
    if missing or "step" not in result.dims or "token" not in result.dims:
        raise InputError(
            f"This result has no {missing[0] if missing else 'step and token'}; pass what training_dynamics returns "
            "(with its own measure, follow_tokens)."
        )
    layers = result["layer"].values.tolist()
    layer = strongest_layer(result) if layer is None else layer
    if layer not in layers:
        raise InputError(f"Layer {layer} is not in the result; {suggest(layer, map(str, layers))}")
    here = result.sel(layer=layer)
    steps = here["step"].values.astype(float)
    until = _linear_until(steps, linear_until)
    x = _place(steps, until)
    figure = make_subplots(
        rows=2,
        cols=2,
        horizontal_spacing=0.13,
        vertical_spacing=0.2,
        subplot_titles=[
            f"<b>{letter}</b>  {label}, layer {layer}" for letter, (_name, label) in zip("abcd", _PANELS, strict=True)
        ],
    )
    tokens = [str(token) for token in here["token"].values]
    colours = {token: SOFT if token == "other" else _COLOURS[i % len(_COLOURS)] for i, token in enumerate(tokens)}
    for panel, (name, _label) in enumerate(_PANELS):
        place = {"row": panel // 2 + 1, "col": panel % 2 + 1}
        for token in tokens:
            if name == "sink_logit" and token == "other":
                continue
            mean, error = _over_heads(here[name].sel(token=token))
            label = token_labels([token])[0]
            if error is not None:
                drawn = band(x, mean - error, mean + error, colours[token], f"{label} ± 1 s.e.")
                figure.add_scatter(**drawn, legendgroup=label, **place)
            _line(figure, x, steps, mean, label, colours[token], showlegend=panel == 0, **place)
        if name == "sink_weight" and len(tokens) > 2:
            mean, _error = _over_heads(here[name].sel(token=tokens[:-1]).sum("token", min_count=1))
            _line(figure, x, steps, mean, "together", SOFT, dash="dot", **place)
    house(figure, title=title, height=600, top=56)
    figure.update_layout(margin_b=96, legend_y=-0.16, legend_yanchor="top")
    for note in figure.layout.annotations:
        note.update(font_size=13, xanchor="left", x=note.x - 0.435 / 2)
    shown = _ticks(steps, until)
    figure.update_xaxes(
        tickvals=_place(shown, until).tolist(), ticktext=[short_step(step) for step in shown], title_text="Step"
    )
    figure.update_yaxes(rangemode="tozero", tickformat=",~g")
    return figure


def strongest_layer(result: xr.Dataset) -> int:
    """The layer whose heads together attend most to the first followed token at the last step."""
    received = result["sink_weight"].isel(step=-1, token=0).mean("head")
    return int(result["layer"].values[int(np.argmax(received.values))])


def short_step(step: float | int) -> str:
    """A step as an axis shows it: 500, 3,356, 147.5k."""
    return f"{step / 1000:g}k" if step >= 10_000 else f"{step:,g}"


def _over_heads(values: xr.DataArray) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean over heads and its standard error, where there are heads."""
    if "head" not in values.dims:
        return values.transpose("step").values, None
    count = np.maximum(values.notnull().sum("head"), 1)
    spread = values.std("head", ddof=1 if values.sizes["head"] > 1 else 0)
    return values.mean("head").values, (spread / count**0.5).values


def _line(
    figure: go.Figure, x: np.ndarray, steps: np.ndarray, mean: np.ndarray, name: str, colour: str, **more: Any
) -> None:
    shown = {"first": "first token", "delimiter": "first delimiter", "other": "other tokens"}.get(name, name)
    hover = f"step %{{customdata:,}}<br>{name}: %{{y:.3g}}<extra></extra>"
    add_line(figure, x, mean, shown, colour, hover, size=5, legendgroup=name, customdata=steps, **more)


def _linear_until(steps: np.ndarray, wanted: float | int | None) -> float:
    if wanted is not None and wanted <= 0:
        raise InputError(f"linear_until={wanted}: the axis is linear up to a step above 0.")
    positive = steps[steps > 0]
    return float(wanted if wanted is not None else positive.min() if len(positive) else 1.0)


def _place(steps: np.ndarray, until: float) -> np.ndarray:
    """Where a step stands on the axis: step/until, from there on 1 + log(step/until)."""
    share = np.asarray(steps, dtype=float) / until
    return np.where(share <= 1, share, 1 + np.log(np.maximum(share, 1)))


def _ticks(steps: np.ndarray, until: float) -> np.ndarray:
    """At most six of the steps themselves, spread along the axis."""
    places = _place(steps, until)
    wanted = np.linspace(places[0], places[-1], 6)
    return steps[np.unique(np.abs(places[None] - wanted[:, None]).argmin(1))]
