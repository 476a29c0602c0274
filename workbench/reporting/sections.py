"""The sections of the report on giving in: figures, tables and sentences computed from measured Datasets.

`body` puts them in order: what the models do, which heads and KV groups cause it, how far the numbers can be
trusted, and how they were made.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape

import xarray as xr

from workbench.names import Metric
from workbench.papers import sentences
from workbench.papers.kv_groups import figures as sycophancy
from workbench.papers.measured import Measured, clearest_example
from workbench.patching.scores import metrics_of
from workbench.plot import curves, heatmaps, strips, tokens
from workbench.plot.effects import METRIC_NAMES, effects, number
from workbench.reporting import (
    confounders_section,
    extreme_section,
    inactive_section,
    page,
    seeds_section,
    tuning_section,
)
from workbench.reporting.background import agreement, caveats, checks, heading, method

METRIC_LABELS = {
    "logit_ratio": "ratio of the logits (the paper's)",
    "logit_diff": "difference of the logits",
    "prob": "ratio of the probabilities",
}


def body(measured: Sequence[Measured], *, made: str, confounders: xr.Dataset | None = None) -> str:
    """The whole page between its body tags.

    Args:
        measured: One or more models with all their parts.
        made: How the page was made, one line for its foot.
        confounders: A result of `workbench.leaf.confounders` for a section of its own.
    """
    metric = sentences.lead_metric([one.heads for one in measured])
    parts = {
        "What the models do": behaviour(measured),
        "Heads and groups": contributions(measured, metric),
        "Layers": layers(measured, metric),
        "Group against head": groups(measured, metric),
        "Concentration": concentration(measured, metric),
        "Seeds": seeds_section.section([one.name for one in measured]),
        "Attention": attention(measured),
        "Extreme tokens": extreme_section.section(measured),
        "Inactive heads": inactive_section.section(measured),
        "Tuning": tuning_section.section(measured),
        "Confounding tokens": confounders_section.section(confounders),
        "Estimates": agreement(measured, metric),
        "Checks": checks(measured),
        "Method": method(measured, metric),
        "Caveats": caveats(measured),
    }
    shown = {label: html for label, html in parts.items() if html}
    foot = f"{escape(made)} The measured numbers lie beside this page as netCDF files, in <code>data/</code>."
    main = f"<main>{''.join(shown.values())}</main><footer>{foot}</footer>"
    return _top(measured, metric, _contents(shown)) + main


def _contents(shown: Mapping[str, str]) -> str:
    links = []
    for label, html in shown.items():
        name = html.split('id="', 1)[1].split('"', 1)[0]
        links.append(f'<a href="#{name}">{escape(label)}</a>')
    return f'<nav aria-label="Contents">{" ".join(links)}</nav>'


def _top(measured: Sequence[Measured], metric: Metric, contents: str) -> str:
    names = " and ".join(escape(one.name) for one in measured)
    short = sentences.summary_lines([(one.name, one.heads, one.groups) for one in measured], metric)
    return (
        f'<header class="wb-top"><p class="wb-kicker">{names}</p>'
        "<h1>Which KV groups make a model give in to a wrong objection?</h1>"
        '<p class="wb-lede">A chat model answers a question rightly, the user objects, and the model '
        "apologises. "
        "Here the output of every attention head, and of every group of heads that shares keys and values, "
        "is "
        "replaced by its value from a dialogue in which the user agrees. What lowers the apology was pushing "
        "towards it.</p>"
        f'<div class="wb-short"><h2>In short</h2>{page.items(short)}</div>{contents}</header>'
    )


def behaviour(measured: Sequence[Measured]) -> str:
    """Example dialogues, and the probability of giving in after either last sentence."""
    first = measured[0]
    clear, firm = clearest_example(first.heads), _firmest_example(first.heads)
    cards = [_dialogue(measured, clear, f"The dialogue in which the objection moves {first.name} most")]
    if firm != clear:
        cards.append(_dialogue(measured, firm, f"The dialogue in which {first.name} gives in least"))
    figures = [
        page.plot(
            strips.behaviour(one.heads),
            f"behaviour-{i}",
            f"Probability of giving in per dialogue for {one.name}. {sentences.behaviour_line(one.heads)}",
            caption=sentences.behaviour_line(one.heads),
            heading=heading(one),
        )
        for i, one in enumerate(measured)
    ]
    intro = (
        "Two dialogues differ in their last user sentence only: one objects, one confirms. Giving in is "
        "read off the first "
        "word of the reply: the probability of the apology against that of standing by the answer."
    )
    return page.section("behaviour", "What the models do", page.text(intro), *cards, page.row(figures))


def _firmest_example(result: xr.Dataset) -> int:
    metric = "prob" if "prob" in result["metric"].values else str(result["metric"].values[0])
    return int(result["base"].sel(metric=metric).argmin("example"))


def _dialogue(measured: Sequence[Measured], example: int, title: str) -> str:
    first = measured[0].dialogues
    sides = {side: _messages(first, side, example) for side in ("base", "source")}
    shared = 0
    while all(shared < len(turns) - 1 for turns in sides.values()) and sides["base"][shared] == sides["source"][shared]:
        shared += 1
    names = {"base": "The user objects", "source": "The user confirms"}
    same = [
        one
        for one in measured
        if str(one.dialogues["base_text"].values[example]) == str(first["base_text"].values[example])
    ]
    fork = "".join(
        f'<div class="wb-{side}">{_turns(turns[shared:])}{_odds(same, side, example, names[side])}</div>'
        for side, turns in sides.items()
    )
    return (
        f'<div class="wb-dialogue"><h3>{escape(title)}</h3>{_turns(sides["base"][:shared])}'
        f'<div class="wb-fork">{fork}</div></div>'
    )


def _messages(dialogues: xr.Dataset, side: str, example: int) -> list[dict]:
    stored = str(dialogues[f"{side}_messages"].values[example])
    if stored:
        return json.loads(stored)
    return [{"role": "prompt", "content": str(dialogues[f"{side}_text"].values[example])}]


def _turns(messages: Sequence[dict]) -> str:
    return "".join(_turn(str(m["role"]), str(m["content"])) for m in messages)


def _turn(role: str, content: str) -> str:
    style = "wb-assistant" if role == "assistant" else "wb-user"
    return f'<div class="wb-turn {style}"><b>{escape(role)}</b>{escape(content)}</div>'


def _odds(measured: Sequence[Measured], side: str, example: int, title: str) -> str:
    rows = ""
    for one in measured:
        if "prob" not in one.heads["metric"].values:
            continue
        p = float(one.heads[side].sel(metric="prob").values[example])
        rows += (
            f'<span>{escape(one.name)}</span><span class="wb-bar" role="img" aria-label="{escape(title)}: '
            f"{escape(one.name)} "
            f'gives in with probability {p:.0%}"><i style="width:{100 * p:.1f}%"></i></span><span>gives in '
            f"{p:.0%}</span>"
        )
    return f'<div class="wb-odds">{rows}</div>'


def contributions(measured: Sequence[Measured], metric: Metric) -> str:
    """Heat maps by head and by group for each model and score."""
    metrics = metrics_of(measured[0].heads)
    panels: dict[str, tuple[str, str]] = {
        name: (METRIC_LABELS.get(name, name), _maps(measured, name)) for name in metrics
    }
    intro = (
        "Each cell is one query head, or one KV group drawn as wide as its heads. Red: with its calm value "
        "put in, the model "
        "gives in less, so this unit was pushing towards giving in. Blue: it was pushing against. Dark "
        "lines separate the KV "
        "groups; colours run from minus to plus the 99.5th percentile, for each map by itself."
    )
    chosen = page.choice("Score:", panels, metric, "score")
    return page.section("contributions", "Which heads and groups push", page.text(intro), chosen)


def _maps(measured: Sequence[Measured], metric: Metric) -> str:
    rows = []
    for unit, word in (("heads", "each head"), ("groups", "each KV group")):
        figures = []
        for i, one in enumerate(measured):
            result = getattr(one, unit)
            line = sentences.strongest_line(result, metric)
            figures.append(
                page.plot(
                    heatmaps.heatmap(result, metric),
                    f"map-{metric}-{unit}-{i}",
                    f"Heat map of the contribution of {word} of {one.name}, layer by head, "
                    f"{METRIC_NAMES[metric]}. {line}",
                    caption=line,
                    heading=heading(one, f"patching {word}"),
                    more=page.folded("The numbers as a table", _grid_table(result, metric)),
                )
            )
        rows.append(page.row(figures))
    return "".join(rows)


def _grid_table(result: xr.Dataset, metric: Metric) -> str:
    data = effects(result, metric)
    word = "Head" if data.unit == "head" else "Group"
    columns: dict[str, list] = {"Layer": [int(v) for v in data.layers]}
    for unit in range(data.values.shape[1]):
        columns[f"{word} {unit}"] = [number(float(v)) for v in data.values[:, unit]]
    return page.table(columns, caption=data.axis_title)


def layers(measured: Sequence[Measured], metric: Metric) -> str:
    """Contributions summed over each layer."""
    figures = []
    for i, one in enumerate(measured):
        line = sentences.layers_line(one.heads, metric)
        figure = curves.layer_sums(one.heads, metric)
        columns = {
            "Layer": [int(v) for v in figure.data[0].x],
            "Pull towards": [number(float(v)) for v in figure.data[0].y],
            "Signed sum": [number(float(v)) for v in figure.data[1].y],
        }
        more = page.folded("The numbers as a table", page.table(columns, caption=effects(one.heads, metric).axis_title))
        figures.append(
            page.plot(
                figure,
                f"layers-{i}",
                f"Contribution by layer for {one.name}. {line}",
                caption=line,
                heading=heading(one),
                more=more,
            )
        )
    intro = (
        f"Contributions of the heads ({METRIC_NAMES[metric]}) added up in each layer: once only those that "
        "push towards giving "
        "in, once all with their sign, so that pushes for and against cancel."
    )
    return page.section("layers", "In which layers", page.text(intro), page.row(figures))


def groups(measured: Sequence[Measured], metric: Metric) -> str:
    """Joint effect of the strongest groups beside their single heads."""
    figures = []
    for i, one in enumerate(measured):
        line = sentences.head_group_line(one.heads, one.groups, metric)
        rows = curves.compare_groups(one.heads, one.groups, metric)[:8]
        columns = {
            "Layer": [row["layer"] for row in rows],
            "KV group": [row["kv_group"] for row in rows],
            "Strongest head": [f"{number(row['strongest_head'])} (head {row['head']})" for row in rows],
            "Sum of its heads": [number(row["sum_of_heads"]) for row in rows],
            "Whole group": [f"{number(row['group'])} ± {number(row['group_error'])}" for row in rows],
        }
        figures.append(
            page.plot(
                curves.head_vs_group(one.heads, one.groups, metric),
                f"groups-{i}",
                f"Strongest KV groups of {one.name}: whole group, strongest head and sum of heads. {line}",
                caption=line,
                heading=heading(one),
                more=page.folded(
                    "The numbers as a table",
                    page.table(columns, caption=effects(one.groups, metric).axis_title),
                ),
            )
        )
    intro = (
        "Heads of one KV group read the same keys and values. If they act together, a search head by head "
        "underrates them: "
        "the eight strongest groups, patched whole, beside their strongest head alone and the sum of their "
        "heads."
    )
    return page.section("groups", "Group against head", page.text(intro), page.row(figures))


def concentration(measured: Sequence[Measured], metric: Metric) -> str:
    """The kurtosis table."""
    line = sentences.concentration_line([one.heads for one in measured], [one.name for one in measured], metric)
    intro = (
        "Kurtosis is large when a few heads stand far out from the rest. One lone outlier gives the largest "
        "possible value; "
        "about k equal outliers among N heads give N / k. The last two columns ask whether heads of one KV "
        "group act alike: "
        "the share of the variance inside groups, against heads shuffled within their layer."
    )
    table = page.table(sycophancy.kurtosis_columns(measured), caption="Concentration of the head contributions")
    return page.section("concentration", "How concentrated", page.text(intro), table, page.text(line))


def attention(measured: Sequence[Measured]) -> str:
    """What the strongest group's heads look at, on one example."""
    parts = []
    for i, one in enumerate(measured):
        pattern = one.attention
        layer, group = int(pattern["layer"].values[0]), int(pattern.attrs["kv_group"])
        line = sentences.attention_line(pattern)
        place = f"KV group {group} of layer {layer}, the strongest, on dialogue {int(pattern.attrs['example'])}"
        heads = tuple(int(h) for h in pattern["head"].values)
        shaded = str(tokens.shaded_text(pattern, mean=len(heads) > 1))
        each = page.folded("Each head by itself", str(tokens.shaded_text(pattern))) if len(heads) > 1 else ""
        picture = page.plot(
            tokens.attention(pattern),
            f"attention-{i}",
            f"Attention from every token to every token, {place}, of {one.name}. {line}",
        )
        whole = page.folded("Attention from every token to every token", picture)
        parts.append(f"<div>{heading(one, place)}{shaded}{page.text(line)}{each}{whole}</div>")
    intro = (
        "The dialogue with the objection, each token shaded by the attention that the last position, where "
        "the reply begins, "
        "pays to it. The first token, where idle attention rests, has no colour; darker is more."
    )
    return page.section("attention", "What the strongest group looks at", page.text(intro), *parts)
