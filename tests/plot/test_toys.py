from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.papers.active_dormant import toy_figures as active_dormant_toys
from workbench.papers.recipes import FigureRecipe, FigureRequest
from workbench.plot import toys

CURVE = xr.DataArray(
    [[1.0, 3.0], [2.0, 4.0], [4.0, 8.0]], dims=("step", "seed"), coords={"step": [0, 10, 100], "seed": [0, 1]}
)


def test_curves_have_a_mean_a_band_and_published_points():
    figure = toys.steps({"loss": CURVE}, reference={"loss": ([0, 10], [9.0, 5.0])}, log_y=True)
    band, line, points = figure.data
    assert line.x.tolist() == [10, 100]
    assert line.y.tolist() == [3.0, 6.0]
    assert band.y.tolist() == [4.0, 8.0, 4.0, 2.0]
    assert points.y.tolist() == [5.0]


def test_a_single_seed_has_no_band():
    assert len(toys.steps({"loss": CURVE.isel(seed=0)}).data) == 1


def test_a_curve_over_layers_is_refused():
    with pytest.raises(InputError, match="Choose a layer and head first"):
        toys.steps({"sink": CURVE.expand_dims("layer")})


def test_bars_are_means_with_a_dot_per_seed():
    figure = toys.bars({"ours": {"a": [1.0, 3.0], "b": [5.0]}}, reference={"ours": {"a": 2.5, "c": 1.0}})
    bar, dots, told = figure.data
    assert list(bar.y) == [2.0, 5.0]
    assert list(dots.y) == [1.0, 3.0]
    assert list(told.y) == [2.5]


def test_the_future_is_left_empty_in_an_attention_map():
    figure = toys.attention_map(np.full((2, 2), 0.5), ["<s>", " "])
    assert np.isnan(figure.data[0].z[0][1])
    assert list(figure.layout.xaxis.ticktext) == ["&lt;s&gt;", "·"]


@pytest.mark.parametrize("recipe", active_dormant_toys.RECIPES, ids=lambda recipe: recipe.name)
def test_every_toy_figure_is_drawn_from_measured_runs(recipe, tmp_path):
    assert isinstance(recipe, FigureRecipe)
    drawn = recipe.make(FigureRequest(Path(tmp_path)))
    assert len(drawn.sentence) > 80
    assert "nan" not in drawn.sentence.lower()
    assert len(drawn.figure.data) > 2
