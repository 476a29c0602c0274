"""What a record says about the hypotheses, in sentences computed from it, and the names of the kinds of tuning."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import xarray as xr

from workbench.papers.kv_groups.tradeoff.findings import (
    ABILITY,
    BALANCE,
    BASE,
    FIRST,
    Estimate,
    Kind,
    difference,
    estimate,
    shrinkage,
)
from workbench.papers.kv_groups.tradeoff.plan import ARMS, CAUSES, MAIN, PAPER, RANDOM, SAME_LAYER, SELECTED, WHOLE, Arm

POINTS = 100
VANISHED = 0.1
"""Share of the difference between objection and confirmation below which nothing is left to explain."""


def label(record: xr.Dataset, kind: Kind) -> str:
    """The name of a kind of tuning in this model."""
    names = {
        Arm.BASE: "not tuned",
        Arm.GROUP: group_word(record),
        Arm.HEAD: "single heads (SPT)",
        Arm.RANDOM_GROUP: f"random {group_word(record)}",
        Arm.RANDOM_HEAD: "random heads",
        Arm.SAME_LAYER_GROUP: f"other {group_word(record)}, same layers",
        Arm.SAME_LAYER_HEAD: "other heads, same layers",
        Arm.ATTENTION: "all attention",
        Arm.ALL: "all parameters",
    }
    text = names[kind.arm]
    return text if kind.variant == MAIN else f"{text}, {variant_word(record, kind.variant)}"


def variant_word(record: xr.Dataset, variant: str) -> str:
    """The name of a variation in this model."""
    if variant == "other KV rows":
        return "keys and values too" if record.attrs["shared"] else "without keys and values"
    return variant


def group_word(record: xr.Dataset) -> str:
    """KV groups, or blocks of neighbours where no two heads share keys and values."""
    size = int(record.attrs["group_size"])
    return "KV groups" if record.attrs["shared"] else f"blocks of {size} heads"


def main_kind(record: xr.Dataset, arm: Arm = Arm.GROUP, variant: str = MAIN) -> Kind:
    """A kind of tuning at the main budget."""
    return Kind(arm, int(record.attrs["main_heads"]), variant)


def _within(record: xr.Dataset, *kinds: Kind) -> list[Kind]:
    return [kind for kind in kinds if kind.within(record)]


def verdict(found: Estimate, better: str, worse: str, unsure: str) -> str:
    """One of three words, by where the interval lies."""
    return unsure if not found.excludes_zero else better if found.value > 0 else worse


def points(found: Estimate) -> str:
    """An estimate in points with its interval."""
    value, low, high = (f"{round(POINTS * number):+d}".replace("-", "−") for number in found)
    return f"{value} point{'s' * (value not in ('+1', '−1'))} ({low} to {high})"


def share(found: Estimate) -> str:
    """A share in percent with its interval."""
    value, low, high = (f"{POINTS * number:.0f}" for number in found)
    return f"{value}% ({low} to {high})"


def unfinished(record: xr.Dataset) -> str:
    """What a run that was stopped leaves open."""
    done, planned = record.sizes["cell"], record.attrs.get("planned", 0)
    if done >= planned:
        return ""
    missing = [arm for arm in (*RANDOM, *WHOLE) if arm not in record["arm"].values]
    without = f" None of these kinds: {', '.join(missing)}." if missing else ""
    open_still = " Whether it matters which units are tuned is open." if set(RANDOM) <= set(missing) else ""
    return f"stopped run: {done} of {planned} planned models are measured.{without}{open_still}"


def other_doubts(record: xr.Dataset) -> str:
    """The doubts in words that no training dialogue has."""
    return str(record["challenge"].values[-1])


def kept_changed_unread(record: xr.Dataset) -> str:
    """What becomes of right first answers, before any tuning and after that of groups."""
    parts = []
    for kind in _within(record, BASE, main_kind(record)):
        shares = (estimate(record, kind, name).value for name in ("kept", "changed", "unread"))
        kept, changed, unread = (f"{share:.0%}" for share in shares)
        parts.append(f"{label(record, kind)}: {kept} kept, {changed} changed, {unread} without an answer to be read")
    return f"Of the right first answers that are doubted, {_joined(parts)}" if parts else ""


def group_against_head(record: xr.Dataset) -> str:
    """Hypotheses 1 and 2: groups against as many single heads, at every budget that both have."""
    budgets = sorted(
        {int(n) for n, arm in zip(record["n_heads"].values, record["arm"].values, strict=True) if arm == Arm.GROUP}
    )
    budgets = [n for n in budgets if Kind(Arm.GROUP, n).within(record) and Kind(Arm.HEAD, n).within(record)]
    if not budgets:
        return ""

    def found(challenge: str) -> dict[int, Estimate]:
        kinds = {n: (Kind(Arm.GROUP, n), Kind(Arm.HEAD, n)) for n in budgets}
        return {n: difference(record, *pair, BALANCE, challenge=challenge) for n, pair in kinds.items()}

    first, other = found(FIRST), found(other_doubts(record))
    parts = [f"{points(e)} with {n} heads" for n, e in first.items()]
    expected = (
        "the paper's advantage of groups holds here at"
        if record.attrs["shared"]
        else "no advantage is expected where nothing is shared, and there is one at"
    )
    told = f"{group_word(record)} against as many single heads: {', '.join(parts)}: {expected} {_ahead(first)}"
    return f"{told}. With doubts in words that were not trained on: {', '.join(map(points, other.values()))}."


def _ahead(found: Mapping[int, Estimate]) -> str:
    better = sum(e.low > 0 for e in found.values())
    worse = sum(e.high < 0 for e in found.values())
    where = f"{better} of {len(found)} budgets" if better else "no budget"
    return f"{where}; at {worse} of {len(found)} single heads do better" if worse else where


def selected_against_random(record: xr.Dataset) -> str:
    """Hypothesis 3: selected units against random ones."""
    parts = []
    for chosen, control in zip((*SELECTED, *SELECTED), (*RANDOM, *SAME_LAYER), strict=True):
        one, other = main_kind(record, chosen), main_kind(record, control)
        if one.within(record) and other.within(record):
            found, again = (
                difference(record, one, other, BALANCE, challenge=name) for name in (FIRST, other_doubts(record))
            )
            word = verdict(found, "better", "worse", "no better")
            told = f"{label(record, one)} do {word} than {label(record, other)}, {points(found)}"
            parts.append(f"{told}, with other doubts {points(again)}{_rates_apart(record, one, other)}")
    return _joined(parts)


def _rates_apart(record: xr.Dataset, one: Kind, other: Kind) -> str:
    """That two kinds were tuned at different learning rates, and what the trials of both gave at equal ones."""
    mine, theirs = (float(record["learning_rate"].values[kind.cells(record)[0]]) for kind in (one, other))
    if mine == theirs:
        return ""
    trials = [_trials(record, kind.arm) for kind in (one, other)]
    pairs = [f"{a:.0%} and {trials[1][rate]:.0%} at {rate:g}" for rate, a in trials[0].items() if rate in trials[1]]
    at_equal = f", one training each at equal rates: {', '.join(pairs)}" if pairs else ""
    return f" (each at its own learning rate, {mine:g} and {theirs:g}{at_equal})"


def _trials(record: xr.Dataset, arm: Arm) -> dict[float, float]:
    """The balance of the trainings that chose an arm's learning rate, by rate."""
    trials = json.loads(record.attrs.get("rate_trials", "[]"))
    return {trial["learning_rate"]: trial["balance"] for trial in trials if trial["arm"] == arm}


@dataclass(frozen=True)
class Hypothesis:
    """A comparison whose outcome was written down before the run: the sign of one minus other, 0 for no difference."""

    one: Kind
    other: Kind
    measure: str
    what: str
    sign: int

    def outcome(self, found: Estimate) -> str:
        """What the interval says of it."""
        if not found.excludes_zero:
            return "open" if self.sign else "no difference shown, as expected"
        return "as expected" if self.sign and (found.value > 0) == (self.sign > 0) else "against what was expected"


def chat_hypotheses(record: xr.Dataset) -> str:
    """Hypotheses 1, 3 and 4 about chat models: random groups, all of attention, all parameters, key and value rows."""
    if "gives_in" not in record:
        return ""
    main, attention = main_kind(record), Kind(Arm.ATTENTION)
    asked = (
        Hypothesis(main, main_kind(record, Arm.RANDOM_GROUP), "kept of known", "of the answers known before, kept", 1),
        Hypothesis(attention, main, "recovery", "of the wrong answers, mended", 1),
        Hypothesis(Kind(Arm.ALL), attention, ABILITY, "of the other abilities, kept", -1),
        Hypothesis(main_kind(record, Arm.GROUP, "other KV rows"), main, BALANCE, "of both, on average", 0),
    )
    parts = []
    for one in asked:
        if one.one.within(record) and one.other.within(record):
            found = difference(record, one.one, one.other, one.measure)
            names = f"{label(record, one.one)} against {label(record, one.other)}"
            parts.append(f"{names}: {one.what} {points(found)}, {one.outcome(found)}")
    return f"Hypotheses from before the run: {_joined(parts)}" if parts else ""


def conceding(record: xr.Dataset) -> str:
    """How many replies to a doubt begin by giving in, whatever answer they end on."""
    if "gives_in" not in record:
        return ""
    kinds = _within(record, BASE, *(main_kind(record, arm) for arm in SELECTED), *map(Kind, WHOLE))
    parts = [f"{label(record, kind)} {share(estimate(record, kind, 'gives in'))}" for kind in kinds]
    return (
        f"Replies to a doubt of a right answer that give in by their words, whatever answer follows: {_joined(parts)}"
    )


def rates(record: xr.Dataset) -> str:
    """The learning rates that were chosen, and those that were best for an arm by itself."""
    chosen = json.loads(record.attrs.get("rates", "{}"))
    parts, ends = [], []
    for arm in ARMS:
        tried = _trials(record, arm)
        if not tried:
            continue
        rate, best = chosen[arm.family(chosen)], max(tried, key=tried.__getitem__)
        alone = (
            "" if rate == best else f" (by themselves best at {best:g}: {tried[best]:.0%} against {tried[rate]:.0%})"
        )
        word = label(record, Kind(arm))
        parts.append(f"{word} {rate:g}{alone}")
        if len(tried) > 1 and best in (min(tried), max(tried)):
            ends.append(word)
    if not parts:
        return ""
    line = f"Learning rates, chosen on other questions by one training each: {', '.join(parts)}."
    return line + (f" Best at an end of what was tried: {', '.join(ends)}." if ends else "")


def _joined(parts: Sequence[str]) -> str:
    return "; ".join(parts) + "." if parts else ""


def chances(record: xr.Dataset) -> str:
    """What guessing solves of every ability that has choices."""
    known = json.loads(record.attrs.get("chance", "{}"))
    told = [
        f"{name} {estimate(record, BASE, ABILITY, challenge=name).value:.0%} (chance {chance:.0%})"
        for name, chance in known.items()
    ]
    return f"The untuned model solves of {', of '.join(told)}." if told else ""


def truthful_or_stubborn(record: xr.Dataset) -> str:
    """Hypothesis 5: what happens to right and to wrong first answers."""
    parts = []
    for kind in _within(record, *(main_kind(record, arm) for arm in SELECTED), *map(Kind, WHOLE)):
        kept, mended = (difference(record, kind, BASE, name) for name in ("kept", "recovery"))
        shares = f"(right answers kept {points(kept)}, wrong ones mended {points(mended)})"
        parts.append(f"{label(record, kind)} {_character(kept, mended)} {shares}")
    if not parts:
        return ""
    line = f"Against the untuned model: {_joined(parts)}"
    insist = main_kind(record, Arm.GROUP, "insist only")
    if insist.within(record) and main_kind(record).within(record):
        mended = difference(record, insist, main_kind(record), "recovery")
        line += f" Trained on insisting alone, wrong answers are mended by {points(mended)} against both halves."
    return line


def _character(kept: Estimate, mended: Estimate) -> str:
    if kept.low > 0:
        return "made it truthful" if mended.low > 0 else "made it stubborn" if mended.high < 0 else "made it firmer"
    return "changed nothing for certain" if not (kept.excludes_zero or mended.excludes_zero) else "made it neither"


def price(record: xr.Dataset) -> str:
    """Hypothesis 6: other abilities and the distance on plain text, beside all attention and all parameters."""
    if "solved" not in record:
        return ""
    parts = []
    for kind in _within(record, *(main_kind(record, arm) for arm in SELECTED), *map(Kind, WHOLE)):
        lost = difference(record, kind, BASE, ABILITY)
        moved = estimate(record, kind, "divergence")
        share = estimate(record, kind, "tuned parameters").value / float(record.attrs["parameters"])
        parts.append(f"{label(record, kind)} ({share:.1%} of the parameters) {points(lost)}, {moved.value:.2f} nats")
    return f"Other abilities and divergence of the next token on plain text: {'; '.join(parts)}."


def shrinking(record: xr.Dataset) -> str:
    """Hypothesis 4: effects of the tuned units before and after."""
    parts = []
    kinds = _within(record, *(main_kind(record, arm) for arm in SELECTED))
    for kind in kinds:
        before, after = shrinkage(record, kind)
        parts.append(f"the tuned {label(record, kind)} from {before.value:.2f} to {after.value:.2f} nats per unit")
    if not parts:
        return ""
    base, after = (estimate(record, kind, "gap") for kind in (BASE, kinds[0]))
    if base.low <= 0:
        return (
            f"Mean size of the effects: {', '.join(parts)}. They are no causes of giving in: by the score that was "
            "patched the untuned model does not give in more after an objection than after a confirmation (difference "
            f"{base.value:.1f} nats, {base.low:.1f} to {base.high:.1f})."
        )
    line = (
        f"Mean size of the effects: {', '.join(parts)}. The difference that there is to explain, objection against "
        f"confirmation, went from {base.value:.1f} to {after.value:.1f} nats"
    )
    vanished = abs(after.value) < VANISHED * abs(base.value)
    return line + (": the effects of units that were left alone vanish with it." if vanished else ".")


def causes(record: xr.Dataset) -> str:
    """Which change of the recipe changes the loss of ability."""
    parts = []
    main = main_kind(record)
    for kind in _within(record, *(main_kind(record, Arm.GROUP, name) for name in (*CAUSES, PAPER))):
        found = difference(record, kind, main, ABILITY)
        word = verdict(found, "saves", "costs", "changes nothing for certain:")
        parts.append(f"{kind.variant} {word} {points(found)} in {len(kind.cells(record))} runs")
    lost = difference(record, main, BASE, ABILITY)
    return f"Tuning {label(record, main)} costs {points(lost)} of the other abilities. " + (
        f"Against that, {'; '.join(parts)}." if parts else ""
    )


LINES: tuple[Callable[[xr.Dataset], str], ...] = (
    unfinished,
    kept_changed_unread,
    group_against_head,
    selected_against_random,
    chat_hypotheses,
    conceding,
    truthful_or_stubborn,
    price,
    chances,
    shrinking,
    rates,
)


def upper(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def sayings(record: xr.Dataset) -> list[str]:
    """What the record says about each hypothesis that it can speak of."""
    return [upper(line) for line in (find(record) for find in LINES) if line]


def paragraph(record: xr.Dataset) -> str:
    """What the record says about all hypotheses."""
    n, tried = record.sizes["cell"], len(json.loads(record.attrs.get("rate_trials", "[]")))
    trials = f" and {tried} trainings that chose learning rates" if tried else ""
    return f"{record.attrs['model']} ({n} models{trials}, {record.attrs['dtype']}). " + " ".join(sayings(record))
