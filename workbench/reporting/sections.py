"""The sections of the report on giving in, in their order: each takes what was measured and gives a `Section`.

A section's figures, sentences and tables of numbers are the panels of `workbench.papers`. Titles and
introductions are in `sections.json`. To add a section, write a function that takes `Findings` and gives a `Section` (or
None where there is nothing to tell), and name it in `SECTIONS`.
"""

import json
from collections.abc import Callable, Sequence

import xarray as xr

from workbench.extreme import peak_verdict
from workbench.names import Metric
from workbench.papers.active_dormant.figures import first_token_panel, stream_panel
from workbench.papers.active_dormant.sentences import peak_line
from workbench.papers.inactive_heads.figures import curve_panel
from workbench.papers.kv_groups import figures, seeds, tuning_figures
from workbench.papers.kv_groups.behaviour import behaviour_line
from workbench.papers.kv_groups.tradeoff import records, summaries
from workbench.papers.measured import ESTIMATE_STEPS, Measured, clearest_example
from workbench.papers.recipes import Panel
from workbench.patching.scores import metrics_of
from workbench.plot import tokens
from workbench.plot.confounders import confounders, summary
from workbench.plot.effects import METRIC_NAMES
from workbench.reporting import evidence
from workbench.reporting.evidence import Findings, heading
from workbench.reporting.parts import (
    Choice,
    Dialogue,
    Figure,
    Folded,
    Part,
    Raw,
    Row,
    Section,
    Side,
    Table,
    Text,
    section,
)

METRIC_LABELS = {
    "logit_ratio": "ratio of the logits (the paper's)",
    "logit_diff": "difference of the logits",
    "prob": "ratio of the probabilities",
}
SIDES = {"base": "The user objects", "source": "The user confirms"}


def behaviour(found: Findings) -> Section | None:
    """Example dialogues, and the probability of giving in after either last sentence."""
    scored = [one for one in found.measured if "base" in one.behaviour]
    mute = [f"{one.name}: {behaviour_line(one.behaviour)}" for one in found.measured if one not in scored]
    said: list[Part] = [Text(mute)] if mute else []
    if not scored:
        return section("behaviour", said)
    first = scored[0]
    clear, firm = clearest_example(first.behaviour), _firmest_example(first.behaviour)
    cards = [_dialogue(scored, clear, f"The dialogue in which the objection moves {first.name}'s score most")]
    if firm != clear:
        cards.append(_dialogue(scored, firm, f"The dialogue in which {first.name} gives in least, by the score"))
    return section("behaviour", [*cards, *_per_model(scored, figures.behaviour_panel), *said])


def contributions(found: Findings) -> Section | None:
    """Heat maps by head and by group for each model and score; nothing where no model's causes can be told."""
    if not found.causes:
        return None
    metrics = metrics_of(found.causes[0].heads)
    panels: dict[str, tuple[str, Sequence[Part]]] = {
        metric: (METRIC_LABELS.get(metric, metric), _maps(found, metric)) for metric in metrics
    }
    return section("contributions", [Choice("score", "Score:", found.metric, panels)])


def _maps(found: Findings, metric: Metric) -> list[Part]:
    heads = _per_model(
        found.causes, lambda one: figures.map_panel(one, metric, "heads"), lambda _: "patching each head"
    )
    return heads + _per_model(
        found.causes, lambda one: figures.map_panel(one, metric, "groups"), lambda _: "patching each KV group"
    )


def layers(found: Findings) -> Section | None:
    """Contributions summed over each layer."""
    panels = _per_model(found.causes, lambda one: figures.layers_panel(one, found.metric))
    return section("layers", panels, metric=METRIC_NAMES[found.metric])


def groups(found: Findings) -> Section | None:
    """Joint effect of the strongest groups beside their single heads."""
    return section("groups", _per_model(found.causes, lambda one: figures.groups_panel(one, found.metric)))


def concentration(found: Findings) -> Section | None:
    """The kurtosis table."""
    if not found.causes:
        return None
    table = figures.kurtosis_table(found.causes, found.metric)
    return section("concentration", [Table(table.numbers, table.label), Text([table.sentence])])


def training_seeds(found: Findings) -> Section | None:
    """The shipped models among all training seeds; nothing where no card tells of them."""
    runs = seeds.seed_runs([one.name for one in found.measured])
    if runs is None:
        return None
    return section("seeds", [Row([Figure(seeds.seeds_panel(runs, str(measure))) for measure in runs.data_vars])])


def attention(found: Findings) -> Section | None:
    """What the strongest group's heads look at, on one example."""
    return section("attention", [part for one in found.causes for part in _attended(one)])


def _attended(one: Measured) -> list[Part]:
    pattern = one.attention
    layer, group = int(pattern["layer"].values[0]), int(pattern.attrs["kv_group"])
    place = f"KV group {group} of layer {layer}, the strongest, on dialogue {int(pattern.attrs['example'])}"
    several = pattern.sizes["head"] > 1
    panel = figures.attention_panel(pattern)
    parts: list[Part] = [heading(one, place), Raw(tokens.shaded_text(pattern, mean=several)), Text([panel.sentence])]
    if several:
        parts.append(Folded("Each head by itself", [Raw(tokens.shaded_text(pattern))]))
    return [*parts, Folded(panel.label, [Figure(panel, f"{place}, of {one.name}", caption=False)])]


def extreme_tokens(found: Findings) -> Section | None:
    """Sinks, drains and peaks of each model on its own dialogues, and where the peak comes from."""
    parts: list[Part] = []
    for one in found.having("extreme"):
        panels = [first_token_panel(one.extreme), stream_panel(one.extreme)]
        parts += [
            heading(one, f"{one.extreme.sizes['sequence']} dialogues"),
            Row([Figure(panel, one.name) for panel in panels]),
            Text([f"{one.name}: {peak_line(one.extreme)} {peak_verdict(one.sources)} {_zeroed(one)}"]),
        ]
    return section("extreme-tokens", parts)


def _zeroed(one: Measured) -> str:
    """On what each part was zeroed to find where the peak comes from."""
    lengths = one.sources["length"].values
    texts = "the beginning of one dialogue" if len(lengths) == 1 else f"{len(lengths)} dialogues"
    return f"Each attention and MLP output was zeroed on {texts} ({int(lengths.sum())} tokens)."


def inactive_heads(found: Findings) -> Section | None:
    """Accuracy curves of two scores and of random choice, or why a model's answers allow none."""
    measured = found.having("inactive")
    shown = [one for one in measured if "refused" not in one.inactive.attrs]
    refused = [f"{one.name}: {one.inactive.attrs['refused']}" for one in measured if "refused" in one.inactive.attrs]
    panels = _per_model(
        shown,
        lambda one: curve_panel(one.inactive, alone=True),
        lambda one: f"{one.inactive.sizes['example']} questions",
    )
    return section("inactive-heads", [*panels, *([Text(refused)] if refused else [])])


def tuning(found: Findings) -> Section | None:
    """Truthfulness and its price over the budget; nothing where no experiment is known."""
    shown: list[Part] = []
    for one in found.causes:
        if not records.has(one.name):
            continue
        record = records.measured(one.name)
        panel = tuning_figures.balance_panel(record)
        stopped, said = summaries.upper(summaries.unfinished(record)), summaries.sayings(record)
        more = (
            *([Text([stopped])] if stopped else []),
            Folded("What the experiment says", [Text([s for s in said if s not in (panel.sentence, stopped)])]),
            Folded("All kinds of tuning", [Table(tuning_figures.table_columns(record))]),
        )
        shown.append(Figure(panel, one.name, heading(one, f"{record.sizes['cell']} models"), more=more))
    return section("tuning", [Row(shown)] if shown else [])


def confounding_tokens(found: Findings) -> Section | None:
    """The confounder view of a student and its teacher; nothing without a result."""
    result = found.confounders
    if result is None:
        return None
    return section(
        "confounders",
        [Raw(confounders(result))],
        student=result.attrs["student"],
        teacher=result.attrs["teacher"],
        score=result.attrs["score"].replace("_", " "),
        summary=summary(result),
    )


def agreement(found: Findings) -> Section | None:
    """The gradient estimate against exact values; nothing where no estimate was asked for."""
    panels = _per_model(
        found.having("estimate"),
        lambda one: figures.agreement_panel(one, found.metric),
        lambda one: f"{one.exact.sizes.get('example', 0)} dialogues",
    )
    return section("agreement", panels, steps=ESTIMATE_STEPS)


SECTIONS: tuple[Callable[[Findings], Section | None], ...] = (
    behaviour,
    contributions,
    layers,
    groups,
    concentration,
    training_seeds,
    attention,
    extreme_tokens,
    inactive_heads,
    tuning,
    confounding_tokens,
    agreement,
    evidence.checks,
    evidence.method,
    evidence.caveats,
)


def _per_model(
    shown: Sequence[Measured], panel: Callable[[Measured], Panel], note: Callable[[Measured], str] = lambda one: ""
) -> list[Part]:
    """A panel of each model, side by side under the models' names; nothing without models."""
    return [Row([Figure(panel(one), one.name, heading(one, note(one))) for one in shown])] if shown else []


def _firmest_example(result: xr.Dataset) -> int:
    metric = "prob" if "prob" in result["metric"].values else str(result["metric"].values[0])
    return int(result["base"].sel(metric=metric).argmin("example"))


def _dialogue(measured: Sequence[Measured], example: int, title: str) -> Dialogue:
    first = measured[0].dialogues
    turns = {side: _turns(first, side, example) for side in SIDES}
    shared = 0
    while all(shared < len(some) - 1 for some in turns.values()) and turns["base"][shared] == turns["source"][shared]:
        shared += 1
    text = str(first["base_text"].values[example])
    same = [one for one in measured if str(one.dialogues["base_text"].values[example]) == text]
    sides = [Side(side, SIDES[side], turns[side][shared:], _odds(same, side, example)) for side in SIDES]
    return Dialogue(title, turns["base"][:shared], sides)


def _turns(dialogues: xr.Dataset, side: str, example: int) -> list[tuple[str, str]]:
    stored = str(dialogues[f"{side}_messages"].values[example])
    if stored:
        turns = [(str(message["role"]), str(message["content"])) for message in json.loads(stored)]
        reply = str(dialogues[f"{side}_reply"].values[example]) if f"{side}_reply" in dialogues else ""
        return [*turns, ("assistant", reply)] if reply else turns
    return [("prompt", str(dialogues[f"{side}_text"].values[example]))]


def _odds(measured: Sequence[Measured], side: str, example: int) -> list[tuple[str, float]]:
    known = [one for one in measured if "prob" in one.behaviour["metric"].values]
    return [(one.name, float(one.behaviour[side].sel(metric="prob").values[example])) for one in known]
