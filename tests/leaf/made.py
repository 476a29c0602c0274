"""Small examples and pairs of tiny models for the LeaF tests."""

import functools

import numpy as np
import torch
import xarray as xr

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


def answered_by(monkeypatch, right) -> list:
    """Let the models of `pair` answer by a rule, `right(name, tokens)`; gives the log of who was asked what."""
    asked = []

    def reply(model, those, **_given):
        name = "student" if model is pair()[0] else "teacher"
        asked.append((name, [e.context for e in those]))
        verdicts = [bool(right(name, e.context)) for e in those]
        return xr.Dataset(
            {
                "tokens": (("example", "step"), np.array([[7 if verdict else 8, 2] for verdict in verdicts])),
                "n_tokens": ("example", [2] * len(those)),
                "reply": ("example", np.array([""] * len(those), dtype=object)),
                "answer": ("example", np.array([str(verdict) for verdict in verdicts], dtype=object)),
                "ending": ("example", np.array(["end"] * len(those), dtype=object)),
                "correct": ("example", np.array(verdicts, dtype=float)),
            }
        )

    monkeypatch.setattr("workbench.leaf.selection.ask", reply)
    return asked
