"""Word problems with a planted irrelevant sentence: known confounders for the embedded models.

The embedded models solve two-step word problems, and never saw one with a number that does not count ("It is 5
o'clock."). Some take it for the first operand, others don't, so one of them can be the student of another; where the
planted sentence stands is known, and what a score finds can be compared with it.
"""

import random
import re
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.errors import InputError
from workbench.leaf.examples import Example
from workbench.leaf.tokenized_examples import example
from workbench.models.embedded import embedded_or_raise
from workbench.protocol import HookedModel

SENTENCES = (
    "The shop opens at {}.",
    "A friend has {} books.",
    "It is {} o'clock.",
    "There are {} birds in the tree.",
    "The bus has {} seats.",
)
NUMBERS = range(3, 20)


def word_problems(model: HookedModel, n: int = 100, seed: int = 0) -> list[Example]:
    """Problems of an embedded model's test split, each with a sentence that does not matter, at a random place.

    Raises:
        InputError: another model.
    """
    provider = embedded_or_raise(
        model, "so it was not taught these word problems. Read examples of your own with workbench.leaf.read_examples."
    )
    rng = random.Random(f"leaf word problems {seed}")
    made = []
    for item in provider.ability_items("word problem", n, seed):
        sentences = re.split(r"(?<=[.?]) ", item.question)
        place = rng.randrange(len(sentences))
        sentences.insert(place, rng.choice(SENTENCES).format(rng.choice(NUMBERS)))
        one = example(model, " ".join(sentences), item.answer, item.target)
        made.append(replace(one, identifier=f"{len(made)}: sentence {place}"))
    return made


def planted(made: Example) -> Bool[Tensor, " pos"]:
    """Which tokens of the context stand in the sentence that does not matter."""
    if made.wording is None:
        raise InputError("Only examples of workbench.leaf.word_problems know what was planted in them.")
    place = int(made.identifier.rpartition(" ")[2])
    ends = [m.end() for m in re.finditer(r"[.?](?= |$)", made.wording.instruction)]
    start, stop = (ends[place - 1] if place else 0), ends[place]
    return torch.tensor([a < b and start <= a and b <= stop for a, b in made.wording.offsets])
