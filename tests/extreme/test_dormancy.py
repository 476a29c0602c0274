"""Phases, tests and verdicts on numbers that are known."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from workbench.errors import InputError
from workbench.extreme import dormancy
from workbench.extreme.dormancy import (
    CONDITIONS,
    Limits,
    near_misses,
    phases,
    waking_sentences,
    waking_table,
)

QUICK = Limits(n_permutations=300)
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
    effect = [[0.0, 0.0, 0.05, -0.05, 0.009]] * 2
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
    strict = Limits(n_permutations=300, alpha=0.01)
    assert waking_sentences(phases(found, strict)).values[0, 0] == "not decided"


@pytest.mark.parametrize("noisy", [0, 1])
def test_an_interval_and_a_test_decide_without_a_second_noise_floor(noisy):
    """Texts of one domain scatter by 0.043 nats around 0.03: halves of them differ by more than the domains do."""
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
    assert found["wakes"].sum() == 1
    data["loss_change"][noisy, :, 0, 0] = 0.03 + 0.075 * scatter
    wide = phases(data, QUICK)
    assert not wide["wakes"].any()
    assert set(near_misses(wide)["failed"].values) <= {"effect when active"}, "its interval includes zero"


def test_a_clause_names_only_domains_that_were_told_apart():
    found = phases(
        measured([[0.0], [0.0], [0.03], [0.08]], [[0.9]] * 4, noise=0.005, n=20, names=["a", "b", "c", "d"]),
        dataclasses.replace(QUICK, negligible=0.01),
    )
    assert waking_sentences(found).values[0, 0] == "dormant in a, b, active in c, d"
    p = found["p_corrected"].copy()
    p.loc[{"pair": "a − c"}] = 0.2
    told = dormancy._conditions(found.assign(p_corrected=p), QUICK)
    verdict = waking_sentences(found.assign(wakes=told.all("condition")))
    assert verdict.values[0, 0] == "dormant in a, active in d; dormant in b, active in c, d"


def test_limits_move_the_verdict_and_are_kept():
    data = measured([[0.0], [0.1]], [[0.6], [0.6]])
    assert waking_sentences(phases(data, QUICK)).values[0, 0] == "dormant in prose, active in code"
    for other in ({"asleep": 0.8}, {"negligible": 0.2}):
        found = phases(data, Limits(n_permutations=300, **other))
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


def test_p_values_are_near_those_of_a_paired_t_test_and_holm_corrects_them():
    data = measured([[0.0] * 6], [[0.5] * 6], noise=0.01, names=["prose"])
    other = measured([[0.0, 0.002, 0.004, 0.006, 0.008, 0.01]], [[0.5] * 6], noise=0.01, names=["code"], seed=1)
    both = xr.concat([data, other], "domain")
    found = phases(both, Limits(correction="holm", n_permutations=4000))
    x, y = (d["loss_change"].values[0, :, 0] for d in (data, other))
    wanted = scipy.stats.ttest_rel(x, y).pvalue
    p = found["p_value"].sel(score="loss_change").values[0, 0]
    np.testing.assert_allclose(p, wanted, atol=0.02, rtol=0.2)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(6, 0, -1)).clip(max=1)
    np.testing.assert_allclose(found["p_corrected"].sel(score="loss_change").values[0, 0][order], stepped)


def test_an_effect_that_is_small_but_sure_is_active_and_one_that_is_large_but_unsure_is_not():
    """Head 18.6 of SmolLM2: 0.0196 nats on code with an interval from 0.0076, as good as none on prose."""
    rng = np.random.default_rng(3)
    shape = rng.normal(size=(2, 24))
    shape = (shape - shape.mean(-1, keepdims=True)) / shape.std(-1, ddof=1, keepdims=True)
    data = measured([[-0.0013], [0.0196]], [[0.94], [0.73]], noise=0, n=24)
    data["loss_change"] += xr.DataArray(shape * [[0.008], [0.0284]], dims=("domain", "sequence"))
    found = phases(data, Limits())
    assert found["phase"].values[:, 0, 0].tolist() == ["dormant", "active"]
    assert 0.007 < float(found["effect_low"].values[1, 0, 0]) < 0.01 < float(found["effect"].values[1, 0, 0])
    assert waking_sentences(found).item() == "dormant in prose, active in code"
    wild = found.assign(loss_change=found["loss_change"] * xr.DataArray([1, 3], dims="domain"))
    wild["loss_change"] -= xr.DataArray([0, 2 * 0.0196], dims="domain")
    again = phases(wild, Limits())
    assert float(again["effect"].values[1, 0, 0]) == pytest.approx(0.0196)
    assert again["phase"].values[1, 0, 0] == "undecided"


def test_every_head_says_which_condition_failed_and_near_misses_are_listed():
    effect = [[0.0, 0.0, 0.0, 0.012], [0.1, 0.1, 0.0, 0.1]]
    sink = [[0.9, 0.3, 0.9, 0.9], [0.4, 0.3, 0.2, 0.3]]
    found = phases(measured(effect, sink, noise=0.004, seed=2), QUICK)
    holds = found["holds"].sel(dormant_in="prose", active_in="code", layer=0).transpose("head", "condition").values
    assert [[name for name, ok in zip(CONDITIONS, row, strict=True) if not ok] for row in holds] == [
        [],
        ["rests"],
        ["effect when active", "differs"],
        ["no effect at rest"],
    ]
    assert not bool(found["holds"].sel(dormant_in="code", active_in="code").any())
    waking, near = waking_table(found), near_misses(found)
    assert waking["head"].values.tolist() == [0] and waking["failed"].values.tolist() == [""]
    assert sorted(near["head"].values.tolist()) == [1, 3]
    assert dict(zip(near["head"].values.tolist(), near["failed"].values, strict=True)) == {
        1: "rests",
        3: "no effect at rest",
    }
    one = found.sel(layer=0, head=0)
    assert waking["effect"].item() == float(one["effect"].sel(domain="code"))
    assert waking["rest_sink"].item() == float(one["sink"].sel(domain="prose"))
    assert waking["p_corrected"].item() == float(one["p_corrected"].sel(score="loss_change").item())


def test_heads_that_were_not_measured_are_no_part_of_the_test():
    data = measured([[0.0, 0.0, 0.0], [0.1, 0.0, 0.02]], [[0.9] * 3] * 2, noise=0.02, n=12)
    some = data.copy(deep=True)
    some["loss_change"][..., 1] = np.nan
    found, two = phases(some, QUICK), phases(data.isel(head=[0, 2]), QUICK)
    np.testing.assert_array_equal(found["p_corrected"].values[..., [0, 2]], two["p_corrected"].values)
    assert np.isnan(found["p_corrected"].values[..., 1]).all()
    assert found["phase"].values[:, 0, 1].tolist() == ["not measured"] * 2
    assert waking_sentences(found).values[0, 1] == "not measured"
    assert 1 not in near_misses(found)["head"].values


def test_intervals_of_the_difference_are_those_of_pairs():
    data = measured([[0.0, 0.02], [0.01, 0.0]], [[0.9, 0.9]] * 2, noise=0.02, n=9)
    found = phases(data, QUICK).sel(score="loss_change").isel(pair=0, layer=0)
    first, second = data["loss_change"].values[:, :, 0]
    wanted = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
    np.testing.assert_allclose([found["difference_low"], found["difference_high"]], wanted)


def test_units_may_be_groups():
    data = measured([[0.0], [0.1]], [[0.9], [0.9]]).rename(head="kv_group")
    found = phases(data, QUICK)
    assert found["wakes"].dims[2:] == ("layer", "kv_group")
    assert found["holds"].dims == ("condition", "dormant_in", "active_in", "layer", "kv_group")


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
