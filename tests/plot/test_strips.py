import numpy as np
import pytest
import xarray as xr

from tests.plot.synthetic import both
from workbench.errors import InputError
from workbench.plot import behaviour, distribution


def runs():
    return xr.Dataset(
        {"strongest": ("run", [-0.5, -0.1, -0.3, -0.9, -0.2])},
        coords={"kind": ("run", ["gqa", "gqa", "gqa", "mha", "mha"]), "seed": ("run", [0, 1, 2, 0, 1])},
    )


def test_each_run_is_a_dot_and_each_kind_has_its_median():
    figure = distribution(runs(), "strongest")
    dots = {t.name: t for t in figure.data if t.mode == "markers"}
    np.testing.assert_array_equal(dots["gqa"].y, [-0.5, -0.1, -0.3])
    assert list(dots["gqa"].customdata[:, 0]) == [0, 1, 2]
    medians = {t.name: t.y[0] for t in figure.data if t.mode == "lines"}
    assert medians == {"gqa median": -0.3, "mha median": pytest.approx(-0.55)}


def test_shipped_runs_have_a_ring():
    marked = runs().assign_coords(shipped=("run", [False, True, False, False, False]))
    gqa, mha = (t for t in distribution(marked, "strongest").data if t.mode == "markers")
    assert list(gqa.marker.line.width) == [1, 2.5, 1] and list(mha.marker.line.width) == [1, 1]


def test_distribution_names_what_is_missing():
    with pytest.raises(InputError, match="'run' and the names 'weakest' and 'kind'"):
        distribution(runs(), "weakest")


def test_behaviour_shows_every_example_in_per_cent():
    heads, _ = both()
    dots = [t for t in behaviour(heads).data if t.mode == "markers"]
    np.testing.assert_allclose(dots[0].x, 100 * heads["base"].sel(metric="prob"))
    np.testing.assert_allclose(dots[1].x, 100 * heads["source"].sel(metric="prob"))


def test_behaviour_needs_probabilities():
    heads, _ = both()
    with pytest.raises(InputError, match="metric 'prob'"):
        behaviour(heads.sel(metric=["logit_diff"]))
