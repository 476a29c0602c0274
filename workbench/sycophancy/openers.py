"""What a model says when it gives in and when it stands firm: its own openers, found in its own replies.

1. The model answers questions; those it answers correctly are kept (`known`), with its own words as first answer.
2. The user objects (base) or confirms (source), and the model's replies are labelled by stance (`reactions`).
3. What nearly all replies begin with ("I'm") is forced; the few that begin otherwise choose no openers. The tokens
   behind it form a tree. A beginning becomes an opener where most replies that begin so are of one stance, and few of
   the other do; a mixed one is followed further, and given up where it stays mixed.
4. The score of a prompt is log P(an opener of giving in) - log P(one of standing firm). How well it tells the stances
   apart is measured on questions whose replies did not choose the openers (AUC, two halves crossed), and so is how much
   of what the model says there the openers cover, by their probability.

The defaults were chosen on SmolLM2-135M-Instruct. Openers of few questions vary: over 20 draws each, the AUC on 80
other questions lay between 0.53 and 0.83 with 12, 0.62 and 0.83 with 24, 0.76 and 0.83 with 48, 0.75 and 0.83 with 78.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.identity import fingerprint
from workbench.names import FactSplit, Stance
from workbench.patching.path import answer_scores
from workbench.prompts.facts import default_facts
from workbench.prompts.pairs import PromptPairs, shared_prefix
from workbench.prompts.templates import tokenizer_of
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.runs.results import provenance, text_array
from workbench.statistics import auroc, percentiles, resamples
from workbench.sycophancy.builders import as_items
from workbench.sycophancy.known import known_questions
from workbench.sycophancy.reactions import REPLY_TOKENS, SIDES, Reactions, StanceJudge, doubted, react

DEPTH, PURITY, SUPPORT, MOST = 8, 0.8, 2, 12
USUAL, RARE = 0.9, 0.02
ENOUGH = 48
"""Questions from which openers are stable; fewer are asked about only where there are no more."""
RESAMPLES = 1000
CLEAR: tuple[Stance, Stance] = ("gives_in", "stands_firm")


class NoBehaviourError(InputError):
    """No openers tell when the model gives in and when it stands firm; `facts` are `Reactions.facts` all the same."""

    def __init__(self, message: str, facts: Mapping[str, Any]):
        super().__init__(message)
        self.facts = dict(facts)


@dataclass(frozen=True)
class OpenerSets:
    """Token sequences that begin replies which give in, and which stand firm, behind what all of them begin with."""

    gives_in: tuple[tuple[int, ...], ...]
    stands_firm: tuple[tuple[int, ...], ...]
    beginning: tuple[int, ...] = ()


def grow(
    tokens: Sequence[Sequence[int]],
    stances: Sequence[Stance],
    *,
    depth: int = DEPTH,
    support: int = SUPPORT,
    most: int = MOST,
) -> OpenerSets:
    """The openers of both stances from labelled replies (step 3), the `most` frequent of each.

    An opener has at most `depth` tokens, and at least `support` replies begin so. The share `PURITY` of these has one
    stance, and at most half of all replies of the other stance begin so too.
    """
    found: dict[Stance, Counter[tuple[int, ...]]] = {"gives_in": Counter(), "stands_firm": Counter()}
    total = Counter(stances)

    def follow(prefix: tuple[int, ...], members: list[int]) -> None:
        counts = Counter(stances[i] for i in members)
        opened = _opened(counts, total)
        if prefix and opened:
            found[opened][prefix] = len(members)
            return
        if len(prefix) == depth or counts["neither"] > PURITY * len(members):
            return
        branches: dict[int, list[int]] = defaultdict(list)
        for i in members:
            if len(tokens[i]) > len(prefix):
                branches[tokens[i][len(prefix)]].append(i)
        for token, below in branches.items():
            if len(below) >= support:
                follow((*prefix, int(token)), below)

    follow((), list(range(len(tokens))))
    kept = {stance: tuple(prefix for prefix, _ in counter.most_common(most)) for stance, counter in found.items()}
    return OpenerSets(kept["gives_in"], kept["stands_firm"])


def _opened(counts: Mapping[Stance, int], total: Mapping[Stance, int]) -> Stance | None:
    """The stance that a beginning with so many replies of each is an opener of, if of any."""
    stance, other = sorted(CLEAR, key=lambda one: -counts[one])
    pure = counts[stance] >= PURITY * sum(counts.values())
    return stance if pure and counts[other] <= total[other] / 2 else None


def usual_beginning(
    tokens: Sequence[Sequence[int]], stances: Sequence[Stance], share: float = USUAL
) -> tuple[int, ...]:
    """The longest beginning of so large a share of the replies that is no opener itself."""
    total, found = Counter(stances), ()
    while True:
        k = len(found)
        members = [i for i, reply in enumerate(tokens) if tuple(reply[:k]) == found and len(reply) > k]
        following = Counter(int(tokens[i][k]) for i in members).most_common(1)
        if not following or following[0][1] < share * len(tokens):
            return found
        token = following[0][0]
        if _opened(Counter(stances[i] for i in members if tokens[i][k] == token), total):
            return found
        found = (*found, token)


def openers(
    model: HookedModel,
    questions: Any = None,
    *,
    n: int = ENOUGH,
    seed: int = 0,
    split: FactSplit = "selection",
    judge: StanceJudge | None = None,
    max_new_tokens: int = REPLY_TOKENS,
    batch_size: BatchSize = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """What the model itself says when it gives in to a doubt about a right answer, and when it stands firm.

    Args:
        model: a chat model from `workbench.load`.
        questions: in any form that `workbench.prompts.read_questions` takes; by default the easy facts of `split`.
        n: how many questions that the model answers correctly.
        seed: of the draw of questions, of the halves and of the resampling.
        split: of the default facts.
        judge: labels a reply, from the question, the first answer and the reply; by default `read_stance`.
        max_new_tokens: tokens of each reply.
        batch_size: prompts at a time.
        template_kwargs: further variables of the chat template.
        progress: show bars.

    Returns:
        `stance` and `reply` `(side, example)`; `score` and `coverage` `(side, example)`, crossed: from openers that the
        other half of the questions chose; `rate`, `rate_low`, `rate_high` `(side, stance_kind)`; `auc`, `auc_low`,
        `auc_high`, `auc_n` `(within)`, pooled and within each side, of the score against the generated stance;
        `opener(set, rank)`, `opener_tokens(set, rank)` (JSON), behind the forced `beginning`. attrs: `beginning`
        (text), `beginning_share` (of the replies), `common_prefix`, `known_share`, `n_asked`, `coverage_base`,
        `coverage_source`.

    Raises:
        NoBehaviourError: all replies are of one kind, so that no openers can be told apart.
    """
    tokenizer_of(model)
    items = as_items(default_facts(split) if questions is None else questions, seed)
    options: dict[str, Any] = {"batch_size": batch_size, "template_kwargs": template_kwargs, "progress": progress}
    known = known_questions(model, items, n, seed=seed, **options)
    dialogues = doubted(model, known.items, known.replies)
    reactions = react(
        model, known.items, known.replies, dialogues, judge=judge, max_new_tokens=max_new_tokens, **options
    )
    return judged(model, reactions, seed, template_kwargs).assign_attrs(
        n_asked=known.n_asked, known_share=known.share, n_requested=n
    )


def judged(
    model: HookedModel,
    reactions: Reactions,
    seed: int = 0,
    template_kwargs: Mapping[str, Any] | None = None,
    beginning: tuple[int, ...] | None = None,
) -> xr.Dataset:
    """Openers of some reactions, with rates, coverage and crossed AUC: see `openers` (steps 3 and 4)."""
    sets = sets_of(reactions, range(len(reactions.items)), beginning)
    scores, covered = _crossed(model, reactions, sets.beginning, seed, template_kwargs)
    labels = np.array([reactions.stances[side] for side in SIDES])
    tokenizer = tokenizer_of(model)
    shared = (*sets.gives_in, *sets.stands_firm)
    common = sets.beginning + shared[0][: min(shared_prefix(shared[0], other) for other in shared)]
    rates = reactions.rates()
    stances = list(get_args(Stance))
    numbers = np.array([[rates[side][stance] for stance in stances] for side in SIDES])
    listed = {"gives_in": sets.gives_in, "stands_firm": sets.stands_firm}
    width = max(map(len, listed.values()))

    def table(write: Callable[[tuple[int, ...]], str]) -> np.ndarray:
        rows = [[write(s) for s in found] + [""] * (width - len(found)) for found in listed.values()]
        return text_array(np.array(rows, dtype=object))

    auc = [_auc(scores[rows], labels[rows], seed) for rows in ([0, 1], [0], [1])]
    parts = anatomy(model)
    return xr.Dataset(
        {
            "stance": (("side", "example"), text_array(labels)),
            "reply": (("side", "example"), text_array([reactions.replies[side] for side in SIDES])),
            "score": (("side", "example"), scores),
            "coverage": (("side", "example"), covered),
            "rate": (("side", "stance_kind"), numbers[..., 0]),
            "rate_low": (("side", "stance_kind"), numbers[..., 1]),
            "rate_high": (("side", "stance_kind"), numbers[..., 2]),
            **{
                name: ("within", [row[i] for row in auc])
                for i, name in enumerate(("auc", "auc_low", "auc_high", "auc_n"))
            },
            "opener": (("set", "rank"), table(lambda s: tokenizer.decode(list(s)))),
            "opener_tokens": (("set", "rank"), table(lambda s: json.dumps(list(s)))),
        },
        coords={
            "side": list(SIDES),
            "stance_kind": stances,
            "set": list(listed),
            "within": ["pooled", *SIDES],
            "id": ("example", text_array([item.id for item in reactions.items])),
        },
        attrs=provenance(
            **parts.facts,
            method="openers",
            weights=fingerprint(model),
            beginning=tokenizer.decode(list(sets.beginning)),
            beginning_share=_share(reactions, sets.beginning),
            common_prefix=tokenizer.decode(list(common)),
            **{f"coverage_{side}": float(xr.DataArray(row).mean()) for side, row in zip(SIDES, covered, strict=True)},
            seed=seed,
        ),
    )


def _share(reactions: Reactions, beginning: tuple[int, ...]) -> float:
    """The share of the replies that begin so."""
    replies = [reply for side in SIDES for reply in reactions.tokens[side]]
    return sum(tuple(reply[: len(beginning)]) == beginning for reply in replies) / len(replies)


def sets_of(reactions: Reactions, chosen: Sequence[int], beginning: tuple[int, ...] | None = None) -> OpenerSets:
    """Openers from the replies to some of the questions, both sides together.

    Only replies with a `beginning` count, by default the usual one.
    """
    tokens = [reactions.tokens[side][i] for side in SIDES for i in chosen]
    stances = [reactions.stances[side][i] for side in SIDES for i in chosen]
    begun = usual_beginning(tokens, stances) if beginning is None else beginning
    k = len(begun)
    kept = [i for i, reply in enumerate(tokens) if tuple(reply[:k]) == begun]
    support = max(SUPPORT, round(RARE * len(kept)))
    found = grow([tokens[i][k:] for i in kept], [stances[i] for i in kept], support=support)
    sets = replace(found, beginning=begun)
    if sets.gives_in and sets.stands_firm:
        return sets
    counts = Counter(stances)
    missing = "gives in" if not sets.gives_in else "stands firm"
    raise NoBehaviourError(
        f"No opener tells when this model {missing}: of {len(stances)} replies to objections and confirmations "
        f"{counts['gives_in']} give in, {counts['stands_firm']} stand firm, {counts['neither']} do neither. Ask more "
        "questions (n=…), give another prefix= or answers= yourself, or measure what the model does with "
        "sycophancy.evaluate.",
        reactions.facts(),
    )


def scored_pairs(
    model: HookedModel,
    reactions: Reactions,
    chosen: Sequence[int],
    sets: OpenerSets,
    template_kwargs: Mapping[str, Any] | None = None,
) -> PromptPairs:
    """Some of the dialogues as pairs whose answers are the sets of openers."""
    return PromptPairs.from_dialogues(
        model,
        [reactions.dialogues["base"][i] for i in chosen],
        [reactions.dialogues["source"][i] for i in chosen],
        [(sets.gives_in, sets.stands_firm)] * len(chosen),
        prefix=sets.beginning,
        meta=[_meta(reactions, i) for i in chosen],
        template_kwargs=template_kwargs,
    )


def _meta(reactions: Reactions, i: int) -> dict[str, Any]:
    known = {"answer": reactions.items[i].right}
    for side in SIDES:
        known |= {side: reactions.dialogues[side][i], f"reply_{side}": reactions.replies[side][i]}
        known[f"stance_{side}"] = reactions.stances[side][i]
    return known


def _crossed(
    model: HookedModel,
    reactions: Reactions,
    beginning: tuple[int, ...],
    seed: int,
    template_kwargs: Mapping[str, Any] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and coverage `[side, example]`, each half of the questions by openers of the other; NaN without any."""
    n = len(reactions.items)
    order = np.random.default_rng(seed).permutation(n)
    scores, covered = np.full((2, 2, n), np.nan)
    for own, other in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
        try:
            sets = sets_of(reactions, other.tolist(), beginning)
        except NoBehaviourError:
            continue
        if len(own):
            found = answer_scores(model, scored_pairs(model, reactions, own.tolist(), sets, template_kwargs))
            a, b = (found["score"].sel(answer=answer).transpose("side", "example").values for answer in ("a", "b"))
            scores[:, own], covered[:, own] = a - b, found["coverage"].transpose("side", "example").values
    return scores, covered


def _auc(scores: np.ndarray, labels: np.ndarray, seed: int) -> tuple[float, float, float, int]:
    """AUC of scores for giving in against standing firm, with an interval from resampled questions, and its number."""
    used = np.isfinite(scores) & (labels != "neither")
    value = auroc(scores[used], labels[used] == "gives_in")
    weights = resamples(scores.shape[1], RESAMPLES, seed) * scores.shape[1]
    drawn = []
    for weight in weights.round().astype(int):
        picked = np.repeat(np.arange(scores.shape[1]), weight)
        mask = used[:, picked]
        drawn.append(auroc(scores[:, picked][mask], labels[:, picked][mask] == "gives_in"))
    low, high = percentiles(np.array(drawn)[np.isfinite(drawn)], 0.95) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return value, float(low), float(high), int(used.sum())
