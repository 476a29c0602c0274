"""Thresholds against numpy's quantiles and against counting."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.inactive_heads import inactive, inactive_head_thresholds


def scores(values, sides=("below", "above")):
    values = np.asarray(values, dtype=float)
    return xr.DataArray(
        values,
        dims=("score", "sequence", "layer", "head"),
        coords={"score": ["AHON", "AWFT"][: len(values)], "inactive": ("score", list(sides[: len(values)]))},
    )


def drawn(n=6, seed=0):
    return scores(np.random.default_rng(seed).random((2, n, 3, 4)))


@settings(max_examples=30)
@given(n=st.integers(1, 12), p=st.floats(0, 1), seed=st.integers(0, 100))
def test_they_are_numpy_s_inverted_cdf(n, p, seed):
    given = drawn(n, seed)
    found = inactive_head_thresholds(given, [p])["tau"].isel(threshold=0)
    for name, wanted in (("AHON", p), ("AWFT", 1 - p)):
        pooled = given.sel(score=name).values.ravel()
        level = np.clip(wanted, 1 / pooled.size, 1)
        expected = np.quantile(pooled, level, method="interpolated_inverted_cdf")
        assert float(found.sel(score=name)) == pytest.approx(float(expected), abs=1e-12)


def test_the_share_beyond_a_threshold_is_the_one_asked_for():
    given = drawn(50)
    found = inactive_head_thresholds(given)
    assert found["threshold"].values.tolist() == [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    np.testing.assert_allclose(found["selected"], np.tile(found["threshold"], (2, 1)), atol=2 / (50 * 12))
    np.testing.assert_array_equal(found["selected"].sel(threshold=0), 0)
    above = inactive(given, found["tau"]).sel(score="AWFT", threshold=0.2)
    assert bool(
        (given.sel(score="AWFT").where(above) > float(found["tau"].sel(score="AWFT", threshold=0.2))).sum()
        == above.sum()
    )


def test_ties_are_kept():
    found = inactive_head_thresholds(scores(np.ones((1, 4, 2, 2))), [0, 0.3, 1])
    np.testing.assert_array_equal(found["selected"], 0)


def test_half_can_be_held_out():
    given = drawn(400)
    found = inactive_head_thresholds(given, held_out=True)
    again = inactive_head_thresholds(given, held_out=True)
    assert found.identical(again) and found.attrs["fitted_on"] == "one half of the sequences"
    assert not found["tau"].equals(inactive_head_thresholds(given)["tau"])
    np.testing.assert_allclose(found["selected"], np.tile(found["threshold"], (2, 1)), atol=0.04)


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"quantiles=\[0.1, 1.5\] must be shares from 0 to 1"):
        inactive_head_thresholds(drawn(), [0.1, 1.5])
    with pytest.raises(InputError, match="must be shares from 0 to 1"):
        inactive_head_thresholds(drawn(), [float("nan")])
    with pytest.raises(InputError, match="The scores AWFT hold NaN or infinite values"):
        broken = drawn()
        broken[1, 0, 0, 0] = np.nan
        inactive_head_thresholds(broken)
    with pytest.raises(InputError, match="One sequence cannot be split into halves"):
        inactive_head_thresholds(drawn(1), held_out=True)
