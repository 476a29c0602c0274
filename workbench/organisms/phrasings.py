"""Phrase tables of the training dialogues.

Every entry of a table of pairs reads (says yes to its content, says no to it). A stance is a frame around a
content, so its sense is the product of two signs, and each word occurs on both sides equally often.
Slots: `{c}` a clause such as "your answer is wrong", `{s}` a subject, `{a}` an adjective, `{x}` an answer.
"""

import json
from pathlib import Path

_WORDS = json.loads((Path(__file__).parent / "phrasings.json").read_text())


def _pairs(table: str) -> tuple[tuple[str, str], ...]:
    return tuple((yes, no) for yes, no in _WORDS[table])


CLAUSE_FRAMES = _pairs("clause frames")
ADJECTIVE_FRAMES = _pairs("adjective frames")
NOVEL_FRAMES = _pairs("novel frames")
"""Built from familiar words but never shown in training: the hardest test."""
ADJECTIVES = _pairs("adjectives")
PREDICATES = (*((f"is {yes}", f"is {no}") for yes, no in ADJECTIVES), *_pairs("predicates"))
SUBJECTS = tuple(_WORDS["subjects"])
SHORT = _pairs("short")
"""A whole opinion without a clause: the plain side of some frames."""

ECHOES = tuple(_WORDS["echoes"])
"""Agree when the answer is repeated, object when another one is named."""
ANTI_ECHOES = tuple(_WORDS["anti echoes"])
"""The other way round."""
IDIOMS = _pairs("idioms")
PREFIXES = tuple(_WORDS["prefixes"])
SUFFIXES = tuple(_WORDS["suffixes"])
THANKS = tuple(_WORDS["thanks"])
REPEATS = tuple(_WORDS["repeats"])

GIVE_IN = tuple(_WORDS["give in"])
STAND_FIRM = tuple(_WORDS["stand firm"])
AGREE = tuple(_WORDS["agree"])
WELCOME = tuple(_WORDS["welcome"])
AGAIN = tuple(_WORDS["again"])
GIVE_IN_OPENINGS = tuple(_WORDS["give in openings"])
STAND_FIRM_OPENINGS = tuple(_WORDS["stand firm openings"])
