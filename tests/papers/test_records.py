"""Figures that are drawn from records of the package show the numbers that are published in `figures/`."""

import json
from pathlib import Path

import pytest

from tests.papers.records import FROM_RECORDS, NOWHERE, drawn
from workbench.plot import plotted_numbers

PUBLISHED = Path(__file__).parents[2] / "figures"


def same(drawn, published):
    if isinstance(published, dict):
        return drawn.keys() == published.keys() and all(same(drawn[key], published[key]) for key in published)
    if isinstance(published, list):
        return len(drawn) == len(published) and all(map(same, drawn, published))
    return drawn == (pytest.approx(published, rel=1e-6, abs=1e-9) if isinstance(published, float) else published)


@pytest.mark.parametrize("name", FROM_RECORDS)
def test_the_numbers_and_the_caption_are_those_of_the_published_figure(name):
    numbers = json.loads(json.dumps(plotted_numbers(drawn(name)), ensure_ascii=False, allow_nan=False))
    assert same(numbers, json.loads((PUBLISHED / f"{name}.json").read_text()))
    assert (PUBLISHED / f"{name}.caption.txt").read_text() == numbers["sentence"] + "\n"
    assert not NOWHERE.exists()
