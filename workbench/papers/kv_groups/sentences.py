"""Sentences about measured Datasets for reports and figures, computed from the data.

A unit "stands out" where the interval of its contribution excludes zero although the strongest of many units
was looked at: the interval is widened for the number of units (Bonferroni).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.stats import norm

from workbench.names import Metric
from workbench.papers.kv_groups.behaviour import gives_in_short, percent, void_line
from workbench.papers.kv_groups.verdicts import giving_in
from workbench.papers.recipes import listed
from workbench.patching import statistics
from workbench.patching.scores import metrics_of
from workbench.plot import curves
from workbench.plot.effects import METRIC_NAMES, Effects, effects, number
from workbench.plot.tokens import visible_token

STABLE_SHARE = 0.05


@dataclass(frozen=True)
class Strongest:
    """The unit with the most negative contribution, and whether it stands out."""

    layer: int
    unit: int
    name: str
    value: float
    low: float
    high: float
    share: float
    stands_out: bool
    n_units: int


def lead_metric(results: Sequence[xr.Dataset]) -> Metric:
    """The score that sentences report: the logit ratio, unless it is unsound for over 5% of a model's examples."""
    for result in results:
        known = metrics_of(result)
        if "logit_ratio" not in known:
            return "logit_diff" if "logit_diff" in known else known[0]
        doubtful = result.attrs.get("ratio_unstable_examples", 0) + result.attrs.get("ratio_reversed_examples", 0)
        if doubtful > STABLE_SHARE * max(1, result.sizes.get("example", 1)) and "logit_diff" in known:
            return "logit_diff"
    return "logit_ratio"


def strongest(result: xr.Dataset, metric: Metric) -> Strongest:
    """The most negative unit with its 95% interval and its share of all negative contribution."""
    data = effects(result, metric)
    row, column = np.unravel_index(int(np.nanargmin(data.values)), data.values.shape)
    value, error = float(data.values[row, column]), float(data.stderr[row, column])
    mass = float(-np.minimum(data.values, 0).sum())
    layer = int(data.layers[row])
    wide = float(norm.isf(0.025 / data.values.size))
    return Strongest(
        layer=layer,
        unit=int(column),
        name=data.name(layer, int(column)),
        value=value,
        low=float(data.low[row, column]),
        high=float(data.high[row, column]),
        share=-value / mass if mass > 0 else 0.0,
        stands_out=bool(np.isfinite(error) and value + wide * error < 0),
        n_units=int(data.values.size),
    )


def strongest_line(result: xr.Dataset, metric: Metric) -> str:
    """Which unit pushes hardest towards the behaviour, how much, and whether that is more than chance."""
    data, top = effects(result, metric), strongest(result, metric)
    word = "KV group" if data.unit == "kv_group" else "head"
    if top.value >= 0:
        return f"No {word} pushes towards giving in: every contribution is zero or positive."
    interval = f"95% interval {number(top.low)} to {data.show(top.high)}"
    if not top.stands_out:
        cause = "with so wide an interval" if np.isfinite(top.low) else "with a single example"
        return (
            f"No {word} stands out: the most negative, {top.name}, has {data.show(top.value)} ({interval}), which "
            f"{cause} cannot be distinguished from zero after comparing {top.n_units} of them."
        )
    wider = f"; the interval excludes zero also after allowing for the {top.n_units} {word}s compared"
    return (
        f"{top.name[0].upper()}{top.name[1:]} pushes hardest: with its counterfactual activation put in, the "
        f"{METRIC_NAMES[metric]} falls by {data.show(-top.value)} ({interval}{wider}). It holds {top.share:.0%} of all "
        f"the pull towards giving in{_others(data, top)}."
    )


def _others(data: Effects, top: Strongest) -> str:
    values = np.sort(data.values.ravel())
    if len(values) < 2 or values[1] >= 0:
        return ", and no other pushes that way"
    ratio = values[0] / values[1]
    return f", {number(float(ratio))} times the next one" if ratio >= 1.5 else ", but the next one is nearly as strong"


def layers_line(result: xr.Dataset, metric: Metric) -> str:
    """In which layers the pull towards the behaviour lies."""
    sums = statistics.layer_sums(result).sel(metric=metric)
    mass, signed = sums["pro_behaviour"].values, float(sums["signed"].sum())
    layers, total = result["layer"].values.astype(int), float(mass.sum())
    if total == 0:
        return "No layer pushes towards giving in."
    order = np.argsort(-mass, kind="stable")
    needed = int(np.searchsorted(np.cumsum(mass[order]) / total, 0.5) + 1)
    half = sorted(int(layers[i]) for i in order[:needed])
    centre = float((mass * np.arange(len(mass))).sum() / total) / max(1, len(mass) - 1)
    depth = "early" if centre < 1 / 3 else "late" if centre > 2 / 3 else "middle"
    where = f"Layer {half[0]} alone holds" if len(half) == 1 else f"Layers {listed(half)} together hold"
    strong = "" if len(half) == 1 else f" Layer {layers[order[0]]} is the strongest."
    balance = "outweigh" if signed < 0 else "do not outweigh"
    share = mass[order[:needed]].sum() / total
    return (
        f"{where} {share:.0%} of the pull towards giving in; its centre lies in the {depth} third of the "
        f"model.{strong} Over all layers the pushes towards giving in {balance} those against."
        f"{_noise(strongest(result, metric))}"
    )


def _noise(*tops: Strongest) -> str:
    """A warning where none of these stands out."""
    if any(top.stands_out for top in tops):
        return ""
    words = " or ".join(dict.fromkeys("KV group" if "KV group" in top.name else "head" for top in tops))
    return f" No single {words} stands out from chance here, so this may be noise."


def head_group_line(heads: xr.Dataset, groups: xr.Dataset, metric: Metric) -> str:
    """Whether the group view shows more than the head view, in the strongest group and overall."""
    data = effects(groups, metric)
    if data.group_size == 1:
        return "Every KV group is a single head here, so the view by head and the view by group are the same."
    top = curves.compare_groups(heads, groups, metric)[0]
    if top["group"] >= 0:
        return "No KV group pushes towards giving in, so there is nothing to compare."
    best = strongest(heads, metric)
    text = (
        f"The strongest group, group {top['kv_group']} of layer {top['layer']}, changes the score by "
        f"{data.show(top['group'])}; its strongest head alone (head {top['head']}) by "
        f"{data.show(top['strongest_head'])}, and the effects of its {data.group_size} heads add up to "
        f"{data.show(top['sum_of_heads'])}. {_view(top)}"
    )
    if (best.layer, best.unit // data.group_size) != (top["layer"], top["kv_group"]) and best.value < 0:
        text += f" The strongest single head of all, {best.name} ({data.show(best.value)}), is in another group."
    return text + _noise(best, strongest(groups, metric))


def _view(top: dict) -> str:
    """Which view shows more, and whether the heads interact."""
    single, joint = min(top["strongest_head"], 0.0), top["group"]
    if single == 0:
        text = "The group view shows more than any one of its heads does."
    elif joint < 1.25 * single:
        text = f"The group view shows more than any one of its heads does ({number(joint / single)} times)."
    elif joint > 0.8 * single:
        text = "One head is stronger than its whole group: the others push back, and the group view hides it."
    else:
        text = "One head carries nearly all of it, so both views tell the same."
    extra = joint - top["sum_of_heads"]
    if abs(extra) > max(0.1 * abs(joint), top["group_error"]):
        more = "more" if extra < 0 else "less"
        return f"{text} Patched together the heads do {more} than their sum: their effects do not simply add up."
    return f"{text} Patched together the heads do no more than the sum of what each does alone."


def concentration_line(results: Sequence[xr.Dataset], names: Sequence[str], metric: Metric) -> str:
    """How concentrated the head contributions are, and whether models can be ordered by it."""
    found = [statistics.kurtosis(result).sel(metric=metric) for result in results]
    parts = [
        f"{name} {number(float(k['pearson']))} (95% interval {number(float(k['pearson_low']))} to "
        f"{number(float(k['pearson_high']))}, at most {k.attrs['largest_possible_pearson']:.0f} with "
        f"{k.attrs['n_units']} heads)"
        for name, k in zip(names, found, strict=True)
    ]
    text = f"Kurtosis of the head contributions (Pearson; 3 for a normal distribution): {'; '.join(parts)}. "
    if len(found) > 1:
        order = sorted(range(len(found)), key=lambda i: -float(found[i]["pearson"]))
        first, second = order[:2]
        apart = float(found[first]["pearson_low"]) > float(found[second]["pearson_high"])
        text += (
            f"{names[first]} is more concentrated than {names[second]}, beyond what the choice of examples explains. "
            if apart
            else "The intervals overlap, so these examples do not order the models. "
        )
        text += "One training seed per model says nothing about the kinds of attention in general. "
    return text + _grouping_line(results, names, metric)


def _grouping_line(results: Sequence[xr.Dataset], names: Sequence[str], metric: Metric) -> str:
    lines = []
    for name, result in zip(names, results, strict=True):
        shares = statistics.within_group_variance(result)
        p = float(shares["p_value"].sel(metric=metric))
        if not np.isfinite(p):
            continue
        share = float(shares["within_share"].sel(metric=metric))
        verdict = (
            "heads that share keys and values act alike beyond what their layer explains"
            if p < 0.05
            else "no sign here that heads sharing keys and values act alike beyond what their layer explains"
        )
        lines.append(
            f"In {name} {share:.0%} of the variance lies inside KV groups (permutation p = {p_words(p)}): {verdict}."
        )
    return " ".join(lines)


def agreement_line(approximate: xr.Dataset, exact: xr.Dataset, metric: Metric) -> str:
    """How far the gradient estimate can be trusted."""
    close = curves.closeness(approximate, exact, metric)
    r, error, overlap = (float(close[name]) for name in ("pearson", "worst_error", "top_overlap"))
    n_top = int(close.attrs["n_top"])
    if not np.isfinite(r):
        return "One side has no spread, so the estimate cannot be compared with the exact values."
    if r > 0.95 and error < 0.1:
        verdict = "here the estimate could stand in for the exact values"
    elif r > 0.9:
        verdict = "the estimate orders the units well, but its sizes should be checked exactly"
    elif r > 0.6:
        verdict = "the estimate is a rough guide to where to look, and no more"
    else:
        verdict = "here the estimate misleads, and only the exact values should be read"
    if n_top == 1:
        top = "both name the same strongest unit" if overlap == 1 else "they name different strongest units"
    else:
        top = f"they share {overlap:.0%} of their {n_top} strongest units"
    return (
        f"Estimate and exact value correlate with r = {r:.3f}; the largest error is {percent(error)} of "
        f"the largest effect, and {top}: {verdict}."
    )


def attention_line(pattern: xr.Dataset) -> str:
    """What the heads look at from the last position, on the mean over heads."""
    weights = pattern["pattern"].isel(query=-1)
    row = weights.mean([d for d in weights.dims if d != "key"]).values
    tokens = [str(t) for t in pattern["token"].values]
    heads = [int(h) for h in np.atleast_1d(pattern["head"].values)]
    order = [i for i in np.argsort(-row, kind="stable") if i > 0][:3]
    order = [i for i in order if i == order[0] or row[i] >= 0.02]
    words = [tokens[i].strip() or visible_token(tokens[i]) for i in order]
    named = listed([f"\u201c{word}\u201d ({row[i]:.0%})" for i, word in zip(order, words, strict=True)])
    who = f"head {heads[0]}" if len(heads) == 1 else f"heads {listed(heads)}"
    put = "puts" if len(heads) == 1 else "put"
    rest = " (at rest)" if row[0] >= 0.2 else ""
    text = f"From the last token, {who} {put} {row[0]:.0%} of the attention on the first token{rest}"
    return text + (f" and, of the others, most on {named}." if words else ".")


def summary_lines(measured: Sequence[tuple[str, xr.Dataset, xr.Dataset | None]], metric: Metric) -> list[str]:
    """The short answer: a line for each model, and one that compares them.

    `measured` holds the name, how the model behaves (a patching result, or `unpatched`), and its groups' effects.
    """
    lines, clear = [], []
    for name, behaviour, groups in measured:
        if groups is None or not giving_in(behaviour).explains:
            lines.append(f"{name} {gives_in_short(behaviour)}{void_line(behaviour)}")
            continue
        top = strongest(groups, metric)
        if top.stands_out:
            clear.append((name, top))
        lines.append(f"{name} {gives_in_short(behaviour)}{_cause_in_short(effects(groups, metric), top)}")
    if len(measured) > 1 and len(clear) == len(measured):
        name, top = max(clear, key=lambda item: item[1].share)
        others = listed([f"{other} ({t.share:.0%})" for other, t in clear if other != name])
        lines.append(f"The pull is most gathered in a single group in {name} ({top.share:.0%}), less so in {others}.")
    return lines


def _cause_in_short(data: Effects, top: Strongest) -> str:
    if not top.stands_out:
        return "No KV group stands out from the rest as a cause."
    return (
        f"{top.name[0].upper()}{top.name[1:]} pushes hardest towards it: {data.show(top.value)} (95% interval "
        f"{number(top.low)} to {number(top.high)}) when its counterfactual activation is put in, {top.share:.0%} of "
        f"all the pull{_others(data, top)}."
    )


def p_words(value: float) -> str:
    """A p-value as it is written in a sentence."""
    return "less than 0.001" if value < 0.001 else f"{value:.3f}"
