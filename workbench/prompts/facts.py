"""Easy facts of our own, in a free form and with choices: what a chat model is asked where no questions are given.

There are about a thousand (capitals, opposites, plurals, colours, sums, authors, …), each with its accepted answers and
three wrong ones of the same kind. A fact belongs to one split for ever: "train" to tune on, "selection" to choose
learning rates and openers on, "test" to measure on.
"""

import hashlib
import json
import random
from functools import cache
from importlib.resources import files
from typing import get_args

from workbench.errors import InputError, suggest
from workbench.names import FactSplit
from workbench.prompts.questions import FreeForm, MultipleChoice

SHARES: dict[FactSplit, float] = {"train": 0.35, "selection": 0.15, "test": 0.5}


def default_facts(split: FactSplit = "test") -> list[FreeForm]:
    """The facts of a split ("train", "selection" or "test") as questions that are answered in words.

    Raises:
        InputError: an unknown split.
    """
    if split not in SHARES:
        raise InputError(f"split={split!r} is unknown; {suggest(split, get_args(FactSplit))}")
    return [fact for fact in _all_facts() if _split_of(fact.question) == split]


def with_choices(fact: FreeForm) -> MultipleChoice:
    """The same fact with its known wrong answers as choices, in an order that its text decides."""
    asked = MultipleChoice(fact.question, (fact.answers[0], *fact.wrong), 0, fact.id)
    return asked.shuffled(random.Random(fact.question))


@cache
def _all_facts() -> tuple[FreeForm, ...]:
    lines = (files("workbench.prompts") / "assets" / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    return tuple(
        FreeForm(row["question"], tuple(row["answers"]), tuple(row["wrong"]), id=f"fact-{number}")
        for number, row in enumerate(rows)
    )


def _split_of(question: str) -> FactSplit:
    """The split, from a hash of the text, so that other facts do not move it."""
    place = int(hashlib.sha256(question.encode()).hexdigest()[:8], 16) / 16**8
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    return "test"
