"""The report's sections on self-checks, method and caveats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench.models.embedded import embedded
from workbench.names import Metric
from workbench.papers.measured import Measured
from workbench.plot.effects import METRIC_NAMES
from workbench.reporting.parts import Facts, Folded, Heading, Items, Part, Section, Table, Text, section
from workbench.sycophancy.reactions import REPLY_TOKENS

STEPS = (
    "Each dialogue is run twice: as base, where the user objects, and as source, where the user confirms.",
    "The score is taken from the answers a (giving in) and b (standing firm): from their logits where each is a single "
    "token, from the log-probabilities of whole beginnings of a reply else. It is a \u2212 b, the ratio of the "
    "probabilities, or the paper's ratio of the logits, a / (a + b).",
)
PATCHING = (
    "One unit at a time, a head or a KV group, takes its output at the last position from source. All other attention "
    "outputs stay as in base; MLPs and norms are recomputed. This is path patching to the logits, and it is exact.",
    "A contribution is the mean change of the score over dialogues, relative to the mean of the base for both ratios.",
    "Intervals are 95%, from the standard error over dialogues. A unit is said to stand out only if an interval "
    "widened for the number of units compared still excludes zero.",
)
PATCHING_CAVEATS = (
    "Path patching measures the direct way from a unit to the logits at the last position, through MLPs but not "
    "through later attention. A unit that acts through later heads shows up in the total effect only.",
    "A large effect says that a unit carries the difference between objection and confirmation here; it does not say "
    "that the unit does nothing else.",
)


@dataclass(frozen=True)
class Findings:
    """The measured models that a report is written from, the score of its sentences, and LeaF's result, if any."""

    measured: Sequence[Measured]
    metric: Metric
    confounders: xr.Dataset | None = None

    @property
    def causes(self) -> list[Measured]:
        """The models whose heads and groups were patched, since their effects can be read as causes of giving in."""
        return self.having("heads")

    def having(self, part: str) -> list[Measured]:
        """The models of which a part was measured."""
        return [one for one in self.measured if part in one.parts]


def heading(one: Measured, note: str = "") -> Heading:
    """The model's name and shape, over a figure."""
    attrs = one.behaviour.attrs
    shape = f"{attrs['n_heads']} heads on {attrs['n_kv_heads']} KV heads" if "n_kv_heads" in attrs else ""
    return Heading(one.name, " · ".join(part for part in (shape, note) if part))


def checks(found: Findings) -> Section | None:
    """What was verified about each model before it was trusted."""
    verdicts = [f"{one.name} \u2013 {one.checks.attrs.get('verdict', 'no verdict')}." for one in found.measured]
    table = Table(check_columns(found.measured), "Self-checks")
    return section("checks", [Items(verdicts), Folded("All checks", [table])])


def check_columns(measured: Sequence[Measured]) -> dict[str, list]:
    """The self-checks as a table: a row per check, a column per model, and what each check measures."""
    first = measured[0].checks
    names = [str(name) for name in first["check"].values]
    columns = {"Check": [name.replace("_", " ") for name in names]}
    for one in measured:
        rows = [one.checks.sel(check=name) for name in names]
        columns[one.name] = [_outcome(str(row["status"].item()), float(row["value"])) for row in rows]
    columns["What is measured"] = [_explanation(measured, name) for name in names]
    return columns


def _explanation(measured: Sequence[Measured], name: str) -> str:
    """What a check measures; of the first model that failed it, if any did, since that tells the cause."""
    rows = [one.checks.sel(check=name) for one in measured]
    failed = [row for row in rows if row["status"].item() == "failed"]
    return str((failed or rows)[0]["explanation"].item())


def _outcome(status: str, value: float) -> str:
    if not np.isfinite(value):
        return status
    shown = f"{value:.0f}" if value == round(value) else f"{value:.0e}".replace("-", "\u2212")
    return f"{status}\u00a0({shown})"


def method(found: Findings) -> Section | None:
    """How the numbers were made."""
    said = f"The sentences on this page use the {METRIC_NAMES[found.metric]}"
    doubt = _doubtful(found.measured) if found.metric == "logit_diff" else []
    said += f", because the paper's logit ratio is unsound here: {'; '.join(doubt)}." if doubt else "."
    facts: list[Part] = [part for one in found.measured for part in (heading(one), Facts(_made(one)))]
    told: list[Part] = [Items([*STEPS, *PATCHING]), Text([said])] if found.causes else [Items(STEPS)]
    return section("method", [*told, *facts])


def _made(one: Measured) -> dict[str, object]:
    """How a model's numbers were made, without what is not known."""
    attrs = one.behaviour.attrs
    versions = {key.removesuffix("_version").replace("_", "-"): attrs[key] for key in attrs if key.endswith("_version")}
    shown = {
        "Model": attrs.get("model", one.name),
        "Architecture": attrs.get("architecture", ""),
        "Shape": f"{attrs.get('n_layers', '?')} layers, {attrs.get('n_heads', '?')} query heads on "
        f"{attrs.get('n_kv_heads', '?')} KV heads",
        "Dialogues": one.behaviour.sizes.get("example", attrs.get("n_replies", "?")),
        "Answers": _answers(one),
        "Number type, device": f"{attrs.get('dtype', '?')}, {attrs.get('device', '?')}",
        "Prompts' digest": str(attrs.get("prompts", ""))[:16],
        "Weights' digest": attrs.get("weights", ""),
        "Patching took": _seconds(one),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "Date": attrs.get("date", ""),
        "Command": attrs.get("command", ""),
    }
    return {name: value for name, value in shown.items() if value not in ("", None)}


def _answers(one: Measured) -> str:
    if "dialogues" not in one.parts:
        return ""
    pairs = {
        (str(a), str(b))
        for a, b in zip(one.dialogues["answer_a"].values, one.dialogues["answer_b"].values, strict=True)
    }
    shown = [f"\u201c{a.strip()}\u201d against \u201c{b.strip()}\u201d" for a, b in sorted(pairs)]
    return "; ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _seconds(one: Measured) -> str:
    """How long patching took; heads and groups share one run where they were patched together."""
    parts = {name: one.parts[name].attrs.get("duration_s") for name in ("heads", "groups") if name in one.parts}
    taken = {name: f"{float(seconds):.1f} s" for name, seconds in parts.items() if seconds is not None}
    if len(taken) == 2 and parts["heads"] == parts["groups"]:
        return f"{taken['heads']}, heads and groups together"
    return ", ".join(f"{name} {seconds}" for name, seconds in taken.items())


def _doubtful(measured: Sequence[Measured]) -> list[str]:
    found = []
    for one in measured:
        read = one.parts.get("heads", one.behaviour)
        attrs, n = read.attrs, read.sizes.get("example", 0)
        small, turned = (int(attrs.get(f"ratio_{kind}_examples", 0)) for kind in ("unstable", "reversed"))
        if small:
            found.append(f"in {one.name} its denominator is near zero in {small} of {n} dialogues")
        if turned:
            found.append(f"in {one.name} a logit is negative, which turns its sign, in {turned} of {n}")
    return found


def caveats(found: Findings) -> Section | None:
    """What the numbers do not say."""
    measured = found.measured
    n = min(one.behaviour.sizes.get("example", int(one.behaviour.attrs.get("n_replies", 0))) for one in measured)
    each = " per model" if len(measured) > 1 else ""
    lines = [
        f"The numbers rest on {n} dialogues{each}, drawn with one seed. Intervals cover the choice of dialogues, not "
        "the training of the model.",
    ]
    if any(one.behaviour.attrs.get("answers") == "auto" for one in measured):
        lines.append(
            "What a reply does was read by rules, not by people; replies are the most likely ones (greedy), cut off "
            f"after {REPLY_TOKENS} tokens."
        )
    if found.causes:
        lines += PATCHING_CAVEATS
    lines += [f"The logit ratio should be read with care: {line}." for line in _doubtful(measured)]
    organisms = [one.name for one in measured if embedded(one.name)]
    if organisms:
        models = "very small models that were" if len(organisms) > 1 else "a very small model that was"
        lines.append(
            f"{' and '.join(organisms)}: {models} trained to show this behaviour, so that the method can be tried and "
            "checked. That is no evidence about large chat models, and differences between such models are differences "
            "between single training runs."
        )
    return section("caveats", [Items(lines)])
