"""Strip plots of single observations with their median: training runs by kind, examples by condition."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from workbench.errors import InputError
from workbench.plot.marks import add_dots, add_line, named_ticks
from workbench.plot.theme import AGAINST, INK, SERIES, TOWARDS, house


def distribution(runs: xr.Dataset, variable: str, *, by: str = "kind", title: str | None = None) -> go.Figure:
    """One dot per training run, in columns by kind of model, with the median as a bar.

    Args:
        runs: Dataset with a dimension `run`, the variable, and a coordinate or variable named as `by`.
        variable: What to show on the y axis.
        by: Which coordinate makes the columns. Runs for which a coordinate `shipped` is true get a ring.
        title: Title above the figure.

    Raises:
        InputError: the Dataset has no dimension `run`, or lacks `variable` or `by`.
    """
    missing = [name for name in (variable, by) if name not in runs]
    if "run" not in runs.dims or missing:
        raise InputError(
            f"distribution needs a Dataset with a dimension 'run' and the names {variable!r} and {by!r}; "
            f"this one has dims {', '.join(map(str, runs.dims))} and names "
            f"{', '.join(map(str, runs.variables))}."
        )
    kinds = runs[by].values.astype(str)
    values = runs[variable].values.astype(float)
    seeds = runs["seed"].values if "seed" in runs else np.arange(len(values))
    figure = go.Figure()
    for index, kind in enumerate(dict.fromkeys(kinds)):
        mine = kinds == kind
        spread = np.linspace(-0.12, 0.12, mine.sum()) if mine.sum() > 1 else np.zeros(1)
        colour = SERIES[index % len(SERIES)]
        hover = f"{kind}, seed %{{customdata[0]}}<br>%{{y:.3g}}<extra></extra>"
        told = {"customdata": np.asarray(seeds)[mine][:, None], "showlegend": False}
        rings = _rings(runs, mine)
        add_dots(figure, index + spread, values[mine], kind, colour, hover, size=10, marker_line=rings, **told)
        middle, hover = float(np.median(values[mine])), f"median {np.median(values[mine]):.3g}<extra></extra>"
        ends = [index - 0.25, index + 0.25]
        add_line(figure, ends, [middle, middle], f"{kind} median", INK, hover, showlegend=False)
    house(figure, title=title, height=340)
    names = list(dict.fromkeys(kinds))
    figure.update_xaxes(**named_ticks(names), tickfont_color=INK, range=[-0.6, len(names) - 0.4])
    figure.update_yaxes(title_text=variable)
    return figure


def _rings(runs: xr.Dataset, mine: np.ndarray) -> dict:
    """A dark ring around the runs that are marked as shipped, a white one around the others."""
    marked = runs["shipped"].values[mine] if "shipped" in runs else np.zeros(int(mine.sum()), dtype=bool)
    return {"color": [INK if ring else "white" for ring in marked], "width": [2.5 if ring else 1 for ring in marked]}


def behaviour(result: xr.Dataset, *, title: str | None = None) -> go.Figure:
    """Probability of the behaviour's answer per example, after the objection and after the confirmation.

    Args:
        result: Patching result with `base` and `source` of the metric "prob".
        title: Title above the figure.

    Raises:
        InputError: the result lacks `base` or `source`, or the metric "prob".
    """
    if "base" not in result or "source" not in result or "prob" not in np.atleast_1d(result["metric"].values):
        raise InputError(
            "behaviour needs the variables 'base' and 'source' with the metric 'prob'. "
            "Patch with metrics=(..., 'prob')."
        )
    figure = go.Figure()
    rows = (("after an objection", "base", TOWARDS), ("after a confirmation", "source", AGAINST))
    rng = np.random.default_rng(0)
    for index, (name, variable, colour) in enumerate(rows):
        values = result[variable].sel(metric="prob").values.astype(float) * 100
        heights, edge = index + rng.uniform(-0.16, 0.16, len(values)), {"color": "white", "width": 0.6}
        hover = f"{name}: %{{x:.1f}}%<extra></extra>"
        add_dots(figure, values, heights, name, colour, hover, marker_opacity=0.55, marker_line=edge)
        mean, ends = float(values.mean()), [index - 0.3, index + 0.3]
        hover = f"mean {mean:.1f}%<extra></extra>"
        add_line(figure, [mean, mean], ends, f"{name}, mean", INK, hover, width=2.5)
    house(figure, title=title, height=210)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title_text="Probability of giving in (%)", range=[-3, 103])
    figure.update_yaxes(**named_ticks([row[0] for row in rows]), range=[1.5, -0.5], tickfont_color=INK)
    return figure
