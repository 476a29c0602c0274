"""What the report's numbers rest on: the estimate beside the exact values, checks, method and caveats."""

from collections.abc import Sequence
from html import escape

import numpy as np

from workbench.models.embedded import embedded
from workbench.names import Metric
from workbench.papers import sentences
from workbench.papers.measured import ESTIMATE_STEPS, Measured
from workbench.patching.scores import metrics_of
from workbench.plot import curves
from workbench.plot.effects import METRIC_NAMES
from workbench.reporting import page


def heading(one: Measured, note: str = "") -> str:
    """The model's name and shape, over a figure."""
    attrs = one.heads.attrs
    shape = f"{attrs['n_heads']} heads on {attrs['n_kv_heads']} KV heads" if "n_kv_heads" in attrs else ""
    small = " · ".join(part for part in (shape, note) if part)
    return f'<p class="wb-model">{escape(one.name)}' + (f" <small>{escape(small)}</small>" if small else "") + "</p>"


def agreement(measured: Sequence[Measured], metric: Metric) -> str:
    """The gradient estimate against exact values."""
    figures = []
    for i, one in enumerate(measured):
        shown = metric if metric in one.exact["metric"].values else metrics_of(one.exact)[0]
        line = sentences.agreement_line(one.estimate, one.exact, shown)
        figures.append(
            page.plot(
                curves.agreement(one.estimate, one.exact, shown),
                f"agreement-{i}",
                f"Estimated against exact contributions for {one.name}. {line}",
                caption=line,
                heading=heading(one, f"{one.exact.sizes.get('example', 0)} dialogues"),
            )
        )
    intro = (
        f"Attribution patching estimates all effects from gradients, here averaged over {ESTIMATE_STEPS} points "
        "between the two dialogues. It stands against patching every head for real with everything behind it "
        "recomputed: the total effect, through later attention too, on fewer dialogues."
    )
    return page.section("agreement", "Can a gradient stand in?", page.text(intro), page.row(figures))


def checks(measured: Sequence[Measured]) -> str:
    """What was verified about each model before it was trusted."""
    verdicts = [f"{one.name} \u2013 {one.checks.attrs.get('verdict', 'no verdict')}." for one in measured]
    intro = (
        "Before anything is patched, each model is compared with its original and with what must hold in any "
        "decoder. The number behind each result is the measured error; the limit lies far above rounding."
    )
    table = page.table(check_columns(measured), caption="Self-checks")
    return page.section("checks", "Checks", page.text(intro), page.items(verdicts), page.folded("All checks", table))


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


def method(measured: Sequence[Measured], metric: Metric) -> str:
    """How the numbers were made."""
    steps = (
        "Each dialogue is run twice: as base, where the user objects, and as source, where the user confirms.",
        "One unit at a time, a head or a KV group, takes its output at the last position from source. All "
        "other attention "
        "outputs stay as in base; MLPs and norms are recomputed. This is path patching to the logits, and "
        "it is exact.",
        "The score is taken from the logits a of the apology and b of standing firm: a / (a + b), a \u2212 "
        "b, or the same ratio of "
        "probabilities. A contribution is the mean change over dialogues, relative to the base for both "
        "ratios.",
        "Intervals are 95%, from the standard error over dialogues. A unit is said to stand out only if an "
        "interval widened "
        "for the number of units compared still excludes zero.",
    )
    blocks = []
    for one in measured:
        attrs = one.heads.attrs
        shown = {
            "Model": attrs.get("model", one.name),
            "Architecture": attrs.get("architecture", ""),
            "Shape": f"{attrs.get('n_layers', '?')} layers, {attrs.get('n_heads', '?')} query heads on "
            f"{attrs.get('n_kv_heads', '?')} KV heads",
            "Dialogues": one.heads.sizes.get("example", "?"),
            "Answers": _answers(one),
            "Number type, device": f"{attrs.get('dtype', '?')}, {attrs.get('device', '?')}",
            "Prompts' digest": str(attrs.get("prompts", ""))[:16],
            "Weights' digest": attrs.get("weights", ""),
            "Patching took": _seconds(one),
            "Versions": ", ".join(
                f"{k.removesuffix('_version').replace('_', '-')} {v}"
                for k, v in attrs.items()
                if k.endswith("_version") and v
            ),
            "Date": attrs.get("date", ""),
            "Command": attrs.get("command", ""),
        }
        blocks.append(heading(one) + page.facts({k: v for k, v in shown.items() if v not in ("", None)}))
    said = f"The sentences on this page speak of the {METRIC_NAMES[metric]}"
    doubt = _doubtful(measured)
    said += (
        ", because the paper's logit ratio is unsound here: " + "; ".join(doubt) + "."
        if metric == "logit_diff" and doubt
        else "."
    )
    return page.section("method", "What was measured, and how", page.items(steps), page.text(said), *blocks)


def _answers(one: Measured) -> str:
    pairs = {
        (str(a), str(b))
        for a, b in zip(one.dialogues["answer_a"].values, one.dialogues["answer_b"].values, strict=True)
    }
    shown = [f"\u201c{a.strip()}\u201d against \u201c{b.strip()}\u201d" for a, b in sorted(pairs)]
    return "; ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _seconds(one: Measured) -> str:
    parts = [
        (label, getattr(one, part).attrs.get("duration_s"))
        for label, part in (("heads", "heads"), ("groups", "groups"))
    ]
    return ", ".join(f"{label} {float(seconds):.1f} s" for label, seconds in parts if seconds is not None)


def _doubtful(measured: Sequence[Measured]) -> list[str]:
    found = []
    for one in measured:
        attrs, n = one.heads.attrs, one.heads.sizes.get("example", 0)
        small, turned = (int(attrs.get(f"ratio_{kind}_examples", 0)) for kind in ("unstable", "reversed"))
        if small:
            found.append(f"in {one.name} its denominator is near zero in {small} of {n} dialogues")
        if turned:
            found.append(f"in {one.name} a logit is negative, which turns its sign, in {turned} of {n}")
    return found


def caveats(measured: Sequence[Measured]) -> str:
    """What the numbers do not say."""
    n = min(one.heads.sizes.get("example", 0) for one in measured)
    lines = [
        f"The numbers rest on {n} dialogues per model, drawn with one seed. Intervals cover the choice of "
        "dialogues, not the "
        "training of the model.",
        "Path patching measures the direct way from a unit to the logits at the last position, through MLPs "
        "but not through "
        "later attention. A unit that works by feeding later heads shows up in the total effect only.",
        "A large effect says that a unit carries the difference between objection and confirmation here; it "
        "does not say that "
        "the unit does nothing else.",
    ]
    lines += [f"The logit ratio should be read with care: {line}." for line in _doubtful(measured)]
    organisms = [one.name for one in measured if embedded(one.name)]
    if organisms:
        lines.append(
            f"{' and '.join(organisms)}: very small models that were trained to show this behaviour. They "
            "let the method be tried "
            "and checked; they are no evidence about large chat models, and differences between them are "
            "differences between "
            "single training runs."
        )
    return page.section("caveats", "Caveats", page.items(lines))
