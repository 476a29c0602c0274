"""Curves and scatters over contributions: layers, heads against their group, estimates against exact."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench.errors import InputError
from workbench.names import Metric
from workbench.patching import statistics
from workbench.plot.effects import Effects, effects
from workbench.plot.marks import ZERO, add_diagonal, add_dots, add_line, add_spans, colour_bar
from workbench.plot.theme import ACCENT, AGAINST, INK, TOWARDS, house


def layer_sums(result: xr.Dataset, metric: Metric = "logit_ratio", *, title: str | None = None) -> go.Figure:
    """Contributions summed over each layer, in two readings.

    Bars: the mass that pushes towards the behaviour, −Σ min(I, 0). Line: the signed sum Σ I, in which pushes
    for and against cancel.

    Args:
        result: Patching result for unit="head" or unit="kv_group".
        metric: Which score's contributions to sum.
        title: Title above the figure.
    """
    data = effects(result, metric)
    sums = statistics.layer_sums(result).sel(metric=metric) * data.scale
    mass, signed = sums["pro_behaviour"].values, sums["signed"].values
    figure = go.Figure()
    figure.add_bar(
        x=data.layers,
        y=mass,
        name="pull towards the behaviour, \u2212\u03a3 min(I, 0)",
        marker={"color": TOWARDS, "line": {"width": 0}},
        hovertemplate=f"layer %{{x}}<br>pull towards: %{{y:.2f}}{data.suffix}<extra></extra>",
    )
    hover = f"layer %{{x}}<br>signed sum: %{{y:.2f}}{data.suffix}<extra></extra>"
    hollow = {"marker_color": "white", "marker_line": {"color": INK, "width": 1.6}}
    add_line(figure, data.layers, signed, "signed sum, \u03a3 I", INK, hover, width=1.6, size=7, **hollow)
    house(figure, title=title, height=320, top=48)
    figure.update_layout(bargap=0.35)
    step = max(1, -(-len(data.layers) // 16))
    figure.update_xaxes(title_text="Layer", showgrid=False, tickmode="array", tickvals=data.layers[::step])
    figure.update_yaxes(title_text="Sum over the layer" + (" (logits)" if data.suffix == " logits" else " (%)"), **ZERO)
    return figure


def head_vs_group(
    heads: xr.Dataset, groups: xr.Dataset, metric: Metric = "logit_ratio", *, top: int = 8, title: str | None = None
) -> go.Figure:
    """The strongest KV groups: the joint effect beside the strongest single head and the sum of the heads.

    A gap between the joint effect and the strongest head is what a head-by-head search would miss; a gap
    between the joint effect and the sum of the heads is interaction.

    Args:
        heads: Patching result for unit="head".
        groups: Patching result for unit="kv_group", of the same model and prompts.
        metric: Which score's contributions to compare.
        top: How many groups to show, the most negative joint effect first.
        title: Title above the figure.
    """
    rows = compare_groups(heads, groups, metric)[:top]
    data = effects(groups, metric)
    heads_of_rows = [[row["head"]] for row in rows]
    labels = [f"L{row['layer']} · group {row['kv_group']}" for row in rows]
    figure = go.Figure()
    three = [(row["strongest_head"], row["sum_of_heads"], row["group"]) for row in rows]
    add_spans(figure, [(min(values), max(values)) for values in three], labels)
    series = (
        ("strongest_head", "strongest head alone", "circle", AGAINST, "white"),
        ("sum_of_heads", "sum of its heads", "diamond", ACCENT, "white"),
        ("group", "whole group, patched together", "circle", TOWARDS, TOWARDS),
    )
    for key, name, symbol, colour, fill in series:
        which = " (head %{customdata[0]})" if key == "strongest_head" else ""
        hover = f"%{{y}}<br>{name}{which}: %{{x:.2f}}{data.suffix}<extra></extra>"
        more: dict[str, Any] = {"marker_line": {"color": colour, "width": 2}, "customdata": heads_of_rows}
        if key == "group":
            errors = [row["group_error"] for row in rows]
            more["error_x"] = {"type": "data", "array": errors, "color": TOWARDS, "thickness": 1, "width": 3}
        add_dots(figure, [row[key] for row in rows], labels, name, fill, hover, size=10, symbol=symbol, **more)
    house(figure, title=title, height=150 + 34 * max(3, len(rows)), top=48)
    figure.update_xaxes(title_text=data.axis_title, **ZERO)
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category", tickfont_color=INK)
    return figure


def compare_groups(heads: xr.Dataset, groups: xr.Dataset, metric: Metric = "logit_ratio") -> list[dict]:
    """Every KV group with its joint effect, its strongest head and the sum of its heads; most negative first.

    Raises:
        InputError: the two results are not the heads and the groups of one model shape.
    """
    single, joint = effects(heads, metric), effects(groups, metric)
    if single.unit != "head" or joint.unit != "kv_group":
        raise InputError(
            f"expected heads first and KV groups second, got unit {single.unit!r} and {joint.unit!r}. "
            "Pass path_patch(..., unit='head') and path_patch(..., unit='kv_group')."
        )
    expected = (joint.values.shape[0], joint.values.shape[1] * joint.group_size)
    if single.values.shape != expected:
        raise InputError(
            f"the heads are {single.values.shape[0]} layers × {single.values.shape[1]} heads, but the groups "
            f"({joint.values.shape[0]} × {joint.values.shape[1]} of {joint.group_size} heads) need "
            f"{expected[0]} × {expected[1]}. Were both measured on the same model?"
        )
    rows = []
    for row, layer in enumerate(joint.layers):
        for group in range(joint.values.shape[1]):
            first, last = joint.heads_of(group)
            members = single.values[row, first : last + 1]
            best = int(np.argmin(members))
            rows.append(
                {
                    "layer": int(layer),
                    "kv_group": group,
                    "head": first + best,
                    "strongest_head": float(members[best]),
                    "sum_of_heads": float(members.sum()),
                    "group": float(joint.values[row, group]),
                    "group_error": float(joint.high[row, group] - joint.values[row, group]),
                }
            )
    return sorted(rows, key=lambda item: item["group"])


def agreement(
    approximate: xr.Dataset, exact: xr.Dataset, metric: Metric = "logit_diff", *, title: str | None = None
) -> go.Figure:
    """Estimated contributions against exact ones, one point per unit, with the line of equality.

    Args:
        approximate: For instance what attribution_patch gave.
        exact: The exact values of the same units.
        metric: Which score's contributions to compare.
        title: Title above the figure.
    """
    guess, truth = _same_units(approximate, exact, metric)
    close = closeness(approximate, exact, metric)
    layers = np.repeat(truth.layers, truth.values.shape[1])
    units = np.tile(np.arange(truth.values.shape[1]), len(truth.layers))
    figure = go.Figure()
    ends = add_diagonal(figure, "equal", 0.06, truth.values, guess.values)
    word = "head" if truth.unit == "head" else "KV group"
    add_dots(
        figure,
        truth.values.ravel(),
        guess.values.ravel(),
        f"one {word}",
        layers,
        f"layer %{{customdata[0]}}, {word} %{{customdata[1]}}<br>exact %{{x:.3f}}{truth.suffix}"
        f"<br>estimate %{{y:.3f}}{truth.suffix}<extra></extra>",
        marker_colorscale="Cividis",
        marker_line={"color": "white", "width": 0.8},
        marker_colorbar=colour_bar("layer", tick0=int(truth.layers.min()), dtick=max(1, -(-len(truth.layers) // 8))),
        customdata=np.stack([layers, units], axis=1),
        meta={"customdata": ["layer", truth.unit]},
    )
    text = f"r = {float(close['pearson']):.3f}<br>largest error {100 * float(close['worst_error']):.1f}%"
    corner = {"x": 0.02, "y": 0.98, "xref": "x domain", "yref": "y domain", "xanchor": "left", "yanchor": "top"}
    look = {"showarrow": False, "align": "left", "font": {"size": 12, "color": INK}}
    figure.add_annotation(text=text, **corner, **look, bgcolor="rgba(255,255,255,0.85)")
    house(figure, title=title, height=400)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title_text="Exact " + truth.axis_title.lower(), range=ends)
    figure.update_yaxes(title_text="Estimated " + truth.axis_title.lower(), range=ends)
    return figure


def closeness(approximate: xr.Dataset, exact: xr.Dataset, metric: Metric = "logit_diff") -> xr.Dataset:
    """The statistics of `agreement` for one score; at least one unit counts as the top."""
    n_units = effects(exact, metric).values.size
    return statistics.compare_estimates(approximate, exact, ratio=max(0.04, 1 / n_units)).sel(metric=metric)


def _same_units(approximate: xr.Dataset, exact: xr.Dataset, metric: Metric) -> tuple[Effects, Effects]:
    guess, truth = effects(approximate, metric), effects(exact, metric)
    if guess.unit != truth.unit or guess.values.shape != truth.values.shape:
        raise InputError(
            f"the estimate covers {guess.values.shape} layers × {guess.unit}, the exact result "
            f"{truth.values.shape} layers × {truth.unit}. Measure both with the same model and unit."
        )
    return guess, truth
