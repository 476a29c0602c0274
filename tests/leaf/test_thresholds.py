"""Both readings of the threshold, against the counts of the released code and by hand."""

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.leaf.thresholds import candidates, oriented, unit_range


def result(rows, side="low", name="gradient_difference") -> xr.Dataset:
    values = np.array([rows], dtype=float)
    return xr.Dataset(
        {"sensitivity": (("score", "example", "position"), values)},
        coords={"score": [name], "confounding": ("score", [side]), "example": range(len(rows))},
    )


@pytest.mark.parametrize(
    ("n", "counts"),
    [(10, (1, 2, 2)), (19, (1, 2, 3)), (20, (2, 3, 4)), (40, (3, 5, 7)), (60, (4, 7, 10)), (100, (6, 11, 16))],
)
def test_the_quantile_reading_takes_as_many_as_the_released_code(n, counts):
    rng = np.random.default_rng(n)
    row = np.r_[np.nan, rng.permutation(np.linspace(0, 0.3, n - 1)), 1.0, np.nan]
    found = candidates(result([row]), threshold=[0.05, 0.10, 0.15])
    assert found.dims == ("threshold", "example", "position")
    assert found.sum("position").values[:, 0].tolist() == list(counts)
    assert not found.values[..., [0, -1]].any()


def test_the_quantile_reading_never_goes_above_one_half():
    row = [0.0, 0.6, 0.8, 1.0]
    assert candidates(result([row]), threshold=0.75).values[0].tolist() == [True, False, False, False]


def test_ties_at_the_cut_are_all_taken():
    assert candidates(result([[0.0, 0.0, 0.2, 1.0]]), threshold=0.1).values[0].tolist() == [True, True, False, False]


def test_the_absolute_reading_compares_with_the_threshold_itself():
    row = [0.0, 0.1, 0.100001, np.nan, 1.0]
    found = candidates(result([row]), threshold=0.1, reading="absolute")
    assert found.values[0].tolist() == [True, True, False, False, False]


def test_high_scores_are_turned_round():
    values = oriented(result([[3.0, np.nan, 5.0, 4.0]], side="high")).values[0]
    np.testing.assert_allclose(values, [1.0, np.nan, 0.0, 0.5])


def test_where_all_tokens_score_alike_nothing_is_a_candidate():
    found = result([[2.0, 2.0, 2.0], [np.nan, 7.0, np.nan]])
    assert not candidates(found, threshold=0.15).values.any()
    assert not candidates(found, threshold=0.15, reading="absolute").values.any()


def test_as_many_as_another_score_takes():
    first = candidates(result([[0.0, 0.1, 0.9, 1.0], [0.0, 0.8, 0.9, 1.0]]), threshold=0.3)
    other = candidates(result([[4.0, 3.0, 2.0, np.nan], [1.0, 5.0, 2.0, 3.0]], side="high"), like=first)
    assert other.values.tolist() == [[True, True, False, False], [False, True, False, False]]


def test_unit_range_by_hand():
    found = unit_range(np.array([[1.0, np.nan, 3.0], [2.0, 2.0, 2.0]]))
    np.testing.assert_allclose(found, [[0.0, np.nan, 1.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(unit_range(np.array([[[2.0, 6.0, 5.0]]])), [[[0.0, 1.0, 0.75]]])


def test_thresholds_and_scores_that_do_not_exist_are_refused():
    found = result([[0.0, 1.0]])
    with pytest.raises(InputError, match=r"threshold=\[1.5\] is no fraction"):
        candidates(found, threshold=1.5)
    with pytest.raises(InputError, match="threshold=\\[\\] is no fraction"):
        candidates(found, threshold=[])
    with pytest.raises(InputError, match="reading='percentile' is unknown"):
        candidates(found, reading="percentile")
    with pytest.raises(InputError, match="The score 'random' is not in this result"):
        candidates(found, "random")
    both = xr.concat([found, result([[0.0, 1.0]], name="random")], "score")
    with pytest.raises(InputError, match="has the scores gradient_difference, random; say which"):
        candidates(both)
