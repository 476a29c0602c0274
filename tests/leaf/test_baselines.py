import numpy as np
import pytest
import xarray as xr
from scipy import stats

from tests.leaf.made import examples, pair
from workbench.errors import InputError
from workbench.leaf.baselines import Arm, compare, matched, paired, upweighted
from workbench.leaf.scoring import sensitivity

QUICK = {"learning_rate": 1e-2, "batch_size": 2, "micro_batch": 2, "progress": False, "steps": 2}


def test_another_score_prunes_as_many_tokens():
    whole = examples(((14, 4), (20, 3), (12, 5)))
    found = sensitivity(*pair(), whole, scores=["gradient_difference", "random"], progress=False)
    ours, other = (matched(whole, found, score, how="collective") for score in ("gradient_difference", "random"))
    assert [len(one.removed) for one in ours] == [len(one.removed) for one in other]
    assert [one.removed for one in ours] != [one.removed for one in other]
    assert [one.removed for one in matched(whole, found, [[1], [2, 3], []])] == [(1,), (2, 3)]


def test_upweighted_copies_are_spread_evenly():
    whole = examples()
    made = upweighted(whole, 8)
    assert len(made) == 8 and sorted(made.count(one) for one in whole) == [2, 3, 3]
    with pytest.raises(InputError, match="no misled examples"):
        upweighted([], 3)


def test_arms_are_compared_on_equal_terms_and_measured_once(tmp_path):
    student, teacher = pair()
    whole = examples()
    calls = []

    def measure(model):
        calls.append(model)
        return {"norm": float(next(model.parameters()).norm()), "one": 1.0}

    arms = {"KD": Arm(), "other": Arm(whole[:1], 0.5)}
    found = compare(student, teacher, whole, arms, measure, seeds=(0, 1), resume=tmp_path / "found.nc", **QUICK)
    assert found["value"].dims == ("arm", "seed", "measure") and found["lessons"].values.tolist() == [0, 1]
    assert float(found["before"].sel(measure="one")) == 1 and len(calls) == 5
    again = compare(student, teacher, whole, arms, measure, seeds=(0, 1), resume=tmp_path / "found.nc", **QUICK)
    assert again["value"].equals(found["value"]) and len(calls) == 5
    with pytest.raises(InputError, match="at least one arm"):
        compare(student, teacher, whole, {}, measure, **QUICK)


def test_differences_within_seeds_have_t_intervals():
    rng = np.random.default_rng(0)
    values = xr.DataArray(rng.random((3, 6)), dims=("arm", "seed"), coords={"arm": ["KD", "a", "b"]})
    found = paired(values, "KD")
    apart = values.sel(arm="a").values - values.sel(arm="KD").values
    test = stats.ttest_1samp(apart, 0)
    interval = test.confidence_interval()
    one = found.sel(arm="a")
    assert float(one["difference"]) == pytest.approx(apart.mean()) and float(one["p"]) == pytest.approx(test.pvalue)
    assert (float(one["low"]), float(one["high"])) == pytest.approx((interval.low, interval.high))
    assert float(one["better"]) == (apart > 0).mean() and float(found["difference"].sel(arm="KD")) == 0
    with pytest.raises(InputError, match="There is no arm 'kd'"):
        paired(values, "kd")
