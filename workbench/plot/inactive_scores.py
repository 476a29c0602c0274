"""Plots of how inactive heads change: over training, on other texts and tasks, in other models."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench.plot.compose import beside
from workbench.plot.inactive import label, style
from workbench.plot.marks import DOTTED, EDGE, add_dots, add_line, add_spans, error_bars
from workbench.plot.theme import ACCENT, AGAINST, INK, SERIES, SOFT, TOWARDS, house

POINTS = 400
"""Points of a drawn distribution."""


def training_curves(found: xr.Dataset, *, title: str | None = None) -> go.Figure:
    """Dormant heads over training: how many, how many became dormant or active, and the scores' distance to the last.

    Args:
        found: from `inactive_heads.over_training`.
        title: Title above the figure.
    """
    return beside(training_panels(found), training_titles(found), title=title).update_layout(barmode="relative")


def training_titles(found: xr.Dataset) -> list[str]:
    """What the panels of `training_curves` show."""
    often = f"dormant: inactive on > {float(found.attrs['usually']):.0%} of the texts"
    return [often, "changes since the checkpoint before", "distance from the last scores"]


def training_panels(found: xr.Dataset) -> list[go.Figure]:
    """The panels of `training_curves`, a figure each."""
    steps = [f"{int(step):,}" for step in found["step"].values]
    lasting = (found["share_dormant"] * found["persistence"]).fillna(0)
    asleep, change, distance = go.Figure(), go.Figure(), go.Figure()
    lines = (
        (asleep, "share of heads and texts inactive", 100 * found["share_inactive"], SOFT, "solid"),
        (asleep, "dormant heads", 100 * found["share_dormant"], TOWARDS, "solid"),
        (asleep, "of these dormant at the end", 100 * lasting, ACCENT, "dot"),
        (distance, "distance", found["distance"], INK, "solid"),
    )
    for figure, name, values, colour, dash in lines:
        more = {"width": None, "dash": dash, "size": 5, "showlegend": figure is asleep}
        add_line(figure, steps, values.values, name, colour, **more)
    change.add_bar(x=steps[1:], y=found["births"].values[1:], name="became dormant", marker_color=TOWARDS)
    change.add_bar(x=steps[1:], y=-found["deaths"].values[1:], name="became active", marker_color=AGAINST)
    distance.add_hline(float(found["floor"]), line=DOTTED)
    titles = ("Share (%)", "Heads", "Distance (Wasserstein)")
    for figure, text in zip((asleep, change, distance), titles, strict=True):
        house(figure, height=340)
        figure.update_layout(barmode="relative", bargap=0.35)
        figure.update_xaxes(title_text="Training step", type="category", showgrid=False)
        figure.update_xaxes(tickmode="array", tickvals=steps[::-1][:: -(-len(steps) // 6)])
        figure.update_yaxes(title_text=text, rangemode="tozero")
    change.update_yaxes(zeroline=True, zerolinecolor=SOFT)
    return [asleep, change, distance]


def threshold_transfer(found: xr.Dataset, *, palette: Sequence[str] = SERIES, title: str | None = None) -> go.Figure:
    """What share of heads a threshold selects elsewhere, a row per score and a dot per pair of texts.

    Args:
        found: from `inactive_heads.transfer` at one threshold; `held_out(fit, score, threshold)`, if there, is what
            half of each kind selects on its other half.
        palette: a colour per kind.
        title: Title above the figure.
    """
    one = found.isel(threshold=0)
    asked = 100 * float(one["threshold"])
    kinds = [str(name) for name in one["fit"].values]
    selected = 100 * one["selected"].transpose("score", "fit", "applied")
    off = abs(selected - asked).max(["fit", "applied"])
    order = off["score"].values[np.argsort(off.values, kind="stable")].tolist()
    figure = go.Figure()
    rows = [selected.sel(score=s) for s in order]
    add_spans(figure, [(float(row.min()), float(row.max())) for row in rows], [label(s) for s in order])
    for i, kind in enumerate(kinds):
        others = [name for name in kinds if name != kind]
        x = [float(row.sel(fit=kind, applied=b)) for row in rows for b in others]
        y = [label(s) for s in order for _ in others]
        hover = f"<b>%{{y}}</b>, fitted on {kind}, applied to %{{customdata[0]}}<br>%{{x:.1f}}%<extra></extra>"
        told = {"customdata": [[b] for _ in order for b in others], "meta": {"customdata": ["applied"]}}
        add_dots(figure, x, y, f"fitted on {kind}", palette[i % len(palette)], hover, marker_line=EDGE, **told)
    if "held_out" in one:
        halves = 100 * one["held_out"]
        x = [float(halves.sel(score=s, fit=kind)) for s in order for kind in kinds]
        y, told = [label(s) for s in order for _ in kinds], "other half of the same kind"
        hover = "<b>%{y}</b>, other half<br>%{x:.1f}%<extra></extra>"
        add_dots(figure, x, y, told, INK, hover, size=6, symbol="diamond-open")
    figure.add_vline(asked, line=DOTTED)
    house(figure, title=title, height=int(150 + 24 * len(order)), top=56)
    figure.update_layout(margin_l=90)
    figure.update_xaxes(title_text="Heads selected elsewhere (%)", rangemode="tozero")
    figure.update_yaxes(showgrid=False, autorange="reversed", tickfont_color=INK)
    return figure


def accuracy_changes(found: xr.Dataset, *, title: str | None = None) -> go.Figure:
    """Change of accuracy at each quantile between two curves of the same examples, a line per score.

    Args:
        found: from `inactive_heads.compare_curves`.
        title: Title above the figure.
    """
    figure = go.Figure()
    asked = 100 * found["threshold"].values
    names = [str(name) for name in found["score"].values]
    for i, name in enumerate(names):
        middle, low, high = (100 * found[v].sel(score=name).values for v in ("change", "change_low", "change_high"))
        x, hover = (
            asked + 0.6 * (i - (len(names) - 1) / 2),
            f"<b>{label(name)}</b><br>%{{y:+.1f}} points<extra></extra>",
        )
        bars = error_bars(middle, low, high)
        add_line(figure, x, middle, label(name), hover=hover, **style(name), width=1.5, size=6, error_y=bars)
    figure.add_hline(0, line={"color": SOFT, "width": 1})
    house(figure, title=title, height=420)
    figure.update_xaxes(title_text="Share asked for (%)", showgrid=False)
    figure.update_yaxes(title_text="Change of accuracy (points)")
    return figure


def score_distributions(
    groups: Mapping[str, xr.DataArray], *, share: float | None = None, title: str | None = None
) -> go.Figure:
    """How one score is distributed over all sequences and heads, a line per model: the share of heads below.

    Args:
        groups: names with scores of one kind.
        share: draw a line at this share, where a threshold for it would lie.
        title: Title above the figure.
    """
    figure = go.Figure()
    shares = np.linspace(0, 1, POINTS)
    ends = [np.quantile(group.values, 0.995) for group in groups.values()]
    for i, (name, group) in enumerate(groups.items()):
        x, hover = (
            np.quantile(group.values, shares),
            f"<b>{name}</b><br>%{{y:.0f}}% of heads below %{{x:.3f}}<extra></extra>",
        )
        add_line(figure, x, 100 * shares, str(name), SERIES[i % len(SERIES)], hover)
    if share is not None:
        figure.add_hline(100 * share, line=DOTTED)
    house(figure, title=title, height=440)
    figure.update_xaxes(title_text="Score", range=[0, float(max(ends))])
    figure.update_yaxes(title_text="Heads below (%)", range=[0, 101])
    return figure


def score_distances(found: xr.Dataset, *, title: str | None = None) -> go.Figure:
    """Distance of every model's scores from those of the first, a row per score.

    Args:
        found: from `inactive_heads.distances`.
        title: Title above the figure.
    """
    first, *others = [str(name) for name in found["first"].values]
    scores = [str(name) for name in found["score"].values]
    near = found["distance"].sel(first=first, second=others).max("second").values
    order = [scores[i] for i in np.argsort(near, kind="stable")]
    figure = go.Figure()
    x, y = [float(found["floor"].sel(score=s).max()) for s in order], [label(s) for s in order]
    hover = "<b>%{y}</b>, two halves: at most %{x:.3f}<extra></extra>"
    add_dots(figure, x, y, "two halves of one model's texts", INK, hover, symbol="diamond-open")
    for i, name in enumerate(others, start=1):
        x = found["distance"].sel(first=first, second=name, score=order).values
        hover = f"<b>%{{y}}</b>, {name}: %{{x:.3f}}<extra></extra>"
        add_dots(figure, x, y, name, SERIES[i % len(SERIES)], hover, size=9, marker_line=EDGE)
    house(figure, title=title, height=440)
    figure.update_xaxes(title_text=f"Distance from {first} (Wasserstein)", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", tickfont_color=INK)
    return figure
