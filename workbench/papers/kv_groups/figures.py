"""Group-level path patching of sycophancy: the paper's figures and table as named recipes.

1. `contribution-heatmap` (figure 3): layer by head contributions, with the KV groups' borders, by head and
   by group.
2. `layer-sums` (figure 4): contributions summed over each layer, as pull towards the behaviour and as signed
   sum.
3. `kurtosis-table` (table 1): how concentrated the head contributions are, and whether KV groups matter.
4. `head-vs-group`: the joint effect of the strongest groups beside their single heads.
5. `agreement`: the gradient estimate against exact values.

Each takes what was measured on one or more models, which stand side by side, and gives the figure and a
sentence about it. The paper is the KV-group intervention by Hara, Yoshimaru and Hatano (2026, in Japanese).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.errors import InputError
from workbench.names import Metric
from workbench.papers import sentences
from workbench.papers.measured import Measured
from workbench.papers.redraw import measure_all
from workbench.papers.requests import Drawn, FigureRequest
from workbench.patching import statistics
from workbench.plot import compose, curves, heatmaps, tables
from workbench.plot.effects import METRIC_NAMES, number

TOP_RATIO = 0.04


@dataclass(frozen=True)
class PatchingFigure:
    """How one figure of the paper is drawn, and what has to be measured for it."""

    name: str
    needs: tuple[str, ...]
    draw: Callable[[Sequence[Measured], Metric], Drawn]
    models: tuple[str, ...] = ("organism-gqa", "organism-mha")

    def steps(self, request: FigureRequest) -> int:
        """A step per model and measured part, and one for drawing."""
        return len(request.models) * len(self.needs) + 1

    def make(self, request: FigureRequest) -> Drawn:
        """Measure what the figure needs of each model, or read it, and draw."""
        measured = measure_all(
            request.models,
            request.folder,
            n=request.n,
            seed=request.seed,
            questions=request.questions,
            parts=self.needs,
            step=request.step,
        )
        request.step("drawing")
        return self(measured, request.metric)

    def __call__(self, measured: Sequence[Measured], metric: Metric | None = None) -> Drawn:
        """Draw the figure.

        Args:
            measured: One or more models.
            metric: The score; None takes the logit ratio where it is sound, else the logit difference.
        """
        if not measured:
            raise InputError(f"{self.name} needs at least one model.")
        for one in measured:
            one.need(*self.needs)
        first = [getattr(one, self.needs[0]) for one in measured]
        drawn = self.draw(measured, metric or sentences.lead_metric(first))
        drawn.figure.update_layout(
            meta={
                "figure": self.name,
                "sentence": drawn.sentence,
                "models": [one.provenance(self.needs[0]) for one in measured],
            }
        )
        return drawn


def contribution_heatmap(measured: Sequence[Measured], metric: Metric) -> Drawn:
    """Heat maps by head in the upper row and by KV group in the lower one, a column per model."""
    figure = compose.grid(
        [
            [heatmaps.heatmap(one.heads, metric) for one in measured],
            [heatmaps.heatmap(one.groups, metric) for one in measured],
        ],
        [[f"{one.name}, each head" for one in measured], [f"{one.name}, each KV group" for one in measured]],
        title=f"Contribution to giving in ({METRIC_NAMES[metric]})",
    )
    return Drawn(figure, _per_model(measured, lambda one: sentences.strongest_line(one.groups, metric)))


def layer_sums(measured: Sequence[Measured], metric: Metric) -> Drawn:
    """Contributions of the heads summed over each layer, a column per model."""
    figure = compose.beside(
        [curves.layer_sums(one.heads, metric) for one in measured],
        [one.name for one in measured],
        title=f"Contribution by layer ({METRIC_NAMES[metric]})",
    )
    return Drawn(figure, _per_model(measured, lambda one: sentences.layers_line(one.heads, metric)))


def kurtosis_columns(measured: Sequence[Measured]) -> dict[str, list]:
    """The concentration table, a row per model and score.

    The top mass is the share of all negative contribution in the most negative 4% of the heads; the variance
    share is the part of the variance over heads that lies inside KV groups, with its permutation p.
    """
    rows = []
    for one in measured:
        shape = statistics.kurtosis(one.heads)
        top = statistics.top_mass(one.heads, max(TOP_RATIO, 1 / int(shape.attrs["n_units"])))
        inside = statistics.within_group_variance(one.heads)
        for metric in ("logit_ratio", "logit_diff"):
            if metric not in one.heads["metric"].values:
                continue
            k, p = shape.sel(metric=metric), float(inside["p_value"].sel(metric=metric))
            interval = f"{number(float(k['pearson_low']))} to {number(float(k['pearson_high']))}"
            share = float(inside["within_share"].sel(metric=metric))
            rows.append(
                {
                    "Model": one.name,
                    "Score": METRIC_NAMES[metric],
                    "Heads": int(shape.attrs["n_units"]),
                    "Kurtosis (Fisher)": number(float(k["fisher"])),
                    "Kurtosis (Pearson)": number(float(k["pearson"])),
                    "95% interval (Pearson)": interval,
                    "Largest possible": number(float(shape.attrs["largest_possible_pearson"])),
                    "Top 4% mass": f"{float(top.sel(metric=metric)):.0%}",
                    "Variance inside groups": f"{share:.0%}" if np.isfinite(share) else "one head per group",
                    "Permutation p": f"{p:.3f}" if np.isfinite(p) else "\u2013",
                }
            )
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def kurtosis_table(measured: Sequence[Measured], metric: Metric) -> Drawn:
    """How concentrated the head contributions are in each model."""
    columns = kurtosis_columns(measured)
    if not columns:
        raise InputError("the kurtosis table needs the metrics logit_ratio or logit_diff, and neither was measured.")
    figure = tables.table(columns, title="Concentration of the head contributions")
    names = [one.name for one in measured]
    return Drawn(figure, sentences.concentration_line([one.heads for one in measured], names, metric))


def head_vs_group(measured: Sequence[Measured], metric: Metric) -> Drawn:
    """The strongest groups, patched whole and head by head, a column per model."""
    figure = compose.beside(
        [curves.head_vs_group(one.heads, one.groups, metric) for one in measured],
        [one.name for one in measured],
        title=f"Whole groups and single heads ({METRIC_NAMES[metric]})",
        gap=0.16,
    )
    return Drawn(figure, _per_model(measured, lambda one: sentences.head_group_line(one.heads, one.groups, metric)))


def agreement(measured: Sequence[Measured], metric: Metric) -> Drawn:
    """Gradient estimates against exact values of the same units, a column per model."""
    figure = compose.beside(
        [curves.agreement(one.estimate, one.exact, metric) for one in measured],
        [one.name for one in measured],
        title=f"Attribution patching against exact patching ({METRIC_NAMES[metric]})",
    )
    return Drawn(figure, _per_model(measured, lambda one: sentences.agreement_line(one.estimate, one.exact, metric)))


def _per_model(measured: Sequence[Measured], line: Callable[[Measured], str]) -> str:
    if len(measured) == 1:
        return line(measured[0])
    return " ".join(f"{one.name}: {line(one)}" for one in measured)


RECIPES = (
    PatchingFigure(
        "sycophancy/contribution-heatmap",
        ("heads", "groups"),
        contribution_heatmap,
    ),
    PatchingFigure("sycophancy/layer-sums", ("heads",), layer_sums),
    PatchingFigure("sycophancy/kurtosis-table", ("heads",), kurtosis_table),
    PatchingFigure("sycophancy/head-vs-group", ("heads", "groups"), head_vs_group),
    PatchingFigure("sycophancy/agreement", ("estimate", "exact"), agreement),
)
