"""Scores and contributions against the formulas computed one example at a time, and the faults of the "
"ratio."""

import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import InputError, WorkbenchWarning
from workbench.patching.scores import METRICS, contribution, estimated, resampled, scores, unstable

COORDS = {"layer": [0, 1], "head": [0, 1, 2]}


def logits(n_examples=5, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.uniform(4, 6, size=(2, n_examples))
    source = base - rng.uniform(0, 1, size=base.shape)
    patched = base[:, None, None] - rng.uniform(0, 1, size=(2, 2, 3, n_examples))
    return base, source, patched


def assemble(base, source, patched, **options):
    return contribution(base, source, patched, dims=("layer", "head"), coords=COORDS, **options)


logit = st.floats(-30, 30)


@given(logit, logit)
def test_scores_of_one_pair(l_a, l_b):
    ratio, diff, prob = scores(np.array(l_a), np.array(l_b))
    assert diff == l_a - l_b
    p_a, p_b = np.exp(l_a), np.exp(l_b)
    assert prob == pytest.approx(p_a / (p_a + p_b), rel=1e-12)
    if l_a + l_b:
        assert ratio == l_a / (l_a + l_b)
    else:
        assert not np.isfinite(ratio)


def test_prob_does_not_overflow():
    assert scores(np.array([1000.0, -1000.0]), np.zeros(2), ("prob",)).tolist() == [[1.0, 0.0]]


@given(logit, logit, st.floats(-5, 5))
def test_a_shift_of_both_logits_moves_only_the_ratio(l_a, l_b, shift):
    here, there = scores(np.array(l_a), np.array(l_b)), scores(np.array(l_a + shift), np.array(l_b + shift))
    np.testing.assert_allclose(here[1:], there[1:], atol=1e-10)


def test_the_order_of_metrics_is_the_callers():
    assert scores(np.array([3.0]), np.array([1.0]), ("logit_diff", "logit_ratio")).tolist() == [[2.0], [0.75]]


@pytest.mark.parametrize("names", [("logit_dif",), ("prob", "logit_dif")])
def test_an_unknown_metric_gets_the_nearest_one(names):
    with pytest.raises(InputError, match=r"metric 'logit_dif' is unknown; did you mean 'logit_diff'\?"):
        scores(np.zeros(1), np.zeros(1), names)


@pytest.mark.parametrize("names", ["prob", ()])
def test_metrics_are_a_list(names):
    with pytest.raises(InputError, match="must be a list of names"):
        scores(np.zeros(1), np.zeros(1), names)


def by_hand(base, patched, layer, head):
    """Each example's effect on the three scores, one at a time."""
    rows = []
    for i in range(base.shape[1]):
        (a, b), (c, d) = base[:, i], patched[:, layer, head, i]
        s, t = a / (a + b), c / (c + d)
        p, q = 1 / (1 + np.exp(b - a)), 1 / (1 + np.exp(d - c))
        rows.append([(t - s) / s, (c - d) - (a - b), (q - p) / p])
    return np.array(rows)


@pytest.mark.parametrize("flat", [False, True])
def test_contributions_match_the_formulas(flat):
    base, source, patched = logits()
    found = assemble(base, source, patched.reshape(2, 6, -1) if flat else patched)
    result = estimated(found.assign_attrs(model="m"), "mean_of_ratios")
    assert result["patched"].dims == ("metric", "layer", "head", "example")
    assert result["metric"].values.tolist() == list(METRICS)
    assert result.attrs["model"] == "m" and result.attrs["estimator"] == "mean_of_ratios"
    np.testing.assert_array_equal(result["source"], scores(*source))
    for layer in range(2):
        for head in range(3):
            rows, cell = by_hand(base, patched, layer, head), {"layer": layer, "head": head}
            np.testing.assert_allclose(resampled(result, np.eye(5)).transpose(1, 2, 3, 0)[layer, head], rows, rtol=1e-9)
            np.testing.assert_allclose(result["contribution"].sel(cell), rows.mean(axis=0), rtol=1e-10)
            error = np.sqrt(((rows - rows.mean(0)) ** 2).sum(0) / 4 / 5)
            np.testing.assert_allclose(result["stderr"].sel(cell), error, rtol=1e-10)


def test_the_ratio_of_means_is_the_default_with_the_error_of_the_delta_method():
    base, source, patched = logits()
    result = assemble(base, source, patched)
    assert result.attrs["estimator"] == "ratio_of_means"
    for metric in ("logit_ratio", "prob"):
        b, p = result["base"].sel(metric=metric).values, result["patched"].sel(metric=metric).values[1, 2]
        ratio = p.mean() / b.mean() - 1
        error = np.std(p - b * (1 + ratio), ddof=1) / np.sqrt(5) / b.mean()
        assert float(result["contribution"].sel(metric=metric)[1, 2]) == pytest.approx(ratio, rel=1e-12)
        assert float(result["stderr"].sel(metric=metric)[1, 2]) == pytest.approx(error, rel=1e-12)
    same = estimated(estimated(result, "mean_of_ratios"), "ratio_of_means")
    xr.testing.assert_allclose(same, result, rtol=1e-12)
    np.testing.assert_allclose(
        result["contribution"].sel(metric="logit_diff"),
        estimated(result, "mean_of_ratios")["contribution"].sel(metric="logit_diff"),
    )


def test_an_unknown_estimator_is_refused():
    with pytest.raises(InputError, match=r"estimator='ratio_of_mean' is unknown; did you mean 'ratio_of_means'"):
        estimated(assemble(*logits()), "ratio_of_mean")


def near_zero_bases(rng, n):
    """Log-odds of a behaviour that nearly every prompt shows; one in a hundred does not until it is patched."""
    base = np.where(rng.random(n) < 0.01, -9.0, rng.normal(2.0, 1.0, size=n))
    return base, rng.normal(1.0, 1.0, size=n)


@pytest.mark.filterwarnings("ignore::workbench.errors.WorkbenchWarning")
def test_intervals_of_the_ratio_of_means_cover_and_those_of_the_mean_of_ratios_do_not():
    """The truth is that of a large population; 500 studies of 64 examples each."""
    rng = np.random.default_rng(0)

    def expit(x):
        return 1 / (1 + np.exp(-x))

    def study(n):
        base, patched = near_zero_bases(rng, n)
        zeros = np.zeros(n)
        return contribution(
            np.stack([base, zeros]),
            np.stack([base, zeros]),
            np.stack([patched, zeros])[:, None],
            dims=("unit",),
            coords={"unit": [0]},
            metrics=("prob",),
        )

    base, patched = near_zero_bases(rng, 1_000_000)
    truth = {
        "ratio_of_means": expit(patched).mean() / expit(base).mean() - 1,
        "mean_of_ratios": (expit(patched) / expit(base) - 1).mean(),
    }
    inside = dict.fromkeys(truth, 0)
    for _ in range(500):
        result = study(64)
        for estimator, value in truth.items():
            one = estimated(result, estimator)
            inside[estimator] += abs(float(one["contribution"].item()) - value) < 1.96 * float(one["stderr"].item())
    assert 0.92 < inside["ratio_of_means"] / 500 < 0.975
    assert inside["mean_of_ratios"] / 500 < 0.85


def test_nothing_patched_is_nothing_contributed():
    base, source, _ = logits()
    result = assemble(base, source, np.broadcast_to(base[:, None, None], (2, 2, 3, 5)))
    assert not result["contribution"].values.any()
    assert not result["stderr"].values.any()


def test_a_unit_that_pushes_towards_the_behaviour_is_negative():
    base, source, patched = logits()
    patched[:] = base[:, None, None]
    patched[0, 1, 2] -= 1  # the behaviour's logit falls when this unit is patched
    result = assemble(base, source, patched)
    assert (result["contribution"].sel(layer=1, head=2) < 0).all()
    assert int((result["contribution"] != 0).sum()) == 3


def test_one_example_has_no_standard_error():
    base, source, patched = logits(n_examples=1)
    result = assemble(base, source, patched)
    assert np.isfinite(result["contribution"]).all()
    assert np.isnan(result["stderr"]).all()
    assert result["stderr"].dims == result["contribution"].dims
    assert "example" not in result["stderr"].coords


def test_custom_units_keep_their_labels():
    base, source, patched = logits()
    coords = {"unit": np.arange(6), "label": ("unit", list("abcdef"))}
    result = contribution(base, source, patched.reshape(2, 6, 5), dims=("unit",), coords=coords, metrics=("prob",))
    assert result["contribution"].dims == ("metric", "unit")
    assert result["label"].values.tolist() == list("abcdef")
    assert isinstance(result["contribution"].sel(metric="prob"), xr.DataArray)


def test_logits_that_are_not_numbers_are_refused():
    base, source, patched = logits()
    patched[0, 0, 0, :2] = np.inf
    with pytest.raises(InputError, match=r"0 of 5 examples have NaN or infinite .* 2 of 60 patched logits"):
        assemble(base, source, patched)
    base[1, 3] = np.nan
    with pytest.raises(InputError, match=r"1 of 5 examples .*weights are damaged or the dtype is too small"):
        assemble(base, source, patched)


def test_no_examples_are_refused():
    with pytest.raises(InputError, match="There are no examples"):
        assemble(np.zeros((2, 0)), np.zeros((2, 0)), np.zeros((2, 2, 3, 0)))


def counted(l_a, l_b, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WorkbenchWarning)
        return unstable(np.array([l_a, l_b], dtype=float), **options)


def test_faults_of_the_relative_scores_are_counted():
    counts = counted([5, 5, 0.4, -5, -5, 0], [4, -4.5, 5, -4, 4.5, 0])
    # near cancellation in 1 and 4, a small l_a in 2, both in 5; a negative logit in 1, 3 and 4
    assert counts["ratio_unstable_examples"] == 4
    assert counts["ratio_reversed_examples"] == 3
    assert counts["prob_unstable_examples"] == 2  # differences of -4.6 and -9.5


def test_a_base_prob_below_the_tolerance_is_unstable_and_one_above_it_is_not():
    prob = np.array([0.04, 0.06, 0.09, 0.11, 0.24, 0.26])
    l_a, l_b = np.log(prob), np.log(1 - prob)
    counts = counted(l_a, l_b, metrics=("prob",))
    assert counts == {"prob_unstable_examples": 3, "unstable_tolerance": 0.1}


def test_only_the_metrics_in_use_are_counted():
    assert set(counted([5], [4], metrics=("logit_diff",))) == {"unstable_tolerance"}
    assert "prob_unstable_examples" not in counted([5], [4], metrics=("logit_ratio",))


def test_the_tolerance_bounds_the_magnification():
    """In a stable example, a small change of both logits is magnified at most 1 / tolerance times by each "
    "term."""
    rng = np.random.default_rng(0)
    stable = 0
    for l_a, l_b, d_a, d_b in rng.normal(0, 3, size=(500, 4)):
        if counted([l_a], [l_b])["ratio_unstable_examples"]:
            continue
        stable += 1
        step = 1e-6 * (abs(l_a) + abs(l_b)) / (abs(d_a) + abs(d_b))
        before, after = l_a / (l_a + l_b), (l_a + step * d_a) / (l_a + l_b + step * (d_a + d_b))
        assert abs(after / before - 1) / 1e-6 < 2 * 10 * 1.01
    assert 100 < stable < 500


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_reversed_means_that_the_ratio_falls_where_the_behaviour_rises(l_a, l_b):
    s = l_a + l_b
    if min(abs(l_a), abs(l_b), abs(s)) < 1e-3:
        return
    by_a, by_b = l_b / s**2, -l_a / s**2
    assert counted([l_a], [l_b])["ratio_reversed_examples"] == (not (by_a > 0 and by_b < 0))


def test_an_unstable_result_warns_and_carries_its_counts():
    base, source, patched = logits()
    base[:, 0] = (5, -4.9)
    patched[:] = base[:, None, None]
    with pytest.warns(WorkbenchWarning, match=r"Of 5 examples, .*denominator is near 0 in 1; .*read logit_diff"):
        result = assemble(base, source, patched)
    assert result.attrs["ratio_unstable_examples"] == 1
    assert result.attrs["ratio_reversed_examples"] == 1
    assert result.attrs["prob_unstable_examples"] == 0
    assert result.attrs["unstable_tolerance"] == 0.1


def test_a_denominator_of_exactly_zero_leaves_no_number_in_the_ratio_alone():
    base, source, patched = logits()
    base[:, 0] = (5, -5)
    with pytest.warns(WorkbenchWarning, match="denominator is near 0"):
        result = assemble(base, source, patched)
    assert np.isnan(result["contribution"].sel(metric="logit_ratio")).all()
    assert np.isfinite(result["contribution"].sel(metric=["logit_diff", "prob"])).all()
