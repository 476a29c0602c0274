"""Heads are stopped once they can hardly be found to wake, and what is said of them rests on what was measured."""

import math

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from tests.extreme.sleeper import sleeper, texts
from workbench.errors import InputError
from workbench.extreme import active_dormant, near_misses, waking_sentences, zeroing_sweep
from workbench.extreme.dormancy import Limits, phases
from workbench.extreme.stopping import can_wake, looks
from workbench.statistics import paired_differences, t_interval

QUICK = Limits(n_permutations=200)
QUANTILES = {0.975: {3: 3.182446, 15: 2.131450}}
"""Student's quantiles from a printed table, by degrees of freedom."""
NEEDED = 3.286
"""Of 15 degrees of freedom: P(|t| > 3.286) = 0.005 = 0.05 / 10."""


def slow_can_wake(change, rests, n):
    """One head, two domains, ten candidates: every condition with the end of its prediction interval in its favour."""
    k = change.shape[1]
    means, sds = [x.mean() for x in change], [x.std(ddof=1) for x in change]
    reach = QUANTILES[0.975][k - 1] * math.sqrt(1 / k - 1 / n)
    half = [QUANTILES[0.975][n - 1] * sd / math.sqrt(n) for sd in sds]
    for a, b in ((0, 1), (1, 0)):
        nearest = max(0, abs(means[a]) - reach * sds[a])
        farthest = abs(means[b]) + reach * sds[b]
        away = change[a] - change[b]
        largest = abs(away.mean()) + reach * away.std(ddof=1)
        quiet, works = nearest + half[a] <= 0.01, farthest >= 0.01 and farthest >= half[b]
        if rests[a] and quiet and works and largest >= NEEDED * away.std(ddof=1) / math.sqrt(n):
            return True
    return False


def test_heads_that_can_wake_are_those_of_the_slow_rule():
    rng = np.random.default_rng(0)
    scale = rng.choice([0.001, 0.004, 0.02], size=(2, 1, 20, 50))
    change = scale * rng.normal(size=(2, 4, 20, 50)) + rng.choice([0, 0.003, 0.03], size=(2, 1, 20, 50))
    sink = rng.uniform(0.2, 1, size=(2, 20, 50))
    wanted = [[slow_can_wake(change[:, :, i, j], sink[:, i, j] >= 0.5, 16) for j in range(50)] for i in range(20)]
    found = can_wake(change, sink, 16, 10, Limits())
    assert (found == np.array(wanted)).all() and 0.1 < found.mean() < 0.9
    gone = np.where(np.arange(50) < 25, change, np.nan)
    assert not can_wake(gone, sink, 16, 10, Limits())[:, 25:].any(), "what is stopped stays so"


def test_a_final_mean_lies_beyond_an_end_of_the_prediction_interval_in_one_of_forty_samples():
    rng = np.random.default_rng(0)
    change = rng.normal(size=(1, 16, 1, 20_000)) * 0.02 + 0.0
    first, last = change[:, :4], change.mean(1)
    reach = QUANTILES[0.975][3] * first.std(1, ddof=1) * math.sqrt(1 / 4 - 1 / 16)
    assert (last > first.mean(1) + reach).mean() == pytest.approx(0.025, abs=0.004)


def test_looks_are_after_each_quarter_but_not_before_four_texts():
    assert looks(16, 4) == [4, 8, 12, 16]
    assert looks(6, 4) == [4, 5, 6] and looks(4, 4) == [4] and looks(10, 4) == [4, 5, 8, 10]


def test_the_sleeper_is_found_and_the_other_head_is_not_zeroed():
    domains = {"plain": texts(12, 24, False), "triggered": texts(12, 24, True, seed=1)}
    found = active_dormant(sleeper(), domains, length=24, stop_early=True, limits=QUICK, progress=False)
    whole = active_dormant(sleeper(), domains, length=24, limits=QUICK, progress=False)
    assert waking_sentences(found).values.tolist() == [["dormant in plain, active in triggered", "not measured"]]
    assert found["n_texts"].values.tolist() == [[12, 0]], "head 1 rests nowhere"
    for name in ("loss", "sink_weight", "text"):
        np.testing.assert_array_equal(found[name], whole[name])
    np.testing.assert_allclose(found["loss_change"].sel(head=0), whole["loss_change"].sel(head=0), atol=1e-9)


def test_a_head_that_cannot_wake_is_stopped_after_the_first_look(tmp_path):
    domains = {"one": texts(10, 24, False), "other": texts(10, 24, False, seed=1)}
    file = tmp_path / "found.nc"
    options = {"length": 24, "stop_early": True, "limits": QUICK, "progress": False, "resume": file}
    found = active_dormant(sleeper(), domains, **options)
    assert found["n_texts"].values.tolist() == [[4, 0]]
    assert found.sizes["sequence"] == 10 and np.isfinite(found["loss"]).all()
    rows = [row for some in domains.values() for row in some[:4]]
    slow = zeroing_sweep(sleeper(), rows, progress=False)["loss_change"].values[:, 0, 0].reshape(2, 4)
    measured = found["loss_change"].sel(layer=0, head=0).transpose("domain", "sequence").values
    np.testing.assert_allclose(measured[:, :4], slow, atol=1e-9)
    assert np.isnan(measured[:, 4:]).all()
    one = found.sel(layer=0, head=0)
    np.testing.assert_allclose(one["effect"], slow.mean(1))
    np.testing.assert_allclose([one["effect_low"], one["effect_high"]], t_interval(slow))
    assert one["phase"].values.tolist() == ["dormant", "dormant"], "its intervals say so"
    assert np.isnan(found["p_corrected"].sel(score="loss_change")).all() and not found["wakes"].any()
    assert not near_misses(found).sizes["row"]
    xr.testing.assert_identical(active_dormant(sleeper(), domains, **options).drop_attrs(), found.drop_attrs())
    with pytest.raises(InputError, match="another configuration"):
        active_dormant(sleeper(), domains, **options | {"limits": Limits(negligible=0.02)})


def measured(change, n_texts, n_candidates):
    dims = ("domain", "sequence", "layer", "head")
    change = np.where(np.arange(change.shape[1])[:, None, None] < n_texts, change, np.nan)
    return xr.Dataset(
        {
            "loss_change": (dims, change),
            "sink_weight": (dims, np.full(change.shape, 0.9)),
            "n_texts": (("layer", "head"), n_texts),
        },
        {"domain": ["prose", "code"]},
        {"n_candidates": n_candidates},
    )


@pytest.mark.parametrize("correction", ["max", "holm"])
def test_heads_without_all_texts_have_no_p_and_count_in_the_correction(correction):
    rng = np.random.default_rng(1)
    change = rng.normal(size=(2, 12, 1, 8)) * 0.02
    n_texts = np.array([[12, 12, 12, 4, 4, 0, 0, 0]])
    limits = Limits(correction=correction, n_permutations=4000)
    found = phases(measured(change, n_texts, 8), limits).sel(score="loss_change").isel(pair=0, layer=0)
    alone = phases(measured(change, n_texts, 3), limits).sel(score="loss_change").isel(pair=0, layer=0)
    wanted = [paired_differences(*change[:, :, 0, h][:, None], 4000).p_value[0] for h in range(3)]
    for name in ("p_value", "p_corrected"):
        assert np.isfinite(found[name]).values.tolist() == [True] * 3 + [False] * 5
    np.testing.assert_allclose(found["p_value"][:3], wanted)
    assert (found["p_corrected"] > alone["p_corrected"])[:3].sum() >= 2 and (alone["p_corrected"] < 1).sum() >= 2
    most = np.minimum(1, 8 * found["p_value"])
    assert (found["p_corrected"][:3] <= most[:3] + 0.02).all(), "no stricter than Bonferroni"
    sentences = waking_sentences(phases(measured(change, n_texts, 8), limits)).values[0].tolist()
    assert sentences == ["not decided"] * 3 + ["stopped after 4 texts"] * 2 + ["not measured"] * 3


@pytest.mark.parametrize("n", [8, 16])
def test_one_head_of_many_is_corrected_as_among_independent_ones(n):
    """Student's t of n - 1 degrees of freedom, the largest of 60."""
    change = np.random.default_rng(4).normal(size=(2, n, 1, 1)) * 0.02
    for effect in (0.02, 0.03, 0.04):
        away = change[0, :, 0, 0] - change[1, :, 0, 0] + effect
        shifted = change + np.array([effect, 0])[:, None, None, None]
        found = phases(measured(shifted, np.array([[n]]), 60)).sel(score="loss_change").squeeze()
        wanted = 1 - (1 - scipy.stats.ttest_1samp(away, 0).pvalue) ** 60
        assert float(found["p_corrected"]) == pytest.approx(wanted, abs=0.1)


def test_a_stopped_head_is_called_dormant_only_where_its_interval_lies_within_what_is_negligible():
    rng = np.random.default_rng(0)
    change = np.stack([0.001 * rng.normal(size=(2, 12, 1)), 0.012 * rng.normal(size=(2, 12, 1))], -1)
    found = phases(measured(change, np.array([[4, 4]]), 2), QUICK)
    assert found["phase"].isel(layer=0).values.tolist() == [["dormant", "undecided"]] * 2
    assert waking_sentences(found).values.tolist() == [
        ["dormant in all (stopped after 4 texts)", "stopped after 4 texts"]
    ]
