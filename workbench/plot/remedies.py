"""Table and plot of what each remedy against extreme tokens costs and reduces.

Both read a Dataset of `workbench.extreme.compare_remedies`, with or without the rows that `add_rows` appended. Numbers
of several domains are given one by one for the loss, and as their mean for the rest.
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from workbench.errors import InputError, suggest
from workbench.plot.marks import ZERO, add_dots, error_bars
from workbench.plot.tables import table
from workbench.plot.theme import OTHERS, SERIES, house

MISSING = "–"
LOSS = ("loss_change", "loss_change_low", "loss_change_high")
COLUMNS = {"sink_rate": "Sink rate", "peak_ratio": "Peak ratio", "drain_ratio": "Drain ratio"}


def remedy_table(result: xr.Dataset, *, schemes: list[str] | None = None, title: str | None = None) -> go.Figure:
    """One row per remedy: loss by domain, extremes, and what rounding adds to the loss.

    Args:
        result: From `workbench.extreme.compare_remedies`.
        schemes: Roundings to show; all by default.
        title: Title above the table.
    """
    columns: dict[str, list[object]] = {"Remedy": [str(name) for name in result["remedy"].values]}
    for domain in result["domain"].values:
        of_domain = result.sel(domain=domain)
        columns[f"Loss, {domain}"] = [
            _with_interval(*row) for row in zip(*(of_domain[name].values for name in LOSS), strict=True)
        ]
    for name, label in COLUMNS.items():
        columns[label] = [_number(value, 2) for value in result[name].mean("domain").values]
    for scheme in _schemes(result, schemes):
        added = result["quantized_loss_change"].sel(scheme=scheme).mean("domain")
        columns[f"{scheme} adds"] = [_number(value, 3, sign=True) for value in added.values]
    return table(columns, title=title)


def remedy_effects(result: xr.Dataset, *, schemes: list[str] | None = None, title: str | None = None) -> go.Figure:
    """Four panels over the same rows: change of loss with intervals, sink rate, peak ratio, and what rounding adds.

    Args:
        result: From `workbench.extreme.compare_remedies`.
        schemes: Roundings to show; those of 8-bit activations by default.
        title: Title above the panels.
    """
    names = [str(name) for name in result["remedy"].values]
    shown = _schemes(result, schemes)
    shown = [name for name in shown if "A8" in name] or shown if schemes is None else shown
    headings = ["Change of loss (nats)", "Sink rate", "Peak ratio"] + ["Loss added by<br>rounding (nats)"] * bool(shown)
    figure = make_subplots(
        rows=1, cols=len(headings), shared_yaxes=True, subplot_titles=headings, horizontal_spacing=0.035
    )
    inner, top = 30 * len(names) + 10, 142 if title else 100
    house(figure, title=title, height=inner + top + 46)
    for i, domain in enumerate(result["domain"].values):
        color = SERIES[i % len(SERIES)]
        of_domain = result.sel(domain=domain)
        for column, name in enumerate(("loss_change", "sink_rate", "peak_ratio"), 1):
            bars = _bars(of_domain) if name == "loss_change" else None
            place = {"row": 1, "col": column, "showlegend": column == 1, "error_x": bars}
            _dots(figure, of_domain[name].values, names, str(domain), color, **place)
    for i, scheme in enumerate(shown):
        added = result["quantized_loss_change"].sel(scheme=scheme).mean("domain").values
        color = OTHERS[i % len(OTHERS)]
        _dots(figure, added, names, scheme, color, row=1, col=4, showlegend=True, symbol="diamond")
    for note in figure.layout.annotations:
        note.update(font={"size": 13}, yshift=6)
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=names)
    figure.update_xaxes(**ZERO, col=1)
    figure.update_xaxes(range=[0, 1], col=2)
    figure.update_xaxes(type="log", dtick=1, col=3)
    figure.update_layout(margin={"l": 190, "t": top, "b": 46}, legend_y=1 + 48 / inner)
    return figure


def _dots(figure: go.Figure, values: np.ndarray, names: list[str], label: str, color: str, **more: Any) -> None:
    hover = f"<b>%{{y}}</b><br>{label}: %{{x:.3f}}<extra></extra>"
    add_dots(figure, values, names, label, color, hover, legendgroup=label, **more)


def _bars(of_domain: xr.Dataset) -> dict[str, object]:
    mean, low, high = (of_domain[name].values for name in LOSS)
    return error_bars(mean, np.minimum(low, mean), np.maximum(high, mean), 1.2)


def _with_interval(value: float, low: float, high: float) -> str:
    if not np.isfinite(value):
        return MISSING
    interval = f" [{low:+.2f}, {high:+.2f}]" if np.isfinite(low) and high > low else ""
    return f"{value:+.3f}{interval}"


def _number(value: float, digits: int, sign: bool = False) -> str:
    return f"{value:{'+' if sign else ''}.{digits}f}" if np.isfinite(value) else MISSING


def _schemes(result: xr.Dataset, schemes: list[str] | None) -> list[str]:
    known = [str(name) for name in result["scheme"].values] if "quantized_loss_change" in result else []
    unknown = [name for name in schemes or () if name not in known]
    if unknown:
        raise InputError(f"No rounding {unknown[0]!r} in this result; {suggest(unknown[0], known)}")
    return known if schemes is None else list(schemes)
