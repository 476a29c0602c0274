"""Each statistic against scipy, a slow loop or all divisions, and against data with a known answer."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from workbench import statistics
from workbench.errors import InputError
from workbench.statistics import (
    auroc,
    holm,
    mean_differences,
    mean_interval,
    paired_differences,
    permutation_test,
    split_half_floor,
    t_interval,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# ---------------------------------------------------------------- one mean


def test_intervals_are_scipys_up_to_chance():
    values = noise(3, 40)
    found = mean_interval(values, n=4000)
    peer = scipy.stats.bootstrap(
        (values,), np.mean, axis=-1, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = (peer.high - peer.low).max()
    np.testing.assert_allclose(found.low, peer.low, atol=0.05 * width)
    np.testing.assert_allclose(found.high, peer.high, atol=0.05 * width)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    low, high = mean_interval(noise(20, 20, 60), level=0.9)
    assert low.shape == (20, 20) and 0.84 < ((low < 0) & (high > 0)).mean() < 0.94


def matched(n, found, chance, draws, rng, trials=2000):
    """Differences of a success and the share of successes in some draws, per pair, of many trials."""
    return (rng.random((trials, n)) < found) - (rng.random((trials, n, draws)) < chance).mean(-1)


@pytest.mark.parametrize(("found", "chance"), [(0.18, 0.18), (0.4, 0.18), (0.9, 0.0), (0.97, 0.05)])
@pytest.mark.parametrize("n", [6, 20, 60])
def test_an_interval_of_matched_proportions_covers_what_it_says_with_few_pairs_too(found, chance, n):
    differences = matched(n, found, chance, 5, np.random.default_rng(n))
    low, high = statistics.matched_interval(differences)
    assert ((low <= found - chance) & (found - chance <= high)).mean() > 0.92
    assert ((low >= -1) & (low < high) & (high <= 1)).all()


def test_an_interval_of_matched_proportions_is_the_published_one():
    """Agresti and Min (2005), their adjusted interval: each cell of the table of pairs with half a pair more."""
    b, c, n, z = 9, 2, 40, 1.959964
    differences = np.array([1.0] * b + [-1.0] * c + [0.0] * (n - b - c))
    b, c, n = b + 0.5, c + 0.5, n + 2
    reach = z * np.sqrt(b + c - (b - c) ** 2 / n) / n
    found = statistics.matched_interval(differences)
    np.testing.assert_allclose(found, [(b - c) / n - reach, (b - c) / n + reach], atol=1e-6)


def test_the_floor_is_what_halves_of_one_sample_differ_by():
    values = noise(300, 100)
    floor = split_half_floor(values, n_splits=400)
    expected = scipy.stats.norm.ppf(0.975) * np.sqrt(2 / 50)
    assert floor.shape == (300,) and floor.mean() == pytest.approx(expected, rel=0.05)


def test_the_floor_of_four_values_is_a_loop_over_halvings():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    halves = [
        abs(np.mean(values[list(c)]) - np.mean(np.delete(values, c))) for c in itertools.combinations(range(4), 2)
    ]
    assert split_half_floor(values[None], level=1.0)[0] == pytest.approx(max(halves))


def test_the_middle_value_of_an_odd_sample_may_stay_out():
    assert split_half_floor(np.full((2, 5), 3.0)) == pytest.approx([0, 0], abs=1e-12)


def test_working_in_pieces_changes_nothing(monkeypatch):
    a, b = noise(7, 9), noise(7, 8, seed=1)
    whole = mean_interval(a, 70), split_half_floor(a), mean_differences(a, b, 300)[:4]
    monkeypatch.setattr(statistics, "_CHUNK", 500)
    for one, other in zip(whole[:2], (mean_interval(a, 70), split_half_floor(a)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_allclose(whole[2], mean_differences(a, b, 300)[:4], rtol=1e-9)


# ---------------------------------------------------------------- many differences


def test_p_values_are_shares_of_all_divisions():
    a, b = noise(3, 4), noise(3, 3, seed=1) + np.array([[0.0], [1.0], [3.0]])
    found = mean_differences(a, b)
    assert found.exact and found.n_permutations == 35
    pooled = np.concatenate([a, b], axis=1)
    drawn = []
    for chosen in itertools.combinations(range(7), 4):
        rest = np.delete(pooled, chosen, axis=1)
        drawn.append(scipy.stats.ttest_ind(pooled[:, chosen], rest, axis=1, equal_var=False).statistic)
    drawn, observed = np.abs(drawn), scipy.stats.ttest_ind(a, b, axis=1, equal_var=False).statistic
    np.testing.assert_allclose(found.statistic, observed)
    np.testing.assert_allclose(found.difference, a.mean(1) - b.mean(1))
    np.testing.assert_allclose(found.p_value, (drawn >= np.abs(observed) - 1e-9).mean(0))
    np.testing.assert_allclose(found.p_corrected, (drawn.max(1)[:, None] >= np.abs(observed) - 1e-9).mean(0))


def test_sampled_p_values_are_those_of_a_t_test():
    a, b = noise(4, 30) + np.array([[0], [0.3], [0.6], [0.9]]), noise(4, 25, seed=1)
    found = mean_differences(a, b, n=4000)
    assert not found.exact and found.n_permutations == 4000
    np.testing.assert_allclose(
        found.p_value, scipy.stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue, atol=0.02, rtol=0.1
    )


def test_among_many_equal_heads_one_is_found_as_rarely_as_promised():
    false = 0
    for seed in range(100):
        a, b = noise(40, 12, seed=seed), noise(40, 12, seed=1000 + seed)
        false += bool((mean_differences(a, b, n=200, seed=seed).p_corrected < 0.1).any())
    assert 2 <= false <= 20


def test_a_planted_difference_survives_the_correction_alone():
    a, b = noise(4, 8, 30), noise(4, 8, 30, seed=1)
    a[2, 5] += 2
    found = mean_differences(a, b, n=1000)
    assert np.argwhere(found.p_corrected < 0.05).tolist() == [[2, 5]]
    assert (found.p_corrected >= found.p_value).all()


def test_the_scale_of_a_quantity_does_not_matter():
    a, b = noise(3, 20) + 0.5, noise(3, 20, seed=1)
    scale = np.array([[1.0], [1e-4], [1e3]])
    one, other = mean_differences(a, b, n=200), mean_differences(a * scale, b * scale, n=200)
    np.testing.assert_allclose(one.p_corrected, other.p_corrected)


def test_constant_quantities_differ_never_or_always():
    a, b = np.array([[1.0] * 5, [1.0] * 5]), np.array([[1.0] * 5, [2.0] * 5])
    found = mean_differences(a, b)
    assert found.p_value[0] == 1 and found.p_value[1] == pytest.approx(2 / 252)


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        (noise(2, 1), noise(2, 5), "at least 2 finite values per quantity; given 1 examples"),
        (noise(2, 5), np.full((2, 5), np.nan), "given values that are NaN or infinite"),
        (noise(2, 5), noise(3, 5), r"other quantities: \(2,\) and \(3,\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, match):
    with pytest.raises(InputError, match=match):
        mean_differences(a, b)


# ---------------------------------------------------------------- Holm


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_its_definition(values):
    found = holm(np.array(values))
    order = sorted(range(len(values)), key=lambda i: values[i])
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(values) - rank) * values[i]))
        assert found[i] == pytest.approx(running)


def test_holm_keeps_the_shape():
    np.testing.assert_allclose(holm(np.array([[0.01, 0.04], [0.03, 0.5]])), [[0.04, 0.09], [0.09, 0.5]])


# ---------------------------------------------------------------- seeds


def test_all_divisions_are_compared_when_they_are_few():
    a, b = [62.0, 59.0, 51.0, 35.0], [40.0, 33.0, 33.5]
    found = permutation_test(a, b)
    values, observed = [*a, *b], np.mean(a) - np.mean(b)
    differences = []
    for chosen in itertools.combinations(range(7), 4):
        rest = [values[i] for i in range(7) if i not in chosen]
        differences.append(np.mean([values[i] for i in chosen]) - np.mean(rest))
    differences = np.array(differences)
    greater = (differences >= observed - 1e-9).mean()
    less = (differences <= observed + 1e-9).mean()
    assert found.exact
    assert found.n_permutations == 35
    assert found.statistic == pytest.approx(observed)
    assert found.p_greater == pytest.approx(greater)
    assert found.p_two_sided == pytest.approx(min(1, 2 * min(greater, less)))


def test_complete_separation_of_six_and_six_seeds():
    found = permutation_test(list(range(10, 16)), list(range(6)))
    assert found.p_greater == pytest.approx(1 / 924)
    assert found.p_two_sided == pytest.approx(2 / 924)
    assert permutation_test(list(range(6)), list(range(10, 16))).p_greater == pytest.approx(1.0)


def test_many_divisions_are_sampled():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 12), rng.normal(0, 1, 12)
    found = permutation_test(a, b, n=2000)
    assert not found.exact
    assert found.n_permutations == 2000
    assert found == permutation_test(a, b, n=2000)
    t = scipy.stats.ttest_ind(a, b, alternative="greater").pvalue
    assert found.p_greater == pytest.approx(t, abs=0.01)


def test_medians_resist_an_outlier():
    a, b = [1.0, 2.0, 3.0, 1000.0], [1.1, 2.1, 3.1, 4.1]
    assert permutation_test(a, b, "median difference").statistic == pytest.approx(-0.1)
    with pytest.raises(InputError, match=r"statistic='mean diff' is unknown; did you mean 'mean difference'\?"):
        permutation_test(a, b, "mean diff")


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([1.0, float("nan")], [1.0, 2.0])])
def test_too_little_to_permute_is_refused(a, b):
    with pytest.raises(InputError, match="at least 2 finite values on each side"):
        permutation_test(a, b)


def test_a_t_interval_is_scipy_s_and_one_value_is_its_own():
    values = np.random.default_rng(0).normal(size=(3, 7))
    wanted = scipy.stats.t.interval(0.9, 6, values.mean(-1), scipy.stats.sem(values, axis=-1))
    np.testing.assert_allclose(t_interval(values, 0.9), wanted)
    low, high = t_interval(values[:, :1])
    np.testing.assert_array_equal(low, values[:, 0])
    np.testing.assert_array_equal(high, values[:, 0])


@pytest.mark.parametrize("n", [64, 40])
def test_a_paired_test_is_its_definition(n):
    """Six pairs have 64 exchanges, which are all compared, or some of them at random."""
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(2, 3, 6)) * [[[1.0]], [[4.0]]]
    first[1] += 5
    found = paired_differences(first, second, n)
    exchanges = list(itertools.product([1, -1], repeat=6))
    observed = scipy.stats.ttest_1samp(first - second, 0, axis=-1).statistic
    np.testing.assert_allclose(found.statistic, observed)
    np.testing.assert_allclose(found.difference, (first - second).mean(-1))
    drawn = np.array([scipy.stats.ttest_1samp((first - second) * s, 0, axis=-1).statistic for s in exchanges])
    large = np.abs(drawn)
    wanted = (large >= np.abs(observed) - 1e-9).mean(0), (large.max(1)[:, None] >= np.abs(observed) - 1e-9).mean(0)
    assert (found.n_permutations, found.exact) == (n, n == 64)
    for p, slow in zip((found.p_value, found.p_corrected), wanted, strict=True):
        np.testing.assert_allclose(p, slow, atol=1e-12 if n == 64 else 0.2)


def test_a_paired_test_keeps_its_level_where_one_sample_spreads_more():
    rng = np.random.default_rng(0)
    wrong = {paired_differences: 0, mean_differences: 0}
    for _ in range(80):
        first, second = rng.standard_t(4, (40, 8)) * 0.2, rng.standard_t(4, (40, 8))
        for test in wrong:
            wrong[test] += bool((test(first, second, 200).p_corrected < 0.05).any())
    assert wrong[paired_differences] <= 10 < wrong[mean_differences]


def test_nothing_that_differs_has_p_one_and_bad_pairs_are_refused():
    same = np.ones((2, 7))
    assert paired_differences(same, same).p_value.tolist() == [1, 1]
    with pytest.raises(InputError, match="two samples of one shape"):
        paired_differences(np.ones((1, 4)), np.ones((1, 5)))
    with pytest.raises(InputError, match="at least 2 finite values"):
        paired_differences(np.ones((1, 1)), np.ones((1, 1)))


def test_auroc_is_mann_whitneys():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.4
    u = scipy.stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert auroc(scores, positive) == pytest.approx(u / (positive.sum() * (~positive).sum()))
    assert np.isnan(auroc(scores, np.ones(40, bool)))
