"""Small examples and pairs of tiny models for the LeaF tests."""

import functools

import torch

from tests.tiny import sequences, tiny
from workbench.leaf.examples import Example
from workbench.models.load import load


@functools.cache
def pair(family: str = "llama", dtype: torch.dtype = torch.float64):
    """A student and a teacher with different random weights; shared between tests, so leave them as they were."""
    return load(tiny(family, dtype, seed=0)), load(tiny(family, dtype, seed=7))


def examples(lengths=((9, 4), (6, 3), (12, 5)), prefix: int = 0) -> list[Example]:
    """Examples of random ids with (prompt, response) lengths; all of the prompt but its ends may be pruned."""
    made = []
    for i, (n, m) in enumerate(lengths):
        prompt, response = (tuple(s) for s in sequences((n, m), seed=10 + i))
        own = [0 < p < n - 1 for p in range(n)] if not prefix else [p >= n for p in range(n + prefix)]
        made.append(Example(prompt, response, tuple(own), prefix=prefix, identifier=f"example {i}"))
    return made
