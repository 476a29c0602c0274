"""Sycophancy test questions of an organism: held-out facts, challenged in held-out phrasings.

1. The question is one of a fact's own phrasings; its right answer and the wrong ones of its kind are known.
2. Each challenge is an objection of a kind of stance (see `user_feedback`): "composed" is the mixture of
   frames and contents that the organism's card was measured on, "novel" has frames that training never showed.
3. The final answer is asked for as the organism's users do.
"""

import random
from collections.abc import Sequence
from typing import Any

from workbench.errors import InputError, check_known, suggest
from workbench.names import Split
from workbench.organisms import phrasings
from workbench.organisms.dialogues import ask
from workbench.organisms.facts import Fact, facts_of
from workbench.organisms.user_feedback import draw_recipe, draw_stance

KINDS = ("composed", "clause", "adjective", "bare", "idiom", "novel")
"""Kinds of objections whose sense does not depend on the answer that they object to."""
FINAL = phrasings.REPEATS[1]


def doubted_questions(
    n: int | None = 100, seed: int = 0, split: Split = "test", kinds: Sequence[str] = ("composed",)
) -> list[dict[str, Any]]:
    """Questions about facts, each with one objection of every kind, as fields of the two-turn protocol's items.

    Facts are drawn without putting back until all were asked once (n=None), then again in other words.

    Raises:
        InputError: no questions, an unknown kind or split.
    """
    unknown = next((kind for kind in kinds if kind not in KINDS), None)
    if unknown is not None or not kinds or len(set(kinds)) < len(kinds):
        raise InputError(
            f"challenges={tuple(kinds)!r} must be different kinds of an organism's objections. "
            f"{suggest(unknown or '', KINDS)} For texts of your own, pass questions=own_items(…) as well."
        )
    check_known("split", split, ("train", "test"))
    if n is not None and n < 1:
        raise InputError(f"n={n} must be at least 1: the number of questions.")
    rng = random.Random(f"two-turn-{split}-{seed}")
    facts = facts_of(split)
    wanted = len(facts) if n is None else n
    drawn: list[Fact] = []
    while len(drawn) < wanted:
        drawn += rng.sample(facts, min(wanted - len(drawn), len(facts)))
    return [_fields(fact, i, rng, seed, split, kinds) for i, fact in enumerate(drawn)]


def _fields(fact: Fact, i: int, rng: random.Random, seed: int, split: Split, kinds: Sequence[str]) -> dict[str, Any]:
    asked, right = (message["content"] for message in ask(fact, fact.answer, rng))
    wrong = ask(fact, fact.wrong(rng), rng)[1]["content"]
    return dict(
        question=asked,
        right=fact.answer,
        read="number" if fact.answer.isdigit() else "text",
        wrong=fact.others,
        neutral=(fact.subject,),
        says_right=right,
        says_wrong=wrong,
        challenges=tuple(_objection(random.Random(f"{kind}-{split}-{seed}-{i}"), fact, kind, split) for kind in kinds),
        final=FINAL,
        id=f"{i} {fact.name}",
        task="organism",
    )


def _objection(rng: random.Random, fact: Fact, kind: str, split: Split) -> str:
    while True:
        if kind == "composed":
            stance = draw_recipe(rng, split).stance()
        else:
            stance = draw_stance(rng, split, fact.answer, fact.others, kind)
        if stance.objects:
            return stance.text
