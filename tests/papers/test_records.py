"""Figures that are drawn from records of the package show the numbers that are published in `figures/`."""

import json
from pathlib import Path

import pytest

from workbench.papers import FIGURES, FigureRequest, recipe
from workbench.plot import plotted_numbers

PUBLISHED = Path(__file__).parents[2] / "figures"
FROM_RECORDS = [
    *(name for name in FIGURES if recipe(name).measure is None and not getattr(recipe(name), "needs", ())),
    "active-dormant/training",
    "inactive-heads/training",
    "sycophancy/tradeoff-table",
    "sycophancy/ratio-sweep",
    "sycophancy/before-after-patching",
    "sycophancy/ability-loss",
]


def same(drawn, published):
    if isinstance(published, dict):
        return drawn.keys() == published.keys() and all(same(drawn[key], published[key]) for key in published)
    if isinstance(published, list):
        return len(drawn) == len(published) and all(map(same, drawn, published))
    return drawn == (pytest.approx(published, rel=1e-6, abs=1e-9) if isinstance(published, float) else published)


@pytest.mark.parametrize("name", FROM_RECORDS)
def test_the_numbers_are_those_of_the_published_figure(name, tmp_path):
    chosen = recipe(name)
    drawn = chosen.make(FigureRequest(tmp_path, chosen.models))
    numbers = json.loads(json.dumps(plotted_numbers(drawn.figure), ensure_ascii=False, allow_nan=False))
    assert same(numbers, json.loads((PUBLISHED / f"{name}.json").read_text()))
    assert not list(tmp_path.iterdir())
