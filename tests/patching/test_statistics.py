"""Each statistic against scipy, a closed form or a slow loop, and against data with a known answer."""

import itertools

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.patching.scores import METRICS, contribution
from workbench.patching.statistics import (
    bootstrap,
    compare_estimates,
    kurtosis,
    layer_sums,
    split_half,
    top_mass,
    within_group_variance,
)
from workbench.patching.units import HeadCounts

COUNTS = HeadCounts(n_layers=4, n_heads=8, n_kv_heads=2)


def measured(effect, noise=0.1, n_examples=20, counts=COUNTS, seed=0, metrics=METRICS):
    """A result whose heads lower the behaviour's logit by `effect`, give or take `noise` per example."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(5, 6, size=(2, n_examples))
    source = base - 1
    patched = np.broadcast_to(base[:, None, None], (2, *effect.shape, n_examples)).copy()
    patched[0] += effect[..., None] + noise * rng.normal(size=patched[0].shape)
    coords = {"layer": np.arange(effect.shape[0]), "head": np.arange(effect.shape[1])}
    found = contribution(base, source, patched, dims=("layer", "head"), coords=coords, metrics=metrics)
    return found.assign_attrs(counts._asdict())


def random_effect(seed=0, shape=(4, 8)):
    return np.random.default_rng(seed).normal(size=shape) ** 3 / 10


def array(values, dims=("layer", "head")):
    return xr.DataArray(np.asarray(values, dtype=float), dims=dims)


# ---------------------------------------------------------------- kurtosis


def test_kurtosis_is_scipys_biased_one():
    result = measured(random_effect())
    found = kurtosis(result, n_boot=0)
    for metric in METRICS:
        values = result["contribution"].sel(metric=metric).values.ravel()
        assert float(found["fisher"].sel(metric=metric)) == pytest.approx(scipy.stats.kurtosis(values), rel=1e-12)
        pearson = scipy.stats.kurtosis(values, fisher=False)
        assert float(found["pearson"].sel(metric=metric)) == pytest.approx(pearson, rel=1e-12)


@given(st.integers(3, 400), st.floats(-5, 5), st.floats(0.5, 9))
def test_one_outlier_gives_the_largest_kurtosis(n, level, height):
    values = np.full(n, level)
    values[n // 2] -= height
    found = kurtosis(array(values, ("unit",)))
    assert float(found["pearson"]) == pytest.approx(n - 2 + 1 / (n - 1), rel=1e-6)
    assert found.attrs["largest_possible_pearson"] == pytest.approx(n - 2 + 1 / (n - 1))
    assert found.attrs["n_units"] == n


def test_kurtosis_of_equal_values_is_undefined():
    assert np.isnan(kurtosis(array(np.full((4, 8), 0.1)))["fisher"])


def test_kurtosis_intervals_come_from_resampled_examples():
    result = measured(random_effect(), noise=0.3, n_examples=9)
    found = kurtosis(result, n_boot=300, seed=3)
    rng = np.random.default_rng(3)
    weights = rng.multinomial(9, np.full(9, 1 / 9), size=300)
    for metric in METRICS:
        base, patched = result["base"].sel(metric=metric).values, result["patched"].sel(metric=metric).values
        boot = []
        for w in weights:
            b, p = np.repeat(base, w), np.repeat(patched, w, axis=-1).mean(-1)
            drawn = p - b.mean() if metric == "logit_diff" else p / b.mean() - 1
            boot.append(scipy.stats.kurtosis(drawn.ravel()))
        low, high = np.quantile(boot, [0.025, 0.975])
        assert float(found["fisher_low"].sel(metric=metric)) == pytest.approx(low)
        assert float(found["pearson_high"].sel(metric=metric)) == pytest.approx(high + 3)


def test_kurtosis_without_noise_has_no_width():
    result = measured(random_effect(), noise=0.0, metrics=("logit_diff",))
    found = kurtosis(result, n_boot=50)
    np.testing.assert_allclose(found["fisher_low"], found["fisher"])
    np.testing.assert_allclose(found["fisher_high"], found["fisher"])


def test_resampling_in_pieces_changes_nothing(monkeypatch):
    result = measured(random_effect())
    whole = kurtosis(result, n_boot=70), bootstrap(result, n=70)
    monkeypatch.setattr("workbench.patching.statistics._CHUNK", 500)
    for one, other in zip(whole, (kurtosis(result, n_boot=70), bootstrap(result, n=70)), strict=True):
        xr.testing.assert_allclose(one, other, rtol=1e-12)


# ---------------------------------------------------------------- bootstrap


def test_intervals_are_scipys_up_to_chance():
    result = measured(random_effect(shape=(1, 3)), noise=0.5, n_examples=40, metrics=("logit_diff",))
    found = bootstrap(result, n=4000)
    change = (result["patched"] - result["base"]).sel(metric="logit_diff").values
    peer = scipy.stats.bootstrap(
        (change,), np.mean, axis=-1, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = (peer.high - peer.low).max()
    np.testing.assert_allclose(found["low"][0], peer.low, atol=0.05 * width)
    np.testing.assert_allclose(found["high"][0], peer.high, atol=0.05 * width)
    assert found["low"].dims == result["contribution"].dims


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    effect = np.zeros((20, 20))
    found = bootstrap(measured(effect, noise=0.5, n_examples=60, metrics=("logit_diff",)))
    covered = ((found["low"] < 0) & (found["high"] > 0)).mean()
    assert 0.90 < float(covered) < 0.97


def test_seeds_decide():
    result = measured(random_effect())
    xr.testing.assert_identical(bootstrap(result, n=50), bootstrap(result, n=50))
    assert not bootstrap(result, n=50, seed=1)["low"].equals(bootstrap(result, n=50)["low"])


# ---------------------------------------------------------------- within groups


def anova_icc(grid, n_kv_heads):
    """ICC(1) from the F statistic of scipy's one-way analysis of variance."""
    groups = grid.reshape(-1, grid.shape[1] // n_kv_heads)
    f = scipy.stats.f_oneway(*groups).statistic
    return (f - 1) / (f + groups.shape[1] - 1)


def test_the_intra_class_correlation_is_that_of_the_analysis_of_variance():
    result = measured(random_effect())
    found = within_group_variance(result, n_permutations=10)
    for metric in METRICS:
        grid = result["contribution"].sel(metric=metric).values
        assert float(found["icc"].sel(metric=metric)) == pytest.approx(anova_icc(grid, 2), rel=1e-9)
        inside = np.mean([group.var() for group in grid.reshape(8, 4)]) / grid.var()
        assert float(found["within_share"].sel(metric=metric)) == pytest.approx(inside, rel=1e-9)


def test_heads_that_act_by_group_are_told_from_heads_that_act_by_layer():
    rng = np.random.default_rng(0)
    by_group = np.repeat(rng.normal(size=(4, 2)), 4, axis=1) / 5 + rng.normal(size=(4, 8)) / 50
    by_layer = np.repeat(rng.normal(size=(4, 1)), 8, axis=1) / 5 + rng.normal(size=(4, 8)) / 50
    groups, layers = (within_group_variance(measured(e, noise=0.0), 500) for e in (by_group, by_layer))
    assert (groups["p_value"] < 0.01).all()
    assert (groups["within_share"] < groups["null_low"]).all()
    assert (layers["p_value"] > 0.05).all()
    assert (layers["icc"] > 0.8).all(), "a layer effect alone makes the plain correlation high: hence the null"


def test_the_null_is_every_way_to_regroup_heads_inside_layers():
    counts = HeadCounts(2, 4, 2)
    effect = random_effect(shape=(2, 4))
    result = measured(effect, noise=0.0, counts=counts, metrics=("logit_diff",))
    grid = result["contribution"].values[0]

    def share(values):
        return np.mean([group.var() for group in values.reshape(4, 2)]) / grid.var()

    orders = list(itertools.permutations(range(4)))
    every = np.array([share(np.stack([grid[0, list(a)], grid[1, list(b)]])) for a in orders for b in orders])
    found = within_group_variance(result, n_permutations=4000)
    assert float(found["null_share"][0]) == pytest.approx(every.mean(), abs=0.01)
    assert float(found["p_value"][0]) == pytest.approx((every <= share(grid) + 1e-12).mean(), abs=0.03)


def test_groups_of_equal_means_have_the_largest_p_value():
    """All variance is inside the groups, so no way to regroup the heads has a larger share."""
    pair = np.array([[0.1], [0.3], [0.2], [0.4]]) * np.tile([1, -1], 4)
    found = within_group_variance(measured(pair, noise=0.0, metrics=("logit_diff",)), n_permutations=50)
    assert float(found["within_share"][0]) == pytest.approx(1)
    assert float(found["p_value"][0]) == 1


def test_p_values_are_uniform_when_groups_mean_nothing():
    ps = [
        float(within_group_variance(measured(random_effect(seed), noise=0.0, metrics=("prob",)), 99)["p_value"][0])
        for seed in range(150)
    ]
    assert scipy.stats.kstest(ps, "uniform").pvalue > 0.01


@pytest.mark.parametrize(("n_kv_heads", "note"), [(8, "single head"), (1, "whole layer")])
def test_groups_that_are_heads_or_layers_have_no_comparison(n_kv_heads, note):
    counts = HeadCounts(4, 8, n_kv_heads)
    found = within_group_variance(measured(random_effect(), counts=counts), n_permutations=10)
    assert note in found.attrs["note"]
    assert np.isnan(found["p_value"]).all()
    assert np.isnan(found["within_share"]).all() == (n_kv_heads == 8)


def test_equal_heads_have_no_variance_to_share():
    with np.errstate(all="raise"):
        found = within_group_variance(measured(np.zeros((4, 8)), noise=0.0), n_permutations=10)
    assert np.isnan(found["within_share"]).all()
    assert np.isnan(found["p_value"]).all()


def test_variance_inside_groups_needs_heads():
    result = measured(random_effect(shape=(4, 2))).rename(head="kv_group")
    with pytest.raises(InputError, match="needs single heads"):
        within_group_variance(result)


# ---------------------------------------------------------------- mass, layers, halves


def test_top_mass_is_the_share_of_the_most_negative():
    values = np.zeros((5, 10))
    values[0, 0], values[3, 3], values[4, 9], values[1, 1] = -6, -2, -2, 50
    assert float(top_mass(array(values), ratio=0.04)) == pytest.approx(0.8)
    assert float(top_mass(array(values), ratio=0.02)) == pytest.approx(0.6)
    assert np.isnan(top_mass(array(np.abs(values))))
    stacked = xr.concat([array(values), array(-values)], "metric")
    np.testing.assert_allclose(top_mass(stacked, ratio=0.02), [0.6, 1.0])


def test_layer_sums_split_the_negative_from_the_whole():
    found = layer_sums(array([[1, -2, -3], [4, 0, 0]]))
    assert found["pro_behaviour"].values.tolist() == [5, 0]
    assert found["signed"].values.tolist() == [-4, 4]
    assert layer_sums(measured(random_effect()))["signed"].dims == ("metric", "layer")
    assert layer_sums(array([-1, 2], ("layer",)))["pro_behaviour"].values.tolist() == [1, 0]
    undefined = layer_sums(array([[1, -2], [np.nan, -1]]))
    assert np.isnan(undefined["pro_behaviour"]).values.tolist() == [False, True]
    assert np.isnan(undefined["signed"]).values.tolist() == [False, True]
    with pytest.raises(InputError, match="need a layer axis"):
        layer_sums(array([1, 2], ("unit",)))


def test_halves_agree_when_the_effect_is_there_and_not_when_it_is_noise():
    effect = random_effect()
    assert (split_half(measured(effect, noise=0.0))["spearman"] > 0.99).all()
    noise = split_half(measured(np.zeros((8, 32)), noise=1.0, counts=HeadCounts(8, 32, 8), metrics=("logit_diff",)))
    assert abs(float(noise["spearman"][0])) < 0.1
    assert float(noise["spearman_low"][0]) < float(noise["spearman"][0]) < float(noise["spearman_high"][0])


def test_one_split_is_scipys_rank_correlation():
    result = measured(random_effect(), noise=0.3, n_examples=7, metrics=("logit_diff",))
    found = split_half(result, n_splits=1, seed=5)
    change = (result["patched"] - result["base"]).values[0]
    order = np.random.default_rng(5).permutation(7)
    halves = [change[..., part].mean(-1).ravel() for part in (order[:3], order[3:6])]
    assert float(found["spearman"][0]) == pytest.approx(scipy.stats.spearmanr(*halves).statistic)
    assert found.attrs["examples_per_half"] == 3


def test_one_example_has_no_halves():
    with pytest.raises(InputError, match="at least 2 examples, and there are 1"):
        split_half(measured(random_effect(), n_examples=1))


# ---------------------------------------------------------------- agreement


def test_agreement_is_scipys():
    exact, approx = measured(random_effect(0)), measured(random_effect(0) + random_effect(1) / 3)
    found = compare_estimates(approx, exact, ratio=0.1)
    for metric in METRICS:
        a, e = (r["contribution"].sel(metric=metric).values.ravel() for r in (approx, exact))
        here = found.sel(metric=metric)
        assert float(here["pearson"]) == pytest.approx(scipy.stats.pearsonr(a, e).statistic)
        assert float(here["spearman"]) == pytest.approx(scipy.stats.spearmanr(a, e).statistic)
        assert float(here["worst_error"]) == pytest.approx(max(abs(a - e)) / max(abs(e)))
        common = set(np.argsort(a)[:3]) & set(np.argsort(e)[:3])
        assert float(here["top_overlap"]) == pytest.approx(len(common) / 3)


def test_perfect_agreement():
    result = measured(random_effect())
    found = compare_estimates(result.transpose("head", "layer", ...), result, ratio=0.1)
    for name, value in {"pearson": 1, "spearman": 1, "worst_error": 0, "top_overlap": 1}.items():
        np.testing.assert_allclose(found[name], value)


def test_other_units_cannot_be_compared():
    result = measured(random_effect())
    with pytest.raises(InputError, match="not over the same units"):
        compare_estimates(result.isel(head=slice(4)), result)
    with pytest.raises(InputError, match="not over the same units"):
        compare_estimates(result.rename(head="kv_group"), result)
