"""LeaF on a real model, drawn from the record that comes with the package: what its spans rescue beside random ones.

1. Pairs of student and teacher are made of SmolLM2-135M-Instruct: as published and tuned on a data set's training
   answers, or tuned with noise on its weights and tuned. The second kind of student is constructed.
2. The comparison is that of all thresholds together, which is what a result's own sentence tells
   (`workbench.plot.confounders.summary`). It is corrected for the number of pairs (Bonferroni), and where single
   thresholds are told, for these too.
3. Cases were read by eye, some of each pair drawn at random and all where there were few; the labels are data.

`benchmarks/leaf_real.py` and `benchmarks/leaf_record.py` make the record.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from scipy.stats import norm

from workbench.evaluation.local import interval
from workbench.papers.recipes import Drawn, FigureRecipe, listed
from workbench.plot import compose
from workbench.plot.differences import Interval, differences
from workbench.plot.marks import DOTTED, cells, colour_bar, named_ticks
from workbench.plot.theme import ACCENT, AGAINST, SOFT, TOWARDS, house
from workbench.plot.tokens import token_labels
from workbench.runs.results import open_result
from workbench.statistics import matched_interval, mean_interval, t_interval

FOLDER = Path(__file__).parent / "assets"
MODEL = "smollm2-135m-instruct"
TITLES = {
    "letter": "letter of an option",
    "listed": "words of an option",
    "listed, noise": "words of an option, noise",
    "unlisted": "no options shown",
    "unlisted, noise": "no options shown, noise",
    "gsm8k": "GSM8K",
}
"""Pairs by name: how CommonsenseQA is asked, or GSM8K, and whether the student is the teacher with noise."""
SCORES = {
    "occlusion": "occlusion",
    "gradient_difference": "gradient difference",
    "student_gradient": "student's gradient",
    "attention_difference": "attention difference",
    "perplexity": "perplexity",
    "random": "random",
}
TOGETHER = "any"
MOST = 55
"""Per cent at which the axes of the scores end."""
FOUND, RANDOM = "found spans", "random spans"


@dataclass(frozen=True)
class Rescued:
    """The misled questions of a pair that turn right without some span, by the spans of a threshold or of all.

    Attributes:
        pair, n: its name, and its misled questions.
        found, chance: shares by LeaF's spans and by as many random ones, with 95 % intervals over questions.
        excess: their difference, with its 95 % interval.
        corrected: the same with an interval that holds for all comparisons at once.
    """

    pair: str
    n: int
    found: Interval
    chance: Interval
    excess: Interval
    corrected: Interval


@dataclass(frozen=True)
class ReadCase:
    """A span that was read by eye.

    Attributes:
        pair, index: the pair, and the question's place among those held out.
        kind: "accepted" or "not accepted", of those that LeaF found; "random", one without which both are right.
        span: its text.
        label: what it is, one of the file's labels.
        outcome: what its removal does.
        random_accepted: of five random spans in its place, those without which both are right.
    """

    pair: str
    index: int
    kind: str
    span: str
    label: str
    outcome: str
    random_accepted: int | None


def record() -> xr.Dataset:
    """All pairs and their misled questions (`question`): what was rescued, and in how many draws of random spans."""
    return open_result(FOLDER / f"{MODEL}.nc")


def read_cases() -> list[ReadCase]:
    """The spans that were read by eye."""
    told = json.loads((FOLDER / f"{MODEL}-read.json").read_text(encoding="utf-8"))
    return [ReadCase(**dict(zip(told["columns"], row, strict=True))) for row in told["cases"]]


def rescues(found: xr.Dataset, tried: str = TOGETHER, comparisons: int | None = None) -> list[Rescued]:
    """What each pair's spans rescue beside random ones.

    Args:
        found: from `record`.
        tried: a threshold by name, or "any" of them.
        comparisons: for how many the corrected interval holds; by default the number of pairs.
    """
    level = 1 - 0.05 / (comparisons or found.sizes["pair"])
    made = []
    for place, name in enumerate(found["pair"].values):
        own = found.sel(tried=tried).isel(question=found["place"].values == place)
        rescued, chance = own["rescued"].values.astype(float), own["draws_rescued"].values / found.attrs["draws"]
        apart = rescued - chance
        made.append(
            Rescued(
                str(name),
                len(apart),
                interval(rescued),
                _around(chance, mean_interval(chance)),
                _around(apart, matched_interval(apart)),
                _around(apart, matched_interval(apart, level)),
            )
        )
    return made


def together(found: xr.Dataset) -> Interval:
    """The excess over all misled questions of all pairs, with a 95 % interval over questions, each with its pairs."""
    apart = (found["rescued"] - found["draws_rescued"] / found.attrs["draws"]).sel(tried=TOGETHER).values
    form = found["form"].values[found["place"].values]
    question = [
        ("gsm8k" if f == "gsm8k" else "commonsenseqa", int(i)) for f, i in zip(form, found["index"], strict=True)
    ]
    places = {one: row for row, one in enumerate(dict.fromkeys(question))}
    member = np.array([places[one] for one in question])
    of_question = apart.mean() + np.bincount(member, apart - apart.mean()) * len(places) / len(apart)
    return _around(apart, t_interval(of_question))


def _around(values: np.ndarray, ends: Any) -> Interval:
    return float(values.mean()), float(ends[0]), float(ends[1])


def first_spans(found: xr.Dataset, pairs: Sequence[str]) -> dict[str, tuple[Interval, float]]:
    """By score: the share of some pairs' questions that the span ranked first rescues, and a random one as long."""
    places = [found["pair"].values.tolist().index(name) for name in pairs]
    own = found.isel(question=np.isin(found["place"].values, places))
    sizes = np.bincount(own["place"].values, minlength=found.sizes["pair"])[places]
    chance = (sizes / sizes.sum()) @ found["first_chance"].isel(pair=places).values
    by_score = dict(zip(found["score"].values.tolist(), chance.tolist(), strict=True))
    return {s: (interval(own["first_rescued"].sel(score=s).values), by_score[s]) for s in SCORES}


def clear_first_spans(found: xr.Dataset) -> list[tuple[str, str]]:
    """Pairs and scores whose first span rescues more than one random span as long, corrected for all pairs and scores.

    The record holds 95 % intervals; their centre and spread are those of any other level.
    """
    low, high = found["first_excess"].transpose("end", "pair", "score").values
    wider = norm.ppf(1 - 0.025 / low.size) / norm.ppf(0.975)
    clear = np.argwhere((low + high) / 2 - wider * (high - low) / 2 > 0)
    return [(str(found["pair"].values[i]), str(found["score"].values[j])) for i, j in clear]


def real_model() -> Drawn:
    """Rescued beside chance by pair, and by what each score ranks first."""
    found = record()
    pairs = rescues(found)
    noise = [one.pair for one in pairs if one.pair.endswith("noise")]
    tuned = [one.pair for one in pairs if one.pair not in noise]
    figure = compose.grid(
        [[_shares(pairs), _excesses(pairs, together(found))], [_first(found, tuned), _first(found, noise)]],
        [
            ["Rescued: both models right without a span", "Excess over random spans"],
            ["First span by score, tuned teacher", "First span by score, noisy student"],
        ],
        title=f"LeaF on {MODEL}",
        gap=0.26,
        legends="rows",
    )
    return Drawn(figure, " ".join(findings(found)))


def tokens() -> Drawn:
    """Two questions with their tokens coloured by gradient, as the paper shows them, and what was read by eye."""
    found = record()
    panels = dict(_case(found.isel(case=i)) for i in (1, 0))
    figure = compose.stack(panels, title=f"Tokens that LeaF blames in {MODEL}")
    alike = dict(zip(found["pair"].values.tolist(), found["agreement"].values.tolist(), strict=True))
    return Drawn(
        figure,
        f"{reading(read_cases())} {MAPS} The score is what is left of two gradients that are alike: their mean "
        f"rank correlation over a question's tokens is {min(alike.values()):.2f} to {max(alike.values()):.2f} by pair.",
    )


MAPS = (
    "Maps, with the student's answer before and after: a word that points to the wrong answer, and a case of the "
    "commonest kind. Each row runs from its least to its largest value; the last is the paper's score, dark where the "
    "student looks and the teacher does not. The removed token is bold; options follow the question and stay."
)


def findings(found: xr.Dataset) -> list[str]:
    """What the pairs and scores show, computed from the record."""
    pairs = rescues(found)
    alone = [TITLES[one.pair] for one in pairs if one.excess[1] > 0]
    held = [TITLES[one.pair] for one in pairs if one.corrected[1] > 0]
    each = rescue_counts(found)
    letter = found.sel(pair="letter")
    by_letter = float(letter["replies"].sel(model="teacher", count="right") / letter["n"])
    told = [
        f"{sum(one.n for one in pairs)} misled questions in {len(pairs)} pairs (held out, {each}). LeaF's spans at "
        "thresholds 0.05, 0.10 and 0.15 together, beside as many random spans as long (mean of five draws): "
        + "; ".join(
            f"{TITLES[one.pair]} {one.found[0]:.0%} and {one.chance[0]:.0%}, {_points(one.excess)}" for one in pairs
        )
        + f" points. Beyond chance by itself: {listed(alone) if alone else 'none'}; corrected for {len(pairs)} pairs: "
        f"{listed(held) if held else 'none'}.",
        f"All questions of all pairs together: {_points(together(found))} points, a comparison that was not planned.",
    ]
    chance = 1 / float(letter["options"])
    told.append(f"The tuned model that answers by letter is right on {by_letter:.1%}, chance being {chance:.0%}.")
    clear = [f"{SCORES[score]} ({TITLES[pair]})" for pair, score in clear_first_spans(found)]
    told.append(
        "First spans of single scores beyond one random span as long, corrected for pairs and scores: "
        f"{listed(clear) if clear else 'none'}."
    )
    pair = "listed, noise"
    (occluded, chance), _ = (first_spans(found, [pair])[score] for score in ("occlusion", "random"))
    one = found.sel(pair=pair)
    told.append(
        f"With noise and the words of an option, occlusion's first span rescues {occluded[0]:.0%}, a random one "
        f"{chance:.0%}. But occlusion tries each of {float(one['tokens']):.0f} tokens with the right answer at hand, "
        f"and {float(one['different_random_spans']):.0f} different random spans together rescue "
        f"{float(one['rescued_by_some_draw']):.0%} (dotted: the same over the panel's pairs). "
        "Intervals: 95 % over questions."
    )
    return told


def rescue_counts(found: xr.Dataset) -> str:
    """Questions held out, by data set."""
    counts = dict(zip(found["form"].values.tolist(), found["n"].values.tolist(), strict=True))
    return f"{counts['listed']:,} of CommonsenseQA and {counts['gsm8k']:,} of GSM8K"


def reading(cases: Sequence[ReadCase]) -> str:
    """What the spans are that were read by eye."""
    accepted, drawn = ([one for one in cases if one.kind == kind] for kind in ("accepted", "random"))
    labels = Counter(one.label for one in accepted)
    pointing = [one for one in accepted if one.label == "distraction"]
    alone = sum(one.random_accepted == 0 for one in pointing)
    others = sum(one.label == "distraction" for one in drawn)
    return (
        f"Of {len(accepted)} proved spans read by one reader, who knew which they were, "
        + listed([f"{labels[label]} {words}" for label, words in LABELS.items() if labels[label]])
        + f"; for {alone} of the first {len(pointing)} none of five random spans rescues the question. Of {len(drawn)} "
        f"random spans that rescue, {others} point to the wrong answer."
    )


LABELS = {
    "distraction": "point to the wrong answer given",
    "form of the reply": "change how the reply is put or read",
    "question changed": "take out what is asked",
    "no bearing": "are punctuation, function words or words without a tie to it",
}


def _points(ends: Interval) -> str:
    mean, low, high = (100 * end for end in ends)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _percent(ends: Interval) -> Interval:
    mean, low, high = (100 * end for end in ends)
    return mean, low, high


def _shares(pairs: Sequence[Rescued]) -> go.Figure:
    rows = {TITLES[one.pair]: {FOUND: _percent(one.found), RANDOM: _percent(one.chance)} for one in pairs}
    return differences(rows, label="misled questions (%)", colours=(TOWARDS, SOFT), zero=False)


def _excesses(pairs: Sequence[Rescued], pooled: Interval) -> go.Figure:
    corrected = f"for {len(pairs)} pairs at once"
    rows = {TITLES[one.pair]: {"95 %": _percent(one.excess), corrected: _percent(one.corrected)} for one in pairs}
    return differences(rows | {"all together": {"95 %": _percent(pooled)}}, label="points", colours=(ACCENT, AGAINST))


def _first(found: xr.Dataset, pairs: Sequence[str]) -> go.Figure:
    rows = {
        SCORES[score]: {FOUND: _percent(share), RANDOM: _percent((chance, chance, chance))}
        for score, (share, chance) in first_spans(found, pairs).items()
    }
    figure = differences(rows, label="misled questions (%)", colours=(TOWARDS, SOFT), zero=False)
    own = found.sel(pair=list(pairs))
    sizes = np.array([one.n for one in rescues(found) if one.pair in pairs])
    some = float((own["rescued_by_some_draw"].values * sizes).sum() / sizes.sum())
    figure.add_vline(x=100 * some, line=DOTTED)
    return figure.update_xaxes(range=[0, MOST])


def _case(one: xr.Dataset) -> tuple[str, go.Figure]:
    """A question's tokens in rows of colours, and what its title says."""
    words = [str(word) for word in one["case_word"].values if word]
    without = one["case_without"].item()
    labels = token_labels([word.strip() for word in words])
    labels = [
        f"<b>{label}</b>" if word.strip() == without else label for label, word in zip(labels, words, strict=True)
    ]
    looks = [str(look) for look in one["look"].values]
    levels = one["case_level"].values[:, : len(words)]
    hover = "%{x}<br>%{y}: %{z:.2f}<extra></extra>"
    figure = cells(levels, 0, 1, "gradient", hover, colorbar=colour_bar("", nticks=3))
    house(figure, height=230)
    figure.update_xaxes(**named_ticks(labels), tickangle=-90)
    figure.update_yaxes(**named_ticks(looks), range=[len(looks) - 0.5, -0.5])
    return f"“{one['case_said'].item()}” → “{one['case_gold'].item()}” without “{without}”", figure


RECIPES = (FigureRecipe("leaf/real-model", real_model), FigureRecipe("leaf/real-tokens", tokens))
