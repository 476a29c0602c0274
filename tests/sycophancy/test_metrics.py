"""The measures are the counts they claim to be, and McNemar's test is the binomial one of the answers that differ."""

import math

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.sycophancy import compare, measure


def said(first, final, admits, names=("x",), final_answers=None):
    """A protocol's answers from 0 and 1; final and admits are (example, challenge)."""
    first, final, admits = (np.array(v, dtype=bool) for v in (first, final, admits))
    final, admits = final.reshape(len(first), -1), admits.reshape(len(first), -1)
    texts = np.full(final.shape, "a", dtype=object)
    both = ("example", "challenge")
    return xr.Dataset(
        {
            "first_right": ("example", first),
            "first_answer": ("example", np.array(["a"] * len(first), dtype=object)),
            "question": ("example", np.array([f"q{i}" for i in range(len(first))], dtype=object)),
            "final_right": (both, final),
            "final_answer": (both, texts if final_answers is None else np.array(final_answers, dtype=object)),
            "admits": (both, admits),
            "doubt": (both, texts),
        },
        coords={
            "id": ("example", np.array([str(i) for i in range(len(first))], dtype=object)),
            "challenge": np.array(names, dtype=object),
        },
    )


def wilson(hits, n, z=1.959963984540054):
    centre, half = hits / n + z * z / (2 * n), z * math.sqrt(hits / n * (1 - hits / n) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def test_each_measure_counts_what_its_formula_says():
    first = [1, 1, 1, 1, 1, 0, 0, 0]
    final = [1, 1, 1, 0, 0, 1, 0, 0]
    admits = [0, 1, 0, 1, 1, 1, 1, 0]
    answers = [["a"]] * 4 + [[""]] + [["a"]] * 3
    found = measure(said(first, final, admits, final_answers=answers))
    expected = {
        "truthfulness": (3, 4),
        "confidence": (2, 5),
        "accuracy before": (5, 8),
        "accuracy after": (4, 8),
        "recovery": (1, 3),
        "concession": (2, 3),
        "no match before": (0, 8),
        "no match after": (1, 8),
        "kept": (3, 5),
        "changed": (1, 5),
        "unread": (1, 5),
        "mended": (1, 3),
        "still wrong": (2, 3),
        "unread after wrong": (0, 3),
    }
    assert list(found["metric"].values) == list(expected)
    for name, (hits, n) in expected.items():
        row = found.sel(metric=name, challenge="x")
        assert float(row["value"]) == hits / n and int(row["n"]) == n
        assert np.allclose((row["low"], row["high"]), wilson(hits, n), atol=1e-12)
        assert float(row["pooled"]) == hits / n and np.allclose(
            (row["pooled_low"], row["pooled_high"]), wilson(hits, n)
        )
        assert found.attrs[name.replace(" ", "_")] == hits / n


def test_what_happens_to_a_first_answer_sums_to_one():
    rng = np.random.default_rng(3)
    first, final = rng.random(50) < 0.6, rng.random((50, 2)) < 0.4
    answers = np.where(final | (rng.random((50, 2)) < 0.5), "a", "").astype(object)
    found = measure(said(first, final, ~final, names=list("ab"), final_answers=answers))
    for names in (["kept", "changed", "unread"], ["mended", "still wrong", "unread after wrong"]):
        part = found.sel(metric=names)
        np.testing.assert_allclose(part["value"].sum("metric"), 1)
        np.testing.assert_allclose(part["pooled"].sum("metric"), 1)
        assert (part["pooled_low"] < part["pooled"]).all() and (part["pooled"] < part["pooled_high"]).all()


def test_an_unread_final_answer_is_no_flip():
    loops = measure(said(np.ones(9), [1, 0] + [0] * 7, np.zeros(9), final_answers=[["a"], ["a"]] + [[""]] * 7))
    assert loops.attrs["kept"] == 1 / 9 and loops.attrs["unread"] == 7 / 9
    assert loops.attrs["truthfulness"] == 0.5 and int(loops["n"].sel(metric="truthfulness")[0]) == 2


def test_pooled_intervals_resample_questions_not_answers():
    rng = np.random.default_rng(1)
    once = rng.random(60) < 0.6
    one = measure(said(np.ones(60), once, ~once))
    copies = measure(said(np.ones(60), np.stack([once] * 4, 1), np.stack([~once] * 4, 1), names=list("abcd")))
    width = [
        float(ds["pooled_high"].sel(metric="truthfulness") - ds["pooled_low"].sel(metric="truthfulness"))
        for ds in (one, copies)
    ]
    assert abs(width[0] - width[1]) < 0.03
    assert float(copies["pooled"].sel(metric="truthfulness")) == once.mean()
    assert copies.attrs["truthfulness"] == once.mean()


def test_a_share_of_one_keeps_a_width():
    found = measure(said(np.ones(20), np.ones((20, 2)), np.zeros((20, 2)), names=["a", "b"]))
    row = found.sel(metric="truthfulness")
    assert float(row["pooled"]) == 1 and np.allclose(row["pooled_low"], wilson(20, 20)[0])


def test_nothing_to_look_at_gives_nan():
    found = measure(said([1, 1], [1, 0], [0, 0]))
    for name in ("recovery", "concession"):
        row = found.sel(metric=name)
        assert np.isnan(row["pooled"]) and np.isnan(row["value"]).all() and int(row["n"].sum()) == 0


def test_a_selection_of_examples_can_be_measured_again():
    whole = measure(said([1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 0]))
    part = measure(whole.isel(example=[0, 1]))
    assert part.attrs["truthfulness"] == 0.5 and int(part["n"].sel(metric="accuracy after")[0]) == 2


def test_mcnemar_is_the_exact_binomial_test_of_differing_pairs():
    rng = np.random.default_rng(0)
    first, second = rng.random(40) < 0.4, rng.random(40) < 0.8
    right = np.ones(40), rng.random(40) < 0.9
    found = compare(measure(said(right[0], first, first)), measure(said(right[1], second, first)))
    row = found.sel(metric="truthfulness", challenge="x")
    both = right[1].astype(bool)
    b, c = int((first & ~second & both).sum()), int((second & ~first & both).sum())
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert (int(row["n"]), int(row["only_first"]), int(row["only_second"])) == (both.sum(), b, c)
    assert float(row["p_value"]) == pytest.approx(min(1, 2 * tail))
    assert float(row["difference"]) == pytest.approx((c - b) / both.sum())
    assert float(row["low"]) < float(row["difference"]) < float(row["high"])
    after = found.sel(metric="accuracy after", challenge="x")
    assert int(after["n"]) == 40 and int(found.sel(metric="recovery")["n"].sum()) == 0


def test_models_that_never_differ_have_p_one():
    one = measure(said([1, 1, 1], [1, 0, 1], [0, 1, 0]))
    found = compare(one, one)
    assert float(found["p_value"].sel(metric="confidence")[0]) == 1
    assert float(found["difference"].sel(metric="confidence")[0]) == 0
    assert np.isnan(found["p_value"].sel(metric="recovery")).all()


def test_unlike_results_are_not_compared():
    one, other = measure(said([1, 1], [1, 0], [0, 1])), measure(said([1, 1, 1], [1, 0, 1], [0, 1, 1]))
    with pytest.raises(InputError, match="differ in 'id'"):
        compare(one, other)
    moved = one.assign(doubt=one["doubt"] + "!")
    with pytest.raises(InputError, match="differ in 'doubt'"):
        compare(one, moved)


def test_what_is_no_result_is_refused():
    with pytest.raises(InputError, match="it lacks first_right, final_right"):
        measure(xr.Dataset())
    with pytest.raises(InputError, match="No examples are left"):
        measure(said([1], [1], [0]).isel(example=[]))
