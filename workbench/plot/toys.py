"""Plots of toy model training: curves over steps with bands over seeds, and bars with reference points.

Nothing here knows the paper. A band reaches from the smallest to the largest seed, the line is the mean; published
numbers are hollow diamonds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench.errors import InputError
from workbench.plot.marks import add_dots, add_line, band, cells, named_ticks
from workbench.plot.theme import INK, SERIES, SOFT, house
from workbench.plot.tokens import token_labels

REFERENCE: dict[str, Any] = {"symbol": "diamond-open", "size": 9, "marker_line_width": 1.6}
"""The markers of published numbers."""
MUTED = "#a9b3bf"
"""Bars whose colour says nothing."""


def steps(
    curves: Mapping[str, xr.DataArray],
    *,
    reference: Mapping[str, tuple[Sequence[float | int], Sequence[float | int]]] | None = None,
    label: str = "",
    log_y: bool = False,
    colours: Sequence[str] = SERIES,
    title: str | None = None,
) -> go.Figure:
    """Curves over training steps on a logarithmic axis; a band where there are several seeds.

    Args:
        curves: By name: values over step, or over step and seed. Step 0 is left out.
        reference: Published steps and values by the same names.
        label: Title of the y axis.
        log_y: Whether the y axis is logarithmic.
        colours: One per curve.
        title: Title above the figure.

    Raises:
        InputError: a curve with other dims.
    """
    figure = go.Figure()
    for place, (name, curve) in enumerate(curves.items()):
        colour = colours[place % len(colours)]
        x, low, mean, high = _band(name, curve)
        if (high > low).any():
            figure.add_scatter(**band(x, low, high, colour, f"{name}: band of seeds", 0.16))
        add_line(figure, x, mean, name, colour, f"{name}<br>step %{{x}}: %{{y:.4g}}<extra></extra>")
        if reference is not None and name in reference:
            at, values = (np.asarray(part, float) for part in reference[name])
            more = REFERENCE | {"showlegend": name == next(iter(reference))}
            hover = f"{name}, published<br>step %{{x}}: %{{y:.4g}}<extra></extra>"
            add_dots(figure, at[at > 0], values[at > 0], "published", colour, hover, **more)
    house(figure, title=title, height=380, top=56)
    drawn = [np.concatenate([np.asarray(t[axis], float) for t in figure.data]) for axis in ("x", "y")]
    figure.update_xaxes(title_text="Training step", type="log", **_decades(drawn[0]))
    figure.update_yaxes(title_text=label, **({"type": "log"} | _decades(drawn[1]) if log_y else {}))
    return figure


def bars(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    reference: Mapping[str, Mapping[str, float]] | None = None,
    label: str = "",
    log_y: bool = False,
    colours: Sequence[str] = SERIES,
    title: str | None = None,
) -> go.Figure:
    """Groups of bars, a dot for each seed, hollow diamonds for published numbers; dots in place of bars on a log axis.

    Args:
        values: By series, then by group: one number per seed.
        reference: Published numbers by series and group.
        label: Title of the y axis.
        log_y: Whether the y axis is logarithmic.
        colours: One per series.
        title: Title above the figure.
    """
    groups = list(dict.fromkeys(group for series in values.values() for group in series))
    figure = go.Figure()
    for place, (name, series) in enumerate(values.items()):
        colour = colours[place % len(colours)]
        shift = (place - (len(values) - 1) / 2) * 0.8 / len(values)
        known = [group for group in groups if group in series]
        where = np.array([groups.index(group) for group in known]) + shift
        means = [float(np.mean(series[group])) for group in known]
        hover = f"%{{customdata}}<br>{name}: %{{y:.4g}}<extra></extra>"
        if log_y:
            add_dots(figure, where, means, name, colour, hover, size=10, customdata=known)
        else:
            style = {"width": 0.72 / len(values), "marker_color": colour, "marker_line_width": 0}
            figure.add_bar(x=where, y=means, name=name, customdata=known, hovertemplate=hover, **style)
        dots = [(x, v) for x, group in zip(where, known, strict=True) for v in series[group] if len(series[group]) > 1]
        shown = bool(dots) and not any(trace.name == "one seed" and trace.showlegend for trace in figure.data)
        more = {"marker_line": {"color": INK, "width": 1.2}, "showlegend": shown}
        add_dots(figure, [x for x, _ in dots], [v for _, v in dots], "one seed", "white", size=6, **more)
        told = {group: v for group, v in (reference or {}).get(name, {}).items() if group in groups}
        if told:
            x = [groups.index(group) + shift for group in told]
            add_dots(figure, x, list(told.values()), "published", INK, **REFERENCE, showlegend=place == 0)
    house(figure, title=title, height=360, top=56)
    figure.update_xaxes(**named_ticks(groups))
    figure.update_yaxes(title_text=label, zeroline=not log_y, zerolinecolor=SOFT, zerolinewidth=1)
    if log_y:
        drawn = np.concatenate([np.asarray(trace.y, float) for trace in figure.data])
        figure.update_yaxes(type="log", **_decades(drawn))
    return figure


def sequence_bars(
    values: Sequence[float],
    tokens: Sequence[str],
    marked: Sequence[bool],
    *,
    label: str,
    reference: Sequence[float] = (),
) -> go.Figure:
    """One bar per token of a sequence, the marked ones dark.

    Args:
        values: A number per token.
        tokens: Their texts.
        marked: Which ones stand out.
        label: Title of the y axis.
        reference: A published number per token.
    """
    where = list(range(len(tokens)))
    figure = go.Figure(
        go.Bar(
            x=where,
            y=list(values),
            marker={"color": [INK if mark else MUTED for mark in marked], "line": {"width": 0}},
            name=label,
            showlegend=False,
            hovertemplate="%{y:.3g}<extra></extra>",
        )
    )
    if reference:
        add_dots(figure, where, list(reference), "published", INK, **REFERENCE)
    house(figure, height=360)
    figure.update_xaxes(**named_ticks(token_labels(tokens)))
    figure.update_yaxes(title_text=label)
    return figure


def attention_map(pattern: np.ndarray, tokens: Sequence[str]) -> go.Figure:
    """One head's attention, from every token (down) to every token (across).

    Args:
        pattern: Weights `[query, key]`.
        tokens: Their texts.
    """
    shown = np.where(np.tril(np.ones_like(pattern)) > 0, pattern, np.nan)
    hover = "from %{y} to %{x}: %{z:.3f}<extra></extra>"
    figure = cells(shown, 0, 1, "attention", hover, [[0, "#ffffff"], [1, INK]], showscale=False)
    house(figure, height=360)
    ticks = named_ticks(token_labels(tokens))
    figure.update_xaxes(**ticks)
    figure.update_yaxes(**ticks, autorange="reversed")
    return figure


def _band(name: str, curve: xr.DataArray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    if set(curve.dims) - {"step", "seed"} or "step" not in curve.dims:
        raise InputError(
            f"The curve {name!r} has dims {tuple(map(str, curve.dims))}; a curve runs over step, or over step and "
            "seed. Choose a layer and head first: record['sink'].isel(layer=0, head=0)."
        )
    curve = curve.where(curve["step"] > 0, drop=True)
    curve = curve if "seed" in curve.dims else curve.expand_dims("seed")
    values = curve.transpose("step", "seed").values
    return curve["step"].values, values.min(1), values.mean(1), values.max(1)


def _decades(values: np.ndarray) -> dict[str, object]:
    """Ticks of a logarithmic axis: powers of ten, or 1, 2 and 5 times them where it spans less than two."""
    known = values[np.isfinite(values) & (values > 0)]
    low, high = np.log10(known.min()), np.log10(known.max())
    every = max(1, round((high - low) / 6))
    powers = np.arange(np.floor(low), np.ceil(high) + 1, every)
    ticks = 10.0**powers if high - low >= 2 else np.outer(10.0**powers, (1, 2, 5)).ravel()
    return {"tickmode": "array", "tickvals": ticks.tolist(), "ticktext": [_power(tick) for tick in ticks]}


def _power(tick: float) -> str:
    power = round(np.log10(tick))
    return f"{tick:,.10g}" if 1e-2 <= tick <= 1e4 else f"10<sup>{power}</sup>"
