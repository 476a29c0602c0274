"""What the record of LeaF on a real model says, against the numbers in it."""

import re
from statistics import NormalDist

import numpy as np
import pytest

from workbench.papers.leaf.real_model import (
    LABELS,
    TITLES,
    findings,
    first_spans,
    read_cases,
    reading,
    record,
    rescues,
    together,
)


@pytest.fixture(scope="module")
def found():
    return record()


def by_hand(differences, level):
    """Agresti and Min's interval, one number at a time."""
    n, total = len(differences) + 2, sum(differences)
    reach = NormalDist().inv_cdf((1 + level) / 2) * (sum(d * d for d in differences) + 1 - total**2 / n) ** 0.5
    return (total - reach) / n, (total + reach) / n


@pytest.mark.parametrize(("tried", "comparisons"), [("any", None), ("0.15", 24)])
def test_excess_is_rescued_minus_chance_with_an_interval_for_all_comparisons(found, tried, comparisons):
    for one in rescues(found, tried, comparisons):
        own = found.isel(question=np.flatnonzero(found["pair"].values[found["place"].values] == one.pair))
        gaps = [
            float(r - c / 5)
            for r, c in zip(own["rescued"].sel(tried=tried), own["draws_rescued"].sel(tried=tried), strict=True)
        ]
        assert one.n == len(gaps) and one.excess[0] == pytest.approx(one.found[0] - one.chance[0], abs=1e-12)
        np.testing.assert_allclose(one.excess[1:], by_hand(gaps, 0.95), atol=1e-12)
        np.testing.assert_allclose(one.corrected[1:], by_hand(gaps, 1 - 0.05 / (comparisons or 6)), atol=1e-12)
        assert one.corrected[1] < one.excess[1] < one.excess[0] < one.excess[2] < one.corrected[2]


def test_counts_of_the_record_agree_with_each_other(found):
    rescued, draws = found["rescued"], found["draws_rescued"]
    single = rescued.drop_sel(tried="any")
    np.testing.assert_array_equal(rescued.sel(tried="any"), single.max("tried"))
    assert bool((draws.sel(tried="any") >= draws.max("tried")).all()) and draws.max() <= found.attrs["draws"]
    sizes = np.bincount(found["place"])
    assert (sizes <= found["replies"].sel(model="teacher", count="right")).all()
    assert (found["replies"].sum("count") <= 2 * found["n"]).all()
    for place, name in enumerate(found["pair"].values):
        own = rescued.sel(tried="any").isel(question=np.flatnonzero(found["place"].values == place))
        assert int(own.sum()) <= int(found["n_accepted"].sel(pair=name, tried="any"))
    assert set(found["pair"].values) == set(TITLES)


def test_questions_that_several_pairs_share_are_one_observation(found):
    gaps = (found["rescued"] - found["draws_rescued"] / 5).sel(tried="any").values
    of_question = {}
    for place, index, gap in zip(found["place"].values, found["index"].values, gaps, strict=True):
        form = "gsm8k" if found["form"].values[place] == "gsm8k" else "commonsenseqa"
        of_question.setdefault((form, int(index)), []).append(gap - gaps.mean())
    sums = np.array([sum(own) for own in of_question.values()])
    error = np.sqrt((sums**2).sum()) / len(gaps)
    mean, low, high = together(found)
    assert mean == pytest.approx(gaps.mean()) and len(of_question) < len(gaps)
    np.testing.assert_allclose([mean - low, high - mean], 1.96 * error, rtol=0.005)


def test_the_first_spans_of_two_pairs_are_counted_over_their_questions(found):
    pairs = ["listed, noise", "unlisted, noise"]
    share, chance = first_spans(found, pairs)["occlusion"]
    rows = [i for i, place in enumerate(found["place"].values) if found["pair"].values[place] in pairs]
    assert share[0] == pytest.approx(float(found["first_rescued"].sel(score="occlusion")[rows].mean()))
    each = [float(found["first_chance"].sel(pair=name, score="occlusion")) for name in pairs]
    n = [one.n for one in rescues(found) if one.pair in pairs]
    assert chance == pytest.approx((n[0] * each[0] + n[1] * each[1]) / sum(n))


def test_the_sentence_follows_the_record(found):
    told = " ".join(findings(found))
    assert "Beyond chance by itself: words of an option, noise; corrected for 6 pairs: none." in told
    nothing = found.assign(rescued=found["rescued"] * 0)
    assert "Beyond chance by itself: none; corrected for 6 pairs: none." in " ".join(findings(nothing))
    always = found.assign(rescued=found["rescued"] * 0 + 1, draws_rescued=found["draws_rescued"] * 0)
    assert f"corrected for 6 pairs: {TITLES['letter']}, " in " ".join(findings(always))


def test_cases_that_were_read_are_cases_of_the_record(found):
    cases = read_cases()
    names = found["pair"].values[found["place"].values].tolist()
    known = list(zip(names, found["index"].values.tolist(), strict=True))
    rescued = {one for one, turned in zip(known, found["rescued"].sel(tried="any").values, strict=True) if turned}
    assert {(one.pair, one.index) for one in cases} <= set(known)
    assert {(one.pair, one.index) for one in cases if one.kind == "accepted"} <= rescued
    assert not {(one.pair, one.index) for one in cases if one.kind == "not accepted"} & rescued
    assert {one.label for one in cases} == set(LABELS) and all(len(one.span) < 20 for one in cases)
    assert all((one.outcome == "both right") == (one.kind != "not accepted") for one in cases)
    accepted = [one for one in cases if one.kind == "accepted"]
    numbers = [int(n) for n in re.findall(r"(\d+) (?:point to the wrong answer given|change|take|are)", reading(cases))]
    assert len(accepted) >= 30 and sum(numbers) == len(accepted)
