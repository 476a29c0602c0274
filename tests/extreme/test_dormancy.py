"""Phases, tests and verdicts on numbers that are known."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from workbench.errors import InputError
from workbench.extreme import dormancy
from workbench.extreme.dormancy import Limits, phases, waking_sentences

QUICK = Limits(n_permutations=300, n_resamples=200)
NAMES = ["prose", "code"]


def measured(effect, sink, noise=0.002, n=30, seed=0, names=NAMES):
    """Heads with given mean effects and sinks per domain: lists over domains of lists over heads."""
    rng = np.random.default_rng(seed)
    effect, sink = (np.asarray(x, dtype=float)[:, None, None] for x in (effect, sink))
    shape = (effect.shape[0], n, 1, effect.shape[-1])
    change = effect + noise * rng.normal(size=shape)
    weight = np.clip(sink + noise * rng.normal(size=shape), 0, 1)
    dims = ("domain", "sequence", "layer", "head")
    coords = {"domain": names, "layer": [0], "head": np.arange(shape[-1])}
    return xr.Dataset({"loss_change": (dims, change), "sink_weight": (dims, weight)}, coords)


def test_each_phase_has_its_reason():
    effect = [[0.0, 0.0, 0.05, -0.05, 0.0101]] * 2
    sink = [[0.9, 0.1, 0.9, 0.1, 0.9]] * 2
    found = phases(measured(effect, sink, noise=0.004), QUICK)
    assert found["phase"].values[0, 0].tolist() == ["dormant", "idle", "active", "active", "undecided"]
    verdicts = ["dormant in all", "not decided", "active in all", "active in all", "not decided"]
    assert waking_sentences(found).values[0].tolist() == verdicts


def test_asleep_here_and_awake_there():
    found = phases(measured([[0.0, 0.1], [0.1, 0.0]], [[0.95, 0.3], [0.4, 0.9]]), QUICK)
    wanted = ["dormant in prose, active in code", "dormant in code, active in prose"]
    assert waking_sentences(found).values[0].tolist() == wanted
    np.testing.assert_allclose(found["difference"].sel(score="loss_change").values, [[[-0.1, 0.1]]], atol=2e-3)
    np.testing.assert_allclose(found["difference"].sel(score="sink_weight").values, [[[0.55, -0.6]]], atol=2e-3)


def test_a_difference_within_chance_decides_nothing():
    found = phases(measured([[0.009], [0.011]], [[0.9], [0.9]], noise=0.0005, n=4), QUICK)
    assert found["phase"].values[:, 0, 0].tolist() == ["dormant", "active"]
    assert float(found["p_corrected"].sel(score="loss_change").values.squeeze()) > 0.02
    strict = Limits(n_permutations=300, n_resamples=200, alpha=0.01)
    assert waking_sentences(phases(found, strict)).values[0, 0] == "not decided"


@pytest.mark.parametrize("noisy", [0, 1])
def test_the_difference_must_exceed_what_halves_of_either_domain_differ_by(noisy):
    """Sequences of the noisy domain scatter by s around 0.03 nats, with 0.03 between 2 and 4 s / sqrt(20)."""
    effect = [[0.0], [0.0]]
    effect[noisy] = [0.03]
    data = measured(effect, [[0.9], [0.9]], noise=0.0005, n=20)
    scatter = scipy.stats.zscore(np.random.default_rng(0).normal(size=20))
    data["loss_change"][noisy, :, 0, 0] = 0.03 + 0.043 * scatter
    found = phases(data, QUICK)
    assert sorted(found["phase"].values.squeeze()) == ["active", "dormant"]
    assert float(found["p_corrected"].sel(score="loss_change").squeeze()) < 0.02
    rng = np.random.default_rng(1)
    halvings = np.stack([rng.permutation(data["loss_change"].values[noisy].ravel()) for _ in range(2000)])
    assert np.quantile(abs(halvings[:, :10].mean(1) - halvings[:, 10:].mean(1)), 0.95) > 0.032
    assert not found["wakes"].any()
    data["loss_change"][noisy, :, 0, 0] = 0.03 + 0.02 * scatter
    assert phases(data, QUICK)["wakes"].sum() == 1


def test_a_clause_names_only_domains_that_were_told_apart():
    found = phases(
        measured([[0.0], [0.0], [0.03], [0.08]], [[0.9]] * 4, noise=0.005, n=20, names=["a", "b", "c", "d"]),
        dataclasses.replace(QUICK, negligible=0.01),
    )
    assert waking_sentences(found).values[0, 0] == "dormant in a, b, active in c, d"
    p = found["p_corrected"].copy()
    p.loc[{"pair": "a − c"}] = 0.2
    verdict = waking_sentences(found.assign(wakes=dormancy._wakes(found.assign(p_corrected=p), QUICK)))
    assert verdict.values[0, 0] == "dormant in a, active in d; dormant in b, active in c, d"


def test_limits_move_the_verdict_and_are_kept():
    data = measured([[0.0], [0.1]], [[0.6], [0.6]])
    assert waking_sentences(phases(data, QUICK)).values[0, 0] == "dormant in prose, active in code"
    for other in ({"asleep": 0.8}, {"negligible": 0.2}):
        found = phases(data, Limits(n_permutations=300, n_resamples=200, **other))
        assert waking_sentences(found).values[0, 0] in ("not decided", "dormant in all")
        assert found.attrs | {f"limit_{k}": v for k, v in other.items()} == found.attrs


def test_intervals_cover_the_mean_and_shares_count_sequences():
    data = measured([[0.0, 0.02]], [[0.5, 0.9]], noise=0.01, n=200, names=["prose"])
    both = xr.concat([data, data.assign_coords(domain=["code"])], "domain")
    found = phases(both, QUICK)
    change, weight = data["loss_change"].values[0, :, 0], data["sink_weight"].values[0, :, 0]
    t = scipy.stats.t.interval(0.95, 199, change.mean(0), scipy.stats.sem(change))
    np.testing.assert_allclose(found["effect_low"].values[0, 0], t[0], atol=6e-4)
    np.testing.assert_allclose(found["effect_high"].values[0, 0], t[1], atol=6e-4)
    asleep = ((weight >= 0.5) & (np.abs(change) <= 0.01)).mean(0)
    np.testing.assert_allclose(found["dormant_share"].values[0, 0], asleep)


def test_p_values_are_near_those_of_a_t_test_and_holm_corrects_them():
    data = measured([[0.0] * 6], [[0.5] * 6], noise=0.01, names=["prose"])
    other = measured([[0.0, 0.002, 0.004, 0.006, 0.008, 0.01]], [[0.5] * 6], noise=0.01, names=["code"], seed=1)
    both = xr.concat([data, other], "domain")
    found = phases(both, Limits(correction="holm", n_permutations=4000))
    x, y = (d["loss_change"].values[0, :, 0] for d in (data, other))
    wanted = scipy.stats.ttest_ind(x, y, equal_var=False).pvalue
    p = found["p_value"].sel(score="loss_change").values[0, 0]
    np.testing.assert_allclose(p, wanted, atol=0.02, rtol=0.2)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(6, 0, -1)).clip(max=1)
    np.testing.assert_allclose(found["p_corrected"].sel(score="loss_change").values[0, 0][order], stepped)


def test_units_may_be_groups():
    data = measured([[0.0], [0.1]], [[0.9], [0.9]]).rename(head="kv_group")
    found = phases(data, QUICK)
    assert found["wakes"].dims[2:] == ("layer", "kv_group")
    assert found["noise_floor"].dims == ("score", "domain", "layer", "kv_group")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"asleep": 0.0}, "asleep=0.0 must lie between 0 and 1"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"negligible": 0.0}, "negligible=0.0"),
        ({"correction": "bonferroni"}, "correction='bonferroni' is unknown"),
        ({"n_permutations": 0}, "must be positive"),
    ],
)
def test_limits_that_decide_nothing_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        Limits(**options)
