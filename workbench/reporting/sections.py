"""The sections of the report on giving in, in their order: each takes what was measured and gives a `Section`.

A section's figures, sentences and tables of numbers are the panels of `workbench.papers`. To add a section, write a
function that takes `Findings` and gives a `Section` (or None where there is nothing to tell), and name it in
`SECTIONS`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import xarray as xr

from workbench.extreme import peak_verdict
from workbench.names import Metric
from workbench.papers.active_dormant.figures import first_token_panel, stream_panel
from workbench.papers.active_dormant.sentences import peak_line
from workbench.papers.inactive_heads.figures import curve_panel
from workbench.papers.kv_groups import figures, seeds, tuning_figures
from workbench.papers.kv_groups.tradeoff import records, summaries
from workbench.papers.measured import ESTIMATE_STEPS, Measured, clearest_example
from workbench.papers.recipes import Panel
from workbench.patching.scores import metrics_of
from workbench.plot import tokens
from workbench.plot.confounders import confounders, summary
from workbench.plot.effects import METRIC_NAMES
from workbench.reporting import evidence
from workbench.reporting.evidence import heading
from workbench.reporting.parts import Choice, Dialogue, Figure, Folded, Part, Raw, Row, Section, Side, Table, Text

METRIC_LABELS = {
    "logit_ratio": "ratio of the logits (the paper's)",
    "logit_diff": "difference of the logits",
    "prob": "ratio of the probabilities",
}
SIDES = {"base": "The user objects", "source": "The user confirms"}


@dataclass(frozen=True)
class Findings:
    """The measured data that a report is written from.

    Attributes:
        measured: one or more models with all their parts.
        metric: the score that the sentences use.
        confounders: a result of `workbench.leaf.confounders`, if any.
    """

    measured: Sequence[Measured]
    metric: Metric
    confounders: xr.Dataset | None = None


def behaviour(found: Findings) -> Section:
    """Example dialogues, and the probability of giving in after either last sentence."""
    first = found.measured[0]
    clear, firm = clearest_example(first.heads), _firmest_example(first.heads)
    cards = [_dialogue(found.measured, clear, f"The dialogue in which the objection moves {first.name} most")]
    if firm != clear:
        cards.append(_dialogue(found.measured, firm, f"The dialogue in which {first.name} gives in least"))
    return Section(
        "behaviour",
        "What the models do",
        "What the models do",
        "Two dialogues differ in their last user sentence only: one objects, one confirms. Giving in is read off the "
        "first word of the reply: the probability of the apology against that of standing by the answer.",
        [*cards, _per_model(found, figures.behaviour_panel)],
    )


def contributions(found: Findings) -> Section:
    """Heat maps by head and by group for each model and score."""
    metrics = metrics_of(found.measured[0].heads)
    panels: dict[str, tuple[str, Sequence[Part]]] = {
        metric: (METRIC_LABELS.get(metric, metric), _maps(found, metric)) for metric in metrics
    }
    return Section(
        "contributions",
        "Heads and groups",
        "Which heads and groups push",
        "Each cell is one query head, or one KV group drawn as wide as its heads. Red: with its counterfactual "
        "activation put in, the model gives in less, so this unit was pushing towards giving in. Blue: it was pushing "
        "against. Dark lines separate the KV groups; colours run from minus to plus the 99.5th percentile, for each "
        "map by itself.",
        [Choice("score", "Score:", found.metric, panels)],
    )


def _maps(found: Findings, metric: Metric) -> list[Part]:
    return [
        _per_model(found, lambda one: figures.map_panel(one, metric, "heads"), lambda one: "patching each head"),
        _per_model(found, lambda one: figures.map_panel(one, metric, "groups"), lambda one: "patching each KV group"),
    ]


def layers(found: Findings) -> Section:
    """Contributions summed over each layer."""
    return Section(
        "layers",
        "Layers",
        "In which layers",
        f"Contributions of the heads ({METRIC_NAMES[found.metric]}) added up in each layer: once only those that push "
        "towards giving in, once all with their sign, so that pushes for and against cancel.",
        [_per_model(found, lambda one: figures.layers_panel(one, found.metric))],
    )


def groups(found: Findings) -> Section:
    """Joint effect of the strongest groups beside their single heads."""
    return Section(
        "groups",
        "Group against head",
        "Group against head",
        "Heads of one KV group read the same keys and values. If they act together, a search head by head underrates "
        "them: the eight strongest groups, patched whole, beside their strongest head alone and the sum of their "
        "heads.",
        [_per_model(found, lambda one: figures.groups_panel(one, found.metric))],
    )


def concentration(found: Findings) -> Section:
    """The kurtosis table."""
    table = figures.kurtosis_table(found.measured, found.metric)
    return Section(
        "concentration",
        "Concentration",
        "How concentrated",
        "Kurtosis is large when a few heads stand far out from the rest. One lone outlier gives the largest possible "
        "value; about k equal outliers among N heads give N / k. The last two columns ask whether heads of one KV "
        "group act alike: the share of the variance inside groups, against heads shuffled within their layer.",
        [Table(table.numbers, table.label), Text([table.sentence])],
    )


def training_seeds(found: Findings) -> Section | None:
    """The shipped models among all training seeds; nothing where no card tells of them."""
    runs = seeds.seed_runs([one.name for one in found.measured])
    if runs is None:
        return None
    return Section(
        "seeds",
        "Seeds",
        "Over training seeds",
        "A shipped model was chosen because it shows its phenomenon clearly. These are all seeds of the same recipe, "
        "one dot each, with the median; a dark ring marks the shipped ones. Only the spread of the dots says whether "
        "kinds of attention differ.",
        [Row([Figure(seeds.seeds_panel(runs, str(measure))) for measure in runs.data_vars])],
    )


def attention(found: Findings) -> Section:
    """What the strongest group's heads look at, on one example."""
    return Section(
        "attention",
        "Attention",
        "What the strongest group looks at",
        "The dialogue with the objection, each token shaded by the attention that the last position, where the reply "
        "begins, pays to it. The first token, where idle attention rests, has no colour; darker is more.",
        [part for one in found.measured for part in _attended(one)],
    )


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


def extreme_tokens(found: Findings) -> Section:
    """Sinks, drains and peaks of each model on its own dialogues, and where the peak comes from."""
    parts: list[Part] = []
    for one in found.measured:
        panels = [first_token_panel(one.extreme), stream_panel(one.extreme)]
        parts += [
            heading(one, f"{one.extreme.sizes['sequence']} dialogues"),
            Row([Figure(panel, one.name) for panel in panels]),
            Text([f"{one.name}: {peak_line(one.extreme)} {peak_verdict(one.sources)}"]),
        ]
    return Section(
        "extreme-tokens",
        "Extreme tokens",
        "Extreme tokens",
        "A token is extreme when heads rest their attention on it (a sink), its value has a small norm (it is "
        "drained) and its residual stream a large one (a peak). Heads that rest there do nothing at that moment.",
        parts,
    )


def inactive_heads(found: Findings) -> Section:
    """Accuracy curves of two scores and of random choice."""
    return Section(
        "inactive-heads",
        "Inactive heads",
        "Inactive heads",
        "While the model answers questions, heads whose output is small beside the other heads of their layer (AHON, "
        "LN), or that attend mostly to the first token (AWFT), are zeroed, text by text. Where the accuracy stays, "
        "they were doing nothing for these questions.",
        [
            _per_model(
                found,
                lambda one: curve_panel(one.inactive, capital=True),
                lambda one: f"{one.inactive.sizes['example']} questions",
            )
        ],
    )


def tuning(found: Findings) -> Section | None:
    """Truthfulness and its price over the budget; nothing where no experiment is known."""
    shown: list[Part] = []
    for one in found.measured:
        if not records.has(one.name):
            continue
        record = records.measured(one.name)
        panel = tuning_figures.balance_panel(record)
        more = (
            Folded("What the experiment says", [Text(summaries.sayings(record))]),
            Folded("All kinds of tuning", [Table(tuning_figures.table_columns(record))]),
        )
        shown.append(Figure(panel, one.name, heading(one, f"{record.sizes['cell']} models"), more=more))
    if not shown:
        return None
    return Section(
        "tuning",
        "Tuning",
        "Tuning the heads",
        "Copies of the model were tuned to insist on correct answers and to revise wrong ones: in the strongest "
        "groups, in as many single heads, in random ones, in all of attention and in all parameters. A model that "
        "always insists, always gives in or answers at random keeps and corrects a half on average. These experiments "
        "come measured with the package; what they hold was not computed for this page.",
        [Row(shown)],
    )


def confounding_tokens(found: Findings) -> Section | None:
    """The confounder view of a student and its teacher; nothing without a result."""
    result = found.confounders
    if result is None:
        return None
    return Section(
        "confounders",
        "Confounding tokens",
        "Confounding tokens",
        f"Which words keep {result.attrs['student']} from an answer that {result.attrs['teacher']} finds? Every token "
        f"is scored by {result.attrs['score'].replace('_', ' ')}; a candidate span is verified if both models answer "
        f"correctly without it. {summary(result)}",
        [Raw(confounders(result))],
    )


def agreement(found: Findings) -> Section:
    """The gradient estimate against exact values."""
    return Section(
        "agreement",
        "Estimates",
        "Does the gradient estimate agree?",
        f"Attribution patching estimates all effects from gradients, here averaged over {ESTIMATE_STEPS} points "
        "between the two dialogues. It is compared with patching every head exactly with everything after it "
        "recomputed: the total effect, through later attention too, on fewer dialogues.",
        [
            _per_model(
                found,
                lambda one: figures.agreement_panel(one, found.metric),
                lambda one: f"{one.exact.sizes.get('example', 0)} dialogues",
            )
        ],
    )


def checks(found: Findings) -> Section:
    """What was verified about each model before it was trusted."""
    return evidence.checks(found.measured)


def method(found: Findings) -> Section:
    """How the numbers were made."""
    return evidence.method(found.measured, found.metric)


def caveats(found: Findings) -> Section:
    """What the numbers do not say."""
    return evidence.caveats(found.measured)


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
    checks,
    method,
    caveats,
)


def _per_model(
    found: Findings, panel: Callable[[Measured], Panel], note: Callable[[Measured], str] = lambda one: ""
) -> Row:
    """A panel of each model, side by side under the models' names."""
    return Row([Figure(panel(one), one.name, heading(one, note(one))) for one in found.measured])


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
        return [(str(message["role"]), str(message["content"])) for message in json.loads(stored)]
    return [("prompt", str(dialogues[f"{side}_text"].values[example]))]


def _odds(measured: Sequence[Measured], side: str, example: int) -> list[tuple[str, float]]:
    known = [one for one in measured if "prob" in one.heads["metric"].values]
    return [(one.name, float(one.heads[side].sel(metric="prob").values[example])) for one in known]
