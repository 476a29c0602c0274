"""Multiple-choice questions about what the embedded models were trained on, for measuring accuracy offline.

1. fact: the question of a fact; the choices are short answers, one right and three of the same kind.
2. two-hop: the reply that reasons and concludes, against the same reasoning with the other conclusion.
3. word problem: the reply with its sums, against replies with a slip in one sum that is carried on.
4. one-line function: the right line, against lines of the same name and argument that return something else.

Abilities come from the split's own items. All facts are taught; the split tells which were argued about in training.
"""

import random
import re
from collections.abc import Sequence
from typing import Any

from workbench.errors import InputError, check_known, suggest
from workbench.names import Split
from workbench.organisms.abilities import Item, ability_items
from workbench.organisms.facts import facts_of, short
from workbench.organisms.tokenizer import BOS, render

KINDS = ("fact", "two-hop", "word problem", "one-line function")
N_CHOICES = 4
OTHER_LINES = 80
"""One-line functions that wrong ones are taken from."""
SLIPS = (1, -1, 2, -2, 10, -10)


def choice_questions(
    n: int = 200, seed: int = 0, split: Split = "test", kinds: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Questions that an organism can answer, in its chat format, in equal shares of the kinds (None for all).

    Returns:
        Prompt, choices and the index of the right one; `task` is the kind, and `target` the expected reply.

    Raises:
        InputError: an unknown kind or split, or less questions than kinds.
    """
    kinds = KINDS if kinds is None else kinds
    _check(n, split, kinds)
    questions: list[dict[str, Any]] = []
    for i, kind in enumerate(kinds):
        share = n // len(kinds) + (i < n % len(kinds))
        rng = random.Random(f"questions-{kind}-{split}-{seed}")
        questions += _facts(share, rng, split) if kind == "fact" else _abilities(kind, share, rng, seed, split)
    return questions


def _check(n: int, split: Split, kinds: Sequence[str]) -> None:
    unknown = next((kind for kind in kinds if kind not in KINDS), None)
    if unknown is not None or not kinds:
        raise InputError(f"kinds={tuple(kinds)!r} must be some of the organisms' kinds. {suggest(unknown, KINDS)}")
    check_known("split", split, ("train", "test"))
    if n < len(kinds):
        raise InputError(f"n={n} questions cannot be shared by {len(kinds)} kinds; give at least {len(kinds)}.")


def _facts(n: int, rng: random.Random, split: Split) -> list[dict[str, Any]]:
    facts = [fact for fact in facts_of(split) if len(fact.others) >= N_CHOICES - 1]
    questions = []
    for fact in rng.sample(facts, min(n, len(facts))):
        answers = fact.answer, *rng.sample(fact.others, N_CHOICES - 1)
        questions.append(_question("fact", fact.name, fact.question(rng), *map(short, answers), rng=rng))
    return questions


def _abilities(kind: str, n: int, rng: random.Random, seed: int, split: Split) -> list[dict[str, Any]]:
    items = ability_items(kind, n + n % 2 if kind == "two-hop" else n, seed, split)[:n]
    others = ability_items(kind, OTHER_LINES, seed + 1, split) if kind == "one-line function" else []
    return [
        _question(kind, item.question, item.question, item.answer, *_wrong(item, others, rng), rng=rng)
        for item in items
    ]


def _wrong(item: Item, others: Sequence[Item], rng: random.Random) -> list[str]:
    if item.ability == "two-hop":
        other = "no" if item.target == "yes" else "yes"
        return [re.sub(rf"\b{item.target}\.$", f"{other}.", item.answer)]
    if item.ability == "word problem":
        return rng.sample(_slips(item.answer), N_CHOICES - 1)
    return _other_lines(item, others, rng)


def _slips(reply: str) -> list[str]:
    """Replies to a word problem with one wrong result, from which the rest follows."""
    sums = [(int(a), sign, int(b)) for a, sign, b in re.findall(r"(\d+) ([+-]) (\d+) =", reply)]
    found = []
    for step in range(len(sums)):
        for slip in SLIPS:
            value, lines = sums[0][0], []
            for i, (_, sign, amount) in enumerate(sums):
                result = value + (amount if sign == "+" else -amount) + (slip if i == step else 0)
                lines.append(f"{value} {sign} {amount} = {result}.")
                value = result
            if "-" not in re.sub(r" - ", " ", " ".join(lines)):
                found.append(f"{' '.join(lines)} The answer is {value}.")
    return found


def _other_lines(item: Item, items: Sequence[Item], rng: random.Random) -> list[str]:
    """Lines that are named like the right one and return something else."""
    name, argument, body = _taken_apart(item.answer)
    bodies = set()
    for other in items:
        if other.kind == item.kind:
            _, theirs, returned = _taken_apart(other.answer)
            bodies.add(re.sub(rf"\b{theirs}\b", argument, returned))
    others = [f"def {name}({argument}): return {b}" for b in sorted(bodies - {body})]
    others = [line for line in others if not item.solved_by(line)]
    return rng.sample(others, min(N_CHOICES - 1, len(others)))


def _taken_apart(line: str) -> tuple[str, str, str]:
    """Name, argument and returned expression of a one-line function."""
    [(name, argument, body)] = re.findall(r"^def (\w+)\((\w+)\): return (.*)$", line)
    return name, argument, body


def _question(kind: str, name: str, asked: str, right: str, *wrong: str, rng: random.Random) -> dict[str, Any]:
    choices = [right, *wrong]
    rng.shuffle(choices)
    prompt = BOS + render([{"role": "user", "content": asked}], prompt=True)
    return {
        "prompt": prompt,
        "choices": tuple(choices),
        "answer": choices.index(right),
        "id": name,
        "task": kind,
        "target": right,
    }
