"""Sentences about what a model does after an objection and after a confirmation, and what may be concluded from it."""

import numpy as np
import xarray as xr

from workbench.papers.kv_groups.verdicts import GivingIn, Rate, giving_in


def behaviour_line(result: xr.Dataset) -> str:
    """How often the model gives in after either last sentence, and what the token score can say about it."""
    found = giving_in(result)
    return " ".join(part for part in (_generated(found), _scored(found), _answers(result, found)) if part)


def _generated(found: GivingIn) -> str:
    if found.generated is None:
        return ""
    base, source = (_interval(found.generated[side]) for side in ("base", "source"))
    verdict = {
        "more": "The objection makes it give in more often.",
        "fewer": "It gives in more often after a confirmation: the objection is not what makes it give in.",
        "unclear": "The difference is not distinguishable from zero with so many dialogues.",
    }[found.difference]
    return (
        f"Of its own replies to {found.n_replies} dialogues about a right answer {base} give in after an objection and "
        f"{source} after a confirmation. {verdict}"
    )


def _scored(found: GivingIn) -> str:
    if found.score is None or found.score_gap is None:
        return ""
    text = (
        f"By the answers' tokens the mean probability of giving in is {percent(found.score['base'])} after an "
        f"objection over {found.n} dialogues and {percent(found.score['source'])} after a confirmation of the same "
        "answer."
    )
    if found.explains:
        value, low, high = (100 * x for x in (found.score_gap.value, found.score_gap.low, found.score_gap.high))
        text += (
            f" The difference, {value:.0f} points ({low:.0f} to {high:.0f}), is what the patching below takes apart."
        )
    return text


def _answers(result: xr.Dataset, found: GivingIn) -> str:
    """Whether the answers' tokens stand for what the model says, and what that means for the maps."""
    parts = []
    if "openers_gives_in" in result.attrs and found.coverage is not None:
        sets = [
            " / ".join(f"\u201c{o.strip()}\u201d" for o in np.atleast_1d(result.attrs[f"openers_{s}"]))
            for s in ("gives_in", "stands_firm")
        ]
        parts.append(
            f"Compared are {sets[0]} with {sets[1]}{_behind(result)}: {found.coverage['base']:.0%} of what it says "
            f"there after an objection and {found.coverage['source']:.0%} after a confirmation."
        )
    if found.auc is not None and np.isfinite(found.auc.low):
        parts.append(
            f"On replies that did not choose them they tell giving in from standing firm with an AUC of "
            f"{found.auc.value:.2f} ({found.auc.low:.2f} to {found.auc.high:.2f}; 0.5 is chance)."
        )
    return " ".join([*parts, void_line(result)]).strip()


def _behind(result: xr.Dataset) -> str:
    """What the replies are made to begin with, if anything."""
    prefix = str(result.attrs.get("prefix", "")).strip()
    if not prefix:
        return ""
    share = result.attrs.get("prefix_share")
    usual = "" if share is None else f", with which {share:.0%} of its replies begin"
    return f" behind \u201c{prefix}\u201d, which is put before them{usual}"


def void_line(result: xr.Dataset, then: str = "no heads or groups are ranked") -> str:
    """Why a result says nothing about the causes of giving in, and what follows from that; "" where it may."""
    found = giving_in(result)
    if found.obstacle is None:
        return ""
    least = min(found.coverage.values()) if found.coverage else 0.0
    why = {
        "no openers": str(result.attrs.get("no_openers", "")),
        "coverage": f"These answers are not what the model says ({least:.1%} of the probability): whether it gives in, "
        "and what makes it, cannot be read off them.",
        "auc": "That is not better than chance: these answers do not tell when this model gives in.",
        "fewer": "The score does not follow what the model does.",
        "gap": "By these answers' score it does not give in more after an objection, so there is no effect to take "
        "apart.",
    }
    return f"{why[found.obstacle]} So effects on the answers should not be read as causes of giving in, and {then}."


def _interval(rate: Rate) -> str:
    return f"{rate.value:.0%} ({rate.low:.0%} to {rate.high:.0%})"


def gives_in_short(result: xr.Dataset) -> str:
    """How often a model gives in, after its name; with a space behind it."""
    found = giving_in(result)
    if found.generated is not None:
        base, source = (_interval(found.generated[side]) for side in ("base", "source"))
        n = found.n_replies
        text = f"gives in to {base} of {n} objections to its right answers and to {source} of the confirmations"
        more = {"more": ". ", "fewer": ", so the objection is not the cause. ", "unclear": ", which may be chance. "}
        return text + more[found.difference]
    if found.score is None:
        return "was measured without probabilities. "
    text = (
        f"gives in with probability {percent(found.score['base'])} after an objection and "
        f"{percent(found.score['source'])} after a confirmation"
    )
    if not found.covered and found.coverage is not None:
        return text + (
            f", as far as two answers can tell that are {min(found.coverage.values()):.1%} of what it says: whether it "
            "gives in was not measured. "
        )
    return text + (". " if found.difference == "more" else ": by these answers it does not show the behaviour. ")


def percent(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * float(value):.1f}%"


def protocol_table(found: xr.Dataset) -> str:
    """Each pooled measure of the two-turn protocol with its interval."""
    rows = []
    for name in found["metric"].values:
        share, low, high = (float(found[f"pooled{end}"].sel(metric=name)) for end in ("", "_low", "_high"))
        told = "no such answers" if share != share else f"{share:6.1%} ({low:.1%} to {high:.1%})"
        rows.append(f"{name!s:18} {told}")
    return "\n".join(rows)
