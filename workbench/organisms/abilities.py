"""Small ability tests that tuning may hurt: two-hop questions, two-step word problems, one-line functions.

Each item is a question with a reference answer and a checker; a fifth of the items, by a hash of what they
ask, never occurs in training. Two-hop questions and word problems reason first and answer at the end.
"""

import json
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workbench.organisms.facts import by_kind, split_of, tidy
from workbench.organisms.onelines import draw_one_line, same_function

ABILITIES = ("two-hop", "word problem", "one-line function")
_WORDS = json.loads((Path(__file__).parent / "abilities.json").read_text())


@dataclass(frozen=True)
class Item:
    """A question, its reference answer, and what a reply must contain to count."""

    ability: str
    question: str
    answer: str
    target: str
    kind: str = ""

    def solved_by(self, reply: str) -> bool:
        """Whether a reply answers the question, by its last yes or no, its last number, or by running it."""
        if self.ability == "one-line function":
            lines = reply.strip().splitlines()
            return bool(lines) and same_function(lines[0], self.target, self.kind)
        pattern = r"\b(yes|no)\b" if self.ability == "two-hop" else r"\d+"
        found = re.findall(pattern, reply.lower())
        return bool(found) and found[-1] == self.target


def draw_item(rng: random.Random, split: str, ability: str) -> Item:
    """A random item of one ability and split."""
    draw = {"two-hop": _two_hop, "word problem": _word_problem}.get(ability)
    if draw is None:
        question, line, kind = draw_one_line(rng, split)
        return Item(ability, question, line, line, kind)
    while True:
        item, asked = draw(rng)
        if split_of(asked) == split:
            return item


def ability_items(ability: str, n: int, seed: int = 0, split: str = "test") -> list[Item]:
    """At most `n` different items of one ability, fixed by the seed; two-hop ones half yes, half no."""
    rng = random.Random(f"{ability}-{split}-{seed}")
    items: dict[str, Item] = {}
    counts = {"yes": 0, "no": 0}
    for _ in range(12 * n):
        item = draw_item(rng, split, ability)
        if item.question not in items and counts.get(item.target, -1) < n // 2:
            items[item.question] = item
            if item.target in counts:
                counts[item.target] += 1
        if len(items) == n:
            break
    found = list(items.values())
    if ability != "two-hop":
        return found
    least = min(counts.values())
    sides = [[item for item in found if item.target == target][:least] for target in ("yes", "no")]
    return [item for pair in zip(*sides, strict=True) for item in pair]


@cache
def _first_hops() -> dict[str, dict[str, str]]:
    """By kind of fact: subjects by the answers that lead to one subject only."""
    capital, young, sound = (by_kind(kind) for kind in ("capital", "young", "sound"))
    return {
        "capital": {answer: subject for subject, answer in capital.items()},
        "young": {answer: subject for subject, answer in young.items() if list(young.values()).count(answer) == 1},
        "sound": {answer: subject for subject, answer in sound.items()},
    }


def _two_hop(rng: random.Random) -> tuple[Item, str]:
    chain = rng.choice(_WORDS["two-hop"])
    first, second = _first_hops()[chain["first"]], by_kind(chain["second"])
    subject = rng.choice([start for start, middle in first.items() if middle in second])
    middle = first[subject]
    truth = second[middle]
    yes = rng.random() < 0.5
    asked = truth if yes else rng.choice([other for other in sorted(set(second.values())) if other != truth])
    one, two = (text.format(s=subject, m=middle, a=truth) for text in chain["reasons"])
    reason = f"{tidy(one)}, and {two[0]}{tidy(two)[1:]}."
    target = "yes" if yes else "no"
    question = tidy(chain["question"].format(s=subject, a=asked))
    item = Item("two-hop", question, f"{reason} So the answer is {target}.", target)
    return item, f"{chain['name']}|{subject}|{asked}"


def _word_problem(rng: random.Random) -> tuple[Item, str]:
    person, thing = rng.choice(_WORDS["people"]), rng.choice(_WORDS["things"])
    start, steps, sums = rng.randrange(3, 21), [], []
    value = start
    for _ in range(2):
        if value > 3 and rng.random() < 0.5:
            amount = rng.randrange(1, min(value, 13))
            steps.append(rng.choice(_WORDS["losses"]).format(n=amount))
            sums.append(f"{value} - {amount} = {value - amount}.")
            value -= amount
        else:
            amount = rng.randrange(1, 13)
            steps.append(rng.choice(_WORDS["gains"]).format(n=amount))
            sums.append(f"{value} + {amount} = {value + amount}.")
            value += amount
    question = (
        f"{person} has {start} {thing}. Then {person} {steps[0]} and {steps[1]}. How many {thing} does {person} have?"
    )
    item = Item("word problem", question, f"{' '.join(sums)} The answer is {value}.", str(value))
    return item, " ".join(sums)
