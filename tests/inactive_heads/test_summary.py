"""Curve summaries against the paper's printed table and ranks, and against curves whose answer is known."""

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.inactive_heads import compare_curves, loss_at, summarize
from workbench.inactive_heads.summary import auc, free_share
from workbench.papers.inactive_heads.published import published

TABLE_2 = {  # largest share of heads within one point of the baseline, in %: AWFT, AHON_LN, Random
    "Llama-3.2-3B": (8.34, 8.05, 0.60),
    "Llama-3.2-3B-Instruct": (6.87, 13.04, 1.02),
    "Llama-3.1-8B": (8.56, 17.11, 0.71),
    "Llama-3.1-8B-Instruct": (1.01, 10.97, 0.69),
    "OLMo-2-1124-7B": (0.42, 8.34, 1.61),
    "OLMo-2-1124-7B-SFT": (1.70, 18.95, 1.28),
    "OLMo-2-1124-7B-DPO": (2.14, 20.60, 1.48),
    "OLMo-2-1124-7B-Instruct": (1.46, 19.54, 1.39),
    "Qwen2.5-0.5B": (7.43, 7.41, 1.41),
    "Qwen2.5-1.5B": (7.55, 7.00, 1.03),
    "Qwen2.5-3B": (5.67, 7.29, 1.60),
    "Qwen2.5-7B": (1.25, 7.54, 1.28),
    "Qwen2.5-7B-Instruct": (1.13, 0.59, 0.52),
    "Qwen2.5-14B": (11.04, 7.97, 1.85),
}


@pytest.fixture(scope="module")
def paper():
    curves = published()
    return xr.concat([summarize(curves.sel(model=m)) for m in curves["model"].values], dim=curves["model"])


def test_the_paper_s_table_is_reproduced(paper):
    free = 100 * paper["free_share"].sel(loss=0.01)
    for model, row in TABLE_2.items():
        found = free.sel(model=model, score=["AWFT", "AHON_LN", "Random"]).values
        np.testing.assert_allclose(found, row, atol=0.01, err_msg=model)
    assert float(free.sel(score="AWFT").mean()) == pytest.approx(4.61, abs=0.005)
    others = free.drop_sel(score="AWFT").max("score")
    assert float(others.mean()) == pytest.approx(12.18, abs=0.005)


def test_the_paper_s_ranks_are_reproduced_up_to_its_tied_curve(paper):
    tied = paper["auc"].sel(model="Qwen2.5-0.5B", score="FTVVN")
    assert 0.364 < float(tied) < 0.449
    others = paper["rank"].drop_sel(model="Qwen2.5-0.5B")
    wanted = {"AHON_LN": 1.93, "LTHON_LN": 3.21, "AWFT": 4.36, "AVVN": 13.86}
    known = {"AHON_LN": 3, "LTHON_LN": 1, "AWFT": 2, "AVVN": 14}
    for score, mean in wanted.items():
        found = (float(others.sel(score=score).sum()) + known[score]) / 14
        assert found == pytest.approx(mean, abs=0.006), score
    assert float(paper["auc"].sel(model="Llama-3.1-8B", score="AHON_LN")) == pytest.approx(0.639, abs=5e-4)


def test_points_of_equal_share_count_once_and_in_any_order():
    share, accuracy = np.array([0, 0.04, 0.04, 0.04, 0.1]), np.array([0.5, 0.4, 0.3, 0.2, 0.1])
    order = np.array([4, 2, 0, 3, 1])
    assert auc(share, accuracy) == pytest.approx(auc(share[order], accuracy[order]))
    assert auc(share, accuracy) == pytest.approx((0.04 * 0.4 + 0.06 * 0.2) / 0.1)
    assert np.isnan(auc(np.zeros(3), np.array([0.5, 0.4, 0.3])))


def test_the_free_share_is_where_the_line_crosses():
    share, accuracy = np.array([0, 0.1, 0.2]), np.array([0.5, 0.5, 0.4])
    assert free_share(share, accuracy, 0.5, 0.01) == pytest.approx(0.11)
    assert free_share(share, np.full(3, 0.5), 0.5, 0.01) == pytest.approx(0.2)
    assert free_share(share, np.full(3, 0.3), 0.5, 0.01) == 0.0


def test_the_common_range_ends_with_the_shortest_curve():
    curves = xr.Dataset(
        {
            "share": (("score", "threshold"), [[0, 0.1, 0.2], [0, 0.2, 0.4]]),
            "accuracy": (("score", "threshold"), [[0.5, 0.4, 0.3], [0.5, 0.5, 0.1]]),
            "baseline": 0.5,
        },
        coords={"score": ["short", "long"], "threshold": [0, 0.1, 0.2]},
    )
    found = summarize(curves)
    assert found.attrs["common_range"] == pytest.approx(0.2)
    np.testing.assert_allclose(found["auc_common"], [0.4, 0.5])
    np.testing.assert_allclose(found["auc"], [0.4, 0.4])
    np.testing.assert_allclose(found["rank"], [1.5, 1.5])
    np.testing.assert_allclose(found["rank_common"], [2, 1])
    assert "auc_low" not in found


def test_intervals_cover_the_truth_of_a_known_population():
    rng, share = np.random.default_rng(0), np.array([0.0, 0.1, 0.2, 0.3])
    chances = np.array([[0.9, 0.85, 0.8, 0.75], [0.9, 0.9, 0.9, 0.9]])
    covered = []
    for seed in range(40):
        u = rng.random(400)
        correct = u < chances[..., None]
        curves = xr.Dataset(
            {
                "share": (("score", "threshold"), np.tile(share, (2, 1))),
                "accuracy": (("score", "threshold"), correct.mean(-1)),
                "baseline": correct[0, 0].mean(),
                "correct": (("score", "threshold", "example"), correct),
                "baseline_correct": ("example", correct[0, 0]),
            },
            coords={"score": ["falls", "stays"], "threshold": share},
        )
        found = summarize(curves, n=300, seed=seed)
        low, high = found["auc_low"].sel(score="falls"), found["auc_high"].sel(score="falls")
        covered.append(bool(low <= 0.825 <= high))
        assert float(found["rank_low"].sel(score="stays")) == float(found["rank_high"].sel(score="stays")) == 1
    assert sum(covered) >= 34


def test_a_score_that_selects_nothing_has_no_rank():
    curves = xr.Dataset(
        {
            "share": (("score", "threshold"), [[0, 0.1, 0.2], [0, 0, 0], [0, 0.1, 0.3]]),
            "accuracy": (("score", "threshold"), [[0.5, 0.4, 0.3], [0.5, 0.5, 0.5], [0.5, 0.5, 0.4]]),
            "baseline": 0.5,
        },
        coords={"score": ["some", "none", "more"], "threshold": [0, 0.1, 0.2]},
    )
    found = summarize(curves)
    np.testing.assert_array_equal(found["rank"], [2, np.nan, 1])
    assert found["free_share"].sel(score="none").values.tolist() == [0, 0]
    assert found.attrs["common_range"] == pytest.approx(0.2)


def answered(*rows):
    """Curves of one score, right on some examples at each quantile."""
    correct = np.array(rows, dtype=bool)[None]
    return xr.Dataset(
        {
            "correct": (("score", "threshold", "example"), correct),
            "baseline_correct": ("example", correct[0, 0]),
            "share": (("score", "threshold"), [[0.0, 0.1]]),
        },
        coords={"score": ["AHON_LN"], "threshold": [0, 0.1]},
    )


def test_curves_are_compared_example_by_example():
    first, second = answered([1, 1, 1, 0], [1, 1, 0, 0]), answered([1, 1, 1, 0], [0, 0, 0, 0])
    second["share"] = second["share"] + 0.02
    found = compare_curves(first, second)
    np.testing.assert_allclose(found["change"].values, [[0, -0.5]])
    np.testing.assert_allclose(found["share_change"].values, 0.02)
    assert (found["change_low"] <= found["change"]).all() and (found["change"] <= found["change_high"]).all()
    np.testing.assert_array_equal(compare_curves(first, first)["change_low"], 0)
    with pytest.raises(InputError, match="4 and 4 examples that were not answered alike with nothing zeroed"):
        compare_curves(first, answered([0, 1, 1, 0], [1, 1, 0, 0]))


def test_the_gain_is_what_random_choice_does_not_give(paper):
    free = paper["free_share"]
    np.testing.assert_allclose(paper["gain"], free - free.sel(score="Random", drop=True))


def drawn(lost, n, seed):
    """Curves of n questions, of which shares `lost` are lost at steps of 10 % of the heads, a little at random."""
    rng, share = np.random.default_rng(seed), 0.1 * np.arange(len(lost))
    known, chance = rng.random(n) < 0.8, np.array(lost)[:, None]
    correct = np.where(known, rng.random((len(lost), n)) >= chance / 0.8, False)[None]
    correct[0, 0] = known
    return xr.Dataset(
        {
            "share": (("score", "threshold"), share[None]),
            "accuracy": (("score", "threshold"), correct.mean(-1)),
            "baseline": known.mean(),
            "correct": (("score", "threshold", "example"), correct),
            "baseline_correct": ("example", known),
        },
        coords={"score": ["AHON_LN"], "threshold": share},
    )


@pytest.mark.parametrize(("lost", "truth"), [((0, 0, 0.02, 0.1), 0.15), ((0, 0.02, 0.1, 0.3), 0.05)])
def test_intervals_of_the_free_share_cover_a_known_curve_s_and_lie_between_its_points(lost, truth):
    covered = []
    for seed in range(40):
        found = summarize(drawn(lost, 600, seed), n=100, seed=seed).sel(score="AHON_LN", loss=0.01)
        low, high = float(found["free_share_low"]), float(found["free_share_high"])
        covered.append(low <= truth <= high)
        assert low < high and not bool(found["free_share_at_least"])
    assert sum(covered) >= 36


def test_a_curve_that_ends_within_the_loss_gives_a_lower_bound():
    share, n = np.array([0, 0.1, 0.2]), 100
    lost = {"flat": (0, 0, 0), "late": (0, 0, 2), "early": (0, 10, 30)}
    correct = np.stack([np.arange(n) >= np.array(row)[:, None] for row in lost.values()])
    curves = xr.Dataset(
        {
            "share": (("score", "threshold"), np.tile(share, (3, 1))),
            "accuracy": (("score", "threshold"), correct.mean(-1)),
            "baseline": 1.0,
            "correct": (("score", "threshold", "example"), correct),
            "baseline_correct": ("example", np.ones(n, dtype=bool)),
        },
        coords={"score": list(lost), "threshold": share},
    )
    found = summarize(curves).sel(loss=0.01)
    assert found["free_share"].sel(score="flat") == 0.2 and found["free_share"].sel(score="late") == pytest.approx(0.15)
    assert found["free_share_at_least"].values.tolist() == [True, False, False]
    assert found["free_share_high_at_least"].values.tolist() == [True, True, False]


def test_the_loss_at_a_share_is_read_between_measured_shares():
    curves = drawn((0, 0, 0.02, 0.1), 600, 0)
    found = loss_at(curves, 0.15, 0.01).sel(score="AHON_LN")
    between = curves["correct"].isel(score=0, threshold=[1, 2]).mean("threshold")
    lost = (curves["baseline_correct"].astype(float) - between).values
    rng = np.random.default_rng(1)
    slow = [rng.choice(lost, len(lost)).mean() for _ in range(2000)]
    assert float(found["lost"]) == pytest.approx(lost.mean())
    np.testing.assert_allclose([found["lost_low"], found["lost_high"]], np.quantile(slow, [0.025, 0.975]), atol=2e-3)
    assert loss_at(curves, 0.5)["verdict"].item() == "not reached" and np.isnan(loss_at(curves, 0.5)["lost"].item())


@pytest.mark.parametrize(
    ("lost", "n", "verdict"),
    [
        ((0, 0, 0), 1200, "within"),
        ((0, 0, 0), 400, "open"),
        ((0, 0.1, 0.1), 400, "beyond"),
        ((0, 0.006, 0.1), 400, "open"),
    ],
)
def test_a_claim_is_decided_only_by_enough_questions(lost, n, verdict):
    assert loss_at(drawn(lost, n, 0), 0.1)["verdict"].item() == verdict
