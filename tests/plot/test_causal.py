"""The causal check of scores as a figure: order, intervals, and the line of random choice."""

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.plot.causal import causal_check


def checked() -> xr.Dataset:
    names = ["gradient_difference", "random", "mine"]
    values = {
        "turned": ([0.5, 0.2, 0.9], [0.4, 0.1, 0.8], [0.6, 0.3, 0.95]),
        "accepted": ([0.4, 0.1, 0.8], [0.3, 0.05, 0.7], [0.5, 0.2, 0.9]),
    }
    made = {
        f"{name}_{end}": ("score", rows)
        for name, three in values.items()
        for end, rows in zip(("share", "low", "high"), three, strict=True)
    }
    return xr.Dataset(made, coords={"score": names})


def test_scores_are_ordered_by_what_they_cause_with_their_intervals():
    figure = causal_check(checked(), title="a title")
    assert list(figure.layout.yaxis.ticktext) == ["random", "gradient difference", "mine"]
    both = next(trace for trace in figure.data if trace.name == "both models right")
    np.testing.assert_allclose(both.x, [10, 40, 80])
    np.testing.assert_allclose(both.error_x.array, [10, 10, 10])
    np.testing.assert_allclose(both.error_x.arrayminus, [5, 10, 10])


def test_random_choice_is_marked_where_it_was_measured():
    assert causal_check(checked()).layout.shapes[0].x0 == pytest.approx(10)
    assert not causal_check(checked().sel(score=["mine"])).layout.shapes


def test_other_datasets_are_refused():
    with pytest.raises(InputError, match="it lacks turned_share"):
        causal_check(checked().drop_vars("turned_share"))
