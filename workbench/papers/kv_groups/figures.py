"""Group-level path patching of sycophancy: the paper's figures and table as named recipes.

What each shows of one model is a `…_panel`, which the report draws too, with `behaviour_panel` and `attention_panel`
beside them. The paper is the KV-group intervention by Hara, Yoshimaru and Hatano (2026, in Japanese).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.names import Metric
from workbench.papers.kv_groups import sentences
from workbench.papers.kv_groups.behaviour import behaviour_line, void_line
from workbench.papers.measured import Measured, measure_all
from workbench.papers.recipes import PAIR, Drawn, FigureRecipe, FigureRequest, Panel, captioned, side_by_side, told
from workbench.patching import statistics
from workbench.patching.scores import estimated, metrics_of
from workbench.plot import compose, curves, heatmaps, strips, tables, tokens
from workbench.plot.effects import METRIC_NAMES, effects, number

TOP_RATIO = 0.04
SHOWN_GROUPS = 8


@dataclass(frozen=True)
class PatchingFigure(FigureRecipe):
    """A figure of what `measure` gives, which can also be called on it.

    Attributes:
        needs: the parts that have to be measured.
    """

    needs: tuple[str, ...] = ()
    models: tuple[str, ...] = PAIR

    def steps(self, request: FigureRequest) -> int:
        """A step per model and measured part, with the verdict in front of them, and one for drawing."""
        return len(request.models) * (1 + len(self.needs)) + 1

    def make(self, request: FigureRequest) -> Drawn:
        """Measure what the figure needs of each model, or read it, and draw."""
        measured = measure_all(
            request.models,
            request.folder,
            n=request.n,
            seed=request.seed,
            questions=request.questions,
            answers=request.answers,
            prefix=request.prefix,
            parts=("behaviour", *self.needs),
            by_verdict=True,
            step=request.step,
        )
        request.step("drawing")
        return self(measured, request.metric)

    def __call__(self, measured: Sequence[Measured], metric: Metric | None = None) -> Drawn:
        """Draw the figure; without a metric by the logit ratio where it is sound, else by the logit difference.

        Raises:
            InputError: no model, a part that was not measured, or a model of which the report would rank no units.
        """
        if not measured:
            raise InputError(f"{self.name} needs at least one model.")
        for one in measured:
            self._refuse_without_causes(one)
            one.need(*self.needs)
        first = [one.part(self.needs[0]) for one in measured]
        drawn = self.draw([_as_published(one) for one in measured], metric or sentences.lead_metric(first))
        examples = " and ".join(dict.fromkeys(f"{part.attrs['n_examples']}" for part in first))
        drawn = Drawn(drawn.figure, f"{drawn.sentence} Measured on {examples} pairs of dialogues per model.")
        return captioned(self.name, drawn, models=[one.provenance(self.needs[0]) for one in measured])

    def _refuse_without_causes(self, one: Measured) -> None:
        """Stop where the verdict on the model is that its units cannot be said to cause giving in."""
        known = [one.parts[part] for part in ("behaviour", *self.needs) if part in one.parts]
        void = void_line(known[0], "no figure of them is drawn") if known else ""
        if void:
            raise InputError(
                f"{self.name}, {one.name}: {void} Compare other answers (answers=, prefix=), or ask about more "
                "dialogues (n=)."
            )


def _as_published(one: Measured) -> Measured:
    """Patching results by the paper's estimator, the mean of ratios."""
    parts = {
        name: estimated(part, "mean_of_ratios") if {"contribution", "patched"} <= set(part.data_vars) else part
        for name, part in one.parts.items()
    }
    return Measured(one.name, parts)


def behaviour_panel(one: Measured) -> Panel:
    """The probability of giving in after an objection and after a confirmation, dialogue by dialogue."""
    line = behaviour_line(one.behaviour)
    return Panel(strips.behaviour(one.behaviour), line, "Probability of giving in per dialogue")


def map_panel(one: Measured, metric: Metric, unit: Literal["heads", "groups"], limit: float | None = None) -> Panel:
    """The heat map of the contributions, layer by head or by KV group; `limit` ends its colour scale."""
    result = one.part(unit)
    data = effects(result, metric)
    word, each = ("Head", "each head") if unit == "heads" else ("Group", "each KV group")
    columns: dict[str, list] = {"Layer": [int(v) for v in data.layers]}
    for i in range(data.values.shape[1]):
        columns[f"{word} {i}"] = [number(float(v)) for v in data.values[:, i]]
    label = f"Heat map of the contribution of {each}, layer by head, {METRIC_NAMES[metric]}"
    line = sentences.strongest_line(result, metric)
    return Panel(heatmaps.heatmap(result, metric, limit=limit), line, label, columns, data.axis_title)


def contribution_heatmap(measured: Sequence[Measured], metric: Metric) -> Drawn:
    """Figure 3: heat maps by head in the upper row and by KV group in the lower one, a column and a scale per model."""
    limits = [
        max(heatmaps.colour_limit(effects(part, metric).values) for part in (one.heads, one.groups)) for one in measured
    ]
    heads, groups = (
        [map_panel(one, metric, unit, limit) for one, limit in zip(measured, limits, strict=True)]
        for unit in ("heads", "groups")
    )
    figure = compose.grid(
        [[panel.figure for panel in row] for row in (heads, groups)],
        [[f"{one.name}, each head" for one in measured], [f"{one.name}, each KV group" for one in measured]],
        title=f"Contribution to giving in ({METRIC_NAMES[metric]})",
    )
    return Drawn(figure, _told(measured, groups))


def layers_panel(one: Measured, metric: Metric) -> Panel:
    """Figure 4: contributions of the heads summed over each layer."""
    figure = curves.layer_sums(one.heads, metric)
    columns = {
        "Layer": [int(v) for v in figure.data[0].x],
        "Pull towards": [number(float(v)) for v in figure.data[0].y],
        "Signed sum": [number(float(v)) for v in figure.data[1].y],
    }
    line = sentences.layers_line(one.heads, metric)
    return Panel(figure, line, "Contribution by layer", columns, effects(one.heads, metric).axis_title)


def groups_panel(one: Measured, metric: Metric) -> Panel:
    """The strongest groups, patched whole and head by head."""
    rows = curves.compare_groups(one.heads, one.groups, metric)[:SHOWN_GROUPS]
    columns = {
        "Layer": [row["layer"] for row in rows],
        "KV group": [row["kv_group"] for row in rows],
        "Strongest head": [f"{number(row['strongest_head'])} (head {row['head']})" for row in rows],
        "Sum of its heads": [number(row["sum_of_heads"]) for row in rows],
        "Whole group, 95% interval": [f"{number(row['group'])} ± {number(row['group_error'])}" for row in rows],
    }
    return Panel(
        curves.head_vs_group(one.heads, one.groups, metric),
        sentences.head_group_line(one.heads, one.groups, metric),
        "Strongest KV groups: whole group, strongest head and sum of heads",
        columns,
        effects(one.groups, metric).axis_title,
    )


def agreement_panel(one: Measured, metric: Metric) -> Panel:
    """The gradient estimate against exact values of the same units."""
    shown = metric if metric in one.exact["metric"].values else metrics_of(one.exact)[0]
    line = sentences.agreement_line(one.estimate, one.exact, shown)
    return Panel(curves.agreement(one.estimate, one.exact, shown), line, "Estimated against exact contributions")


def attention_panel(pattern: xr.Dataset) -> Panel:
    """Attention of the strongest group's heads, from every token to every token of one dialogue."""
    line = sentences.attention_line(pattern)
    return Panel(tokens.attention(pattern), line, "Attention from every token to every token")


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


def kurtosis_table(measured: Sequence[Measured], metric: Metric) -> Panel:
    """Table 1: how concentrated the head contributions are in each model."""
    columns = kurtosis_columns(measured)
    if not columns:
        raise InputError("the kurtosis table needs the metrics logit_ratio or logit_diff, and neither was measured.")
    title = "Concentration of the head contributions"
    line = sentences.concentration_line([one.heads for one in measured], [one.name for one in measured], metric)
    return Panel(tables.table(columns, title=title), line, title, columns)


def _columns(
    panel: Callable[[Measured, Metric], Panel], title: str, gap: float | None = None
) -> Callable[[Sequence[Measured], Metric], Drawn]:
    """A panel of every model, side by side."""

    def draw(measured: Sequence[Measured], metric: Metric) -> Drawn:
        panels = [panel(one, metric) for one in measured]
        whole = f"{title} ({METRIC_NAMES[metric]})"
        drawn = side_by_side([one.name for one in measured], panels, title=whole, gap=gap)
        return Drawn(drawn.figure, _told(measured, panels))

    return draw


def _told(measured: Sequence[Measured], panels: Sequence[Panel]) -> str:
    """The sentences of the panels, each after its model's name where there are several."""
    if len(panels) == 1:
        return panels[0].sentence
    return told([one.name for one in measured], [panel.sentence for panel in panels])


def _recipe(name: str, draw: Callable[[Sequence[Measured], Metric], Drawn], *needs: str) -> PatchingFigure:
    return PatchingFigure(f"sycophancy/{name}", draw, needs=needs)


RECIPES = (
    _recipe("contribution-heatmap", contribution_heatmap, "heads", "groups"),
    _recipe("layer-sums", _columns(layers_panel, "Contribution by layer"), "heads"),
    _recipe("kurtosis-table", kurtosis_table, "heads"),
    _recipe("head-vs-group", _columns(groups_panel, "Whole groups and single heads", 0.16), "heads", "groups"),
    _recipe("agreement", _columns(agreement_panel, "Attribution patching against exact patching"), "estimate", "exact"),
)
