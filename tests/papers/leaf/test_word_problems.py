"""The figure of the word problems, from two organisms to a sentence that follows the numbers."""

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.papers.cache import Source
from workbench.papers.catalogue import recipe
from workbench.papers.leaf import word_problems as paper
from workbench.papers.recipes import FigureRequest


def test_the_figure_is_made_from_a_few_problems(tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "PER_N", 1)
    monkeypatch.setattr(paper.leaf, "check_scores", fewer(paper.leaf.check_scores))
    figure = recipe("leaf/word-problems")
    request = FigureRequest(tmp_path, figure.models, n=12)
    drawn = figure.make(request)
    assert "word problems that mislead organism-mqa and not organism-gqa" in drawn.sentence
    assert len(drawn.figure.layout.yaxis.ticktext) == 3
    kept = paper.measure(*(Source(name) for name in figure.models), request)
    assert kept.attrs["n_misled"] == kept.sizes["example"] > 0
    assert ((kept["touched"] >= 0) & (kept["touched"] <= 1)).all()


def fewer(check_scores):
    def checked(*models, **given):
        return check_scores(*models, scores=["gradient_difference", "perplexity", "random"], **given)

    return checked


def numbers(gradient, low, random) -> xr.Dataset:
    names = ["gradient_difference", "perplexity", "random"]
    return xr.Dataset(
        {
            "turned": (("score", "example"), np.zeros((3, 8), dtype=bool)),
            "accepted_share": ("score", [gradient, 0.25, random]),
            "accepted_gain_low": ("score", [low, 0, 0]),
            "accepted_gain_high": ("score", [0.5, 0, 0]),
            "touched": ("score", [0.5, 0.75, 0.25]),
        },
        coords={"score": names},
        attrs={"student": "a", "teacher": "b"},
    )


def test_the_sentence_follows_the_numbers():
    said = paper.line(numbers(0.5, 0.1, 0.125))
    assert (
        "turns 50% of the answers right for both, clear of the 12% of a random choice (difference +10% to +50%)" in said
    )
    assert "gradient difference turns 50%. Perplexity ranks the planted sentence first in 75% and turns 25%." in said
    said = paper.line(numbers(0.1, -0.1, 0.5))
    assert "not clear of the 50%" in said
    assert "random turns 50%" in said


def test_two_models_are_needed(tmp_path):
    with pytest.raises(InputError, match="needs two embedded models, a student and a teacher; got 1 models"):
        recipe("leaf/word-problems").make(FigureRequest(tmp_path, ("organism-gqa",)))
