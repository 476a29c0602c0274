"""Plots of inactive heads: accuracy curves, ranks of the scores, frequencies and overlaps.

A score keeps its colour in all of them; random baselines are dark and dotted.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench.errors import InputError
from workbench.plot.compose import beside
from workbench.plot.heatmaps import layer_by_head
from workbench.plot.marks import DOTTED, EDGE, ZERO, add_dots, add_line, cells, colour_bar, error_bars
from workbench.plot.theme import ACCENT, AGAINST, INK, RULE, SEQUENTIAL, SERIES, SMALL, SOFT, TOWARDS, house

COLOURS = {
    "AHON": TOWARDS,
    "AWFT": AGAINST,
    "LTHON": ACCENT,
    "FTVVN": SERIES[3],
    "AVVN": SERIES[4],
    "AEQD": "#3f8f8a",
    "FHON": "#e3a6c0",
    "Random": INK,
}
SYMBOLS = {"Random": "diamond-open"}
WORDS = {"Random": "random", "Random_by_layer": "random, each layer's share"}


def label(score: str) -> str:
    """A score's name as the paper writes it."""
    for ending in ("LN", "HN"):
        if score.endswith(f"_{ending}"):
            return f"{score[: -len(ending) - 1]} ({ending})"
    return WORDS.get(score, score)


def accuracy_curves(
    curves: xr.Dataset,
    *,
    scores: Sequence[str] | None = None,
    loss: float = 0.01,
    interval: bool = True,
    title: str | None = None,
) -> go.Figure:
    """Accuracy against the realised share of zeroed heads, with the baseline and the line `loss` below it.

    Args:
        curves: from `ablation_curve`, or one model of `published()`.
        scores: which to draw; by default the three of the largest area and the random baselines.
        loss: how far below the baseline the dashed line lies.
        interval: show 95 % intervals where the Dataset has them.
        title: Title above the figure.

    Raises:
        InputError: a score that was not measured.
    """
    drawn = leading(curves) if scores is None else list(scores)
    unknown = [name for name in drawn if name not in curves["score"].values]
    if unknown:
        raise InputError(f"{unknown[0]!r} was not measured; the curves hold {', '.join(curves['score'].values)}.")
    figure = go.Figure()
    for name in drawn:
        one = curves.sel(score=name)
        order = np.argsort(one["share"].values, kind="stable")
        x, y = 100 * one["share"].values[order], 100 * one["accuracy"].values[order]
        error = None
        if interval and "accuracy_low" in one:
            low, high = (100 * one[f"accuracy_{end}"].values[order] for end in ("low", "high"))
            error = error_bars(y, low, high)
        hover = f"<b>{label(name)}</b><br>%{{x:.1f}}% of heads zeroed<br>accuracy %{{y:.1f}}%<extra></extra>"
        add_line(figure, x, y, label(name), hover=hover, **style(name), width=1.8, size=6, error_y=error)
    baseline = 100 * float(curves["baseline"])
    figure.add_hline(baseline, line={"color": SOFT, "width": 1})
    figure.add_hline(baseline - 100 * loss, line=DOTTED)
    house(figure, title=title, height=420, top=78)
    figure.update_xaxes(title_text="Heads zeroed (% of all)", rangemode="tozero")
    figure.update_yaxes(title_text="Accuracy (%)")
    return figure


def style(score: str) -> dict[str, str]:
    """A score's colour; solid for normalised scores, dashed for raw ones, dotted for random choice."""
    dashes = {"Random": "dot", "Random_by_layer": "dashdot"}
    dash = dashes.get(score, "solid" if "_" in score else "dash")
    return {"colour": COLOURS.get(score.split("_")[0], SOFT), "dash": dash}


def leading(curves: xr.Dataset) -> list[str]:
    """The three scores of the largest area, and the random baselines."""
    from workbench.inactive_heads.summary import auc

    share, accuracy = (curves[v].transpose("score", "threshold").values for v in ("share", "accuracy"))
    areas = {s: auc(x, y) for s, x, y in zip(curves["score"].values.tolist(), share, accuracy, strict=True)}
    ranked = sorted((s for s in areas if not s.startswith("Random")), key=lambda s: -areas[s])
    return [*ranked[:3], *(s for s in areas if s.startswith("Random"))]


def auc_ranks(ranks: xr.DataArray, *, own: Sequence[str] = (), title: str | None = None) -> go.Figure:
    """Ranks of the scores in each model, 1 the largest area: the paper's models, and one's own in bold below.

    Args:
        ranks: (model, score); NaN where a score has none, which is drawn as a dash on grey.
        own: models to set off.
        title: Title above the figure.
    """
    order = ranks.mean("model").sortby(ranks.mean("model"))["score"].values
    table = ranks.sel(score=order).transpose("model", "score")
    values = table.values
    rows = [f"<b>{m}</b>" if m in own else str(m) for m in table["model"].values]
    figure = cells(
        values,
        low=1,
        high=float(np.nanmax(values)),
        name="rank",
        hover="<b>%{y}</b><br>%{x}: rank %{z:g}<extra></extra>",
        colours=[[1 - float(p), c] for p, c in reversed(SEQUENTIAL)],
        x=[label(str(s)) for s in order],
        y=rows,
        text=[["" if np.isnan(v) else f"{v:g}" for v in row] for row in values],
        texttemplate="%{text}",
        textfont={"size": SMALL},
        showscale=False,
    )
    if np.isnan(values).any():
        figure.add_heatmap(
            z=np.where(np.isnan(values), 0, np.nan),
            x=figure.data[0].x,
            y=rows,
            name="no rank",
            colorscale=[[0, RULE], [1, RULE]],
            text=[["–" if np.isnan(v) else "" for v in row] for row in values],
            texttemplate="%{text}",
            hovertemplate="<b>%{y}</b><br>%{x}: no rank<extra></extra>",
            xgap=1,
            ygap=1,
            showscale=False,
        )
    house(figure, title=title, height=int(150 + 24 * len(rows)), top=104)
    figure.update_xaxes(showgrid=False, side="top", tickangle=-40)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    return figure.update_layout(margin_l=190)


def losses_at(found: xr.Dataset, *, own: Sequence[str] = (), title: str | None = None) -> go.Figure:
    """Points of accuracy that models lose where one share of their heads is zeroed, a row per model.

    Args:
        found: from `inactive_heads.loss_at`, joined along `model`; the rows follow the first score.
        own: models to set off, in bold at the top.
        title: Title above the figure.
    """
    names = [str(name) for name in found["model"].values]
    first = dict(zip(names, found["lost"].isel(score=0).values.tolist(), strict=True))
    order = sorted(names, key=lambda name: (name not in own, first[name]))
    table = found.sel(model=order).transpose("score", "model")
    rows = [f"<b>{name}</b>" if name in own else name for name in order]
    figure = go.Figure()
    for name in table["score"].values.tolist():
        values, low, high = (100 * table[f"lost{end}"].sel(score=name).values for end in ("", "_low", "_high"))
        figure.add_scatter(
            x=values,
            y=rows,
            error_x=error_bars(values, low, high, thickness=1.5),
            mode="markers",
            name=label(name),
            marker={"size": 8, "color": COLOURS.get(name.split("_")[0], SOFT), "symbol": SYMBOLS.get(name, "circle")},
            hovertemplate=f"<b>%{{y}}</b><br>{label(name)}: %{{x:.1f}} points lost<extra></extra>",
        )
    figure.add_vline(100 * found.attrs["within"], line=DOTTED)
    house(figure, title=title, height=130 + 24 * len(rows))
    share, within = 100 * found.attrs["share"], 100 * found.attrs["within"]
    figure.update_xaxes(
        title_text=f"Points of accuracy lost, {share:g}% of heads zeroed (dashed line: {within:g})", **ZERO
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(margin={"t": 84 if title else 40, "l": 190})
    return figure


def frequency_map(frequency: xr.DataArray, group_size: int = 1, *, title: str | None = None) -> go.Figure:
    """How often each head is inactive: heads across, layers down.

    Args:
        frequency: (layer, head), from `inactive_heads.frequency` of one score.
        group_size: query heads per KV head.
        title: Title above the map.
    """
    values = frequency.transpose("layer", "head").values
    return layer_by_head(values, group_size, end=1.0, label="share of texts", title=title)


def domain_maps(found: xr.Dataset, *, title: str | None = None) -> go.Figure:
    """Frequencies on each kind of text beside each other; crosses mark heads that differ from the first kind.

    Args:
        found: from `inactive_heads.by_domain`.
        title: Title above the maps.
    """
    names = [str(name) for name in found["domain"].values]
    return beside(domain_cells(found), names, title=title, gap=0.3 / len(names))


def domain_cells(found: xr.Dataset) -> list[go.Figure]:
    """The maps of `domain_maps`, one figure per kind of text."""
    names = [str(name) for name in found["domain"].values]
    maps = []
    for i, name in enumerate(names):
        one = frequency_map(found["frequency"].sel(domain=name), int(found.attrs.get("group_size", 1)))
        one.data[0].showscale = i == len(names) - 1
        pair = f"{names[0]} − {name}"
        if pair in found["pair"].values:
            differs = found["p_corrected"].sel(pair=pair).transpose("layer", "head").values < 0.05
            rows, columns = np.nonzero(differs)
            told = f"differs from {names[0]} (p < 0.05 over all heads)"
            add_dots(one, columns, rows, told, TOWARDS, symbol="x", marker_line=EDGE, hoverinfo="skip")
        maps.append(one)
    return maps


def score_overlap(
    found: xr.Dataset, measure: str = "iou", *, numbers: bool = True, title: str | None = None
) -> go.Figure:
    """How far two scores select the same heads, for all pairs.

    Args:
        found: from `inactive_heads.overlap`.
        measure: "iou" or "precision" (of the score in the row).
        numbers: write them into the cells, for which a single map has room; else a colour bar tells them.
        title: Title above the figure.
    """
    if measure not in ("iou", "precision"):
        raise InputError(f"measure={measure!r} must be 'iou' or 'precision'.")
    values = found[measure].transpose("score", "other").values
    names = [label(str(s)) for s in found["score"].values]
    figure = cells(
        values,
        low=0,
        high=1,
        name=measure,
        hover=f"%{{y}} and %{{x}}<br>{measure} %{{z:.3f}}<extra></extra>",
        x=names,
        y=names,
        text=[[f"{v:.2f}".lstrip("0") if np.isfinite(v) else "" for v in row] for row in values],
        texttemplate="%{text}" if numbers else None,
        textfont={"size": SMALL},
        showscale=not numbers,
        colorbar=colour_bar(thickness=12),
    )
    house(figure, title=title, height=int(170 + 26 * len(names)), top=104)
    figure.update_xaxes(showgrid=False, side="top", tickangle=-40, tickmode="array", tickvals=names)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    return figure.update_layout(margin_l=90)
