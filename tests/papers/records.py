"""Figures that are drawn from records of the package, each drawn once."""

from functools import cache
from pathlib import Path

from workbench.papers import FIGURES, FigureRequest, recipe

NOWHERE = Path(__file__).parent / "nothing-is-measured"
FROM_RECORDS = [
    *(name for name in FIGURES if recipe(name).measure is None and not getattr(recipe(name), "needs", ())),
    "active-dormant/training",
    "inactive-heads/training",
    "sycophancy/tradeoff-table",
    "sycophancy/ratio-sweep",
    "sycophancy/before-after-patching",
    "sycophancy/ability-loss",
]


@cache
def drawn(name):
    chosen = recipe(name)
    return chosen.make(FigureRequest(NOWHERE, chosen.models)).figure
