"""Accuracy curves of small models on tasks whose answers are counted by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import workbench as wb
from tests.tiny import bridge, sequences, tiny
from workbench.errors import InputError
from workbench.evaluation import Question, score_choices
from workbench.inactive_heads import (
    ablation_curve,
    choices,
    head_scores,
    inactive_head_thresholds,
    recording,
    zero_heads,
)

TEXTS = sequences((7, 7, 6, 5, 7, 6, 6, 5))


def next_token(model):
    """Whether the model goes on as it does untouched; one pass per length."""
    found = []
    for ids in TEXTS:
        with torch.no_grad():
            logits = model.original_model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        found.append(int(logits.argmax()) == WANTED[tuple(ids)])
    return np.array(found)


WANTED = {}


@pytest.fixture(scope="module", autouse=True)
def wanted():
    model = bridge("llama")
    for ids in TEXTS:
        with torch.no_grad():
            WANTED[tuple(ids)] = int(model.original_model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())


def test_the_curve_is_the_task_under_zero_heads():
    model = bridge("llama")
    found = ablation_curve(model, next_token, ["AHON_LN", "AWFT"], [0.1, 0.3], progress=False)
    assert found["score"].values.tolist() == ["AHON_LN", "AWFT", "Random", "Random_by_layer"]
    assert found["threshold"].values.tolist() == [0, 0.1, 0.3]
    assert float(found["baseline"]) == 1 and bool(found["correct"].sel(threshold=0).all())
    fitted = inactive_head_thresholds(head_scores(model, TEXTS, ["AHON_LN", "AWFT"]), [0, 0.1, 0.3])
    np.testing.assert_allclose(found["tau"].sel(score=["AHON_LN", "AWFT"]), fitted["tau"], atol=1e-6)
    assert found["tau"].sel(score="Random").isnull().all()
    for name in ("AHON_LN", "AWFT"):
        tau = float(found["tau"].sel(score=name, threshold=0.3))
        with zero_heads(model, score=name, tau=tau) as zeroed:
            answers = next_token(model)
        at = {"score": name, "threshold": 0.3}
        np.testing.assert_array_equal(found["correct"].sel(at), answers)
        assert float(found["share"].sel(at)) == pytest.approx(zeroed.share)
        assert float(found["accuracy"].sel(at)) == answers.mean()
        assert float(found["drop"].sel(at)) == pytest.approx(1 - answers.mean())
    assert (found["drop_low"] <= found["drop"]).all() and (found["drop"] <= found["drop_high"]).all()
    assert {"free_share", "auc", "auc_common", "rank", "auc_low", "rank_high"} <= set(found)


def test_the_matched_baseline_takes_each_layer_s_share():
    found = ablation_curve(bridge("llama"), next_token, ["AWFT", "AHON_LN"], [0.3], progress=False)
    assert found.attrs["matched"] == "AHON_LN"
    wanted = found["layer_share"].sel(score="AHON_LN", threshold=0.3)
    drawn = found["layer_share"].sel(score="Random_by_layer", threshold=0.3)
    np.testing.assert_allclose(drawn, wanted, atol=0.3)
    np.testing.assert_array_equal(drawn.values[wanted.values == 0], 0)


def test_controls_are_the_mean_of_their_draws():
    model = bridge("llama")
    found = ablation_curve(model, next_token, ["AHON_LN"], [0.4], draws=3, seed=5, progress=False)
    at = {"score": "Random", "threshold": 0.4}
    single, shares = [], []
    for seed in (5, 7, 9):
        with zero_heads(model, random=0.4, seed=seed) as zeroed:
            single.append(next_token(model))
        shares.append(zeroed.share)
    np.testing.assert_allclose(found["correct"].sel(at), np.mean(single, axis=0))
    assert float(found["share"].sel(at)) == pytest.approx(np.mean(shares))
    assert set(np.unique(found["correct"].sel(score="AHON_LN"))) <= {0, 1}


def test_no_curve_is_drawn_from_chance():
    model, runs = wb.load(tiny("llama", torch.float32)), []
    task = choices(questions(12))

    def counted(model):
        runs.append(1)
        return task(model)

    with pytest.raises(InputError, match=r"No curve from here: .*% of 12 questions are answered correctly \(95% .*not"):
        ablation_curve(model, counted, ["AHON_LN"], [0.2], progress=False)
    assert runs == [1], "no head was zeroed"


def test_recording_changes_nothing_and_gives_the_scores():
    model = bridge("llama")
    with recording(model) as recorded:
        answers = next_token(model)
    assert answers.all()
    wanted = head_scores(model, TEXTS)
    np.testing.assert_allclose(recorded.scores, wanted, atol=1e-6)
    with pytest.raises(InputError, match="The task never ran the model"), recording(model) as nothing:
        _ = nothing.scores


def test_thresholds_can_be_fitted_elsewhere():
    model = bridge("llama")
    texts = sequences((8, 8), seed=5)
    by_texts = ablation_curve(model, next_token, "AHON_LN", [0.2], fit=texts, progress=False)
    wanted = inactive_head_thresholds(head_scores(model, texts, "AHON_LN"), [0.0, 0.2])
    np.testing.assert_allclose(by_texts["tau"].sel(score=["AHON_LN"]), wanted["tau"], atol=1e-6)
    by_task = ablation_curve(model, next_token, "AHON_LN", [0.2], fit=next_token, progress=False)
    same = ablation_curve(model, next_token, "AHON_LN", [0.2], progress=False)
    xr.testing.assert_equal(by_task["tau"], same["tau"])


def questions(n=6):
    drawn = sequences((5,) * n, seed=3)
    return [Question(tuple(ids), ((7,), (9, 11), (13,)), i % 3, str(i)) for i, ids in enumerate(drawn)]


def known(model, n=6):
    """Questions whose right answer is the model's own."""
    chosen = score_choices(model, questions(n), progress=False)["chosen"].values.tolist()
    return [replace(question, answer=k) for question, k in zip(questions(n), chosen, strict=True)]


def test_questions_are_a_task():
    model = wb.load(tiny("llama", torch.float32))
    asked = known(model)
    found = ablation_curve(model, asked, ["AHON_LN"], [0.2], progress=False)
    assert found.sizes["example"] == 6 and float(found["baseline"]) == 1
    assert float(found["chance"]) == pytest.approx(1 / 3)
    tau = float(found["tau"].sel(score="AHON_LN", threshold=0.2))
    with zero_heads(model, score="AHON_LN", tau=tau):
        answers = choices(asked)(model)
    np.testing.assert_array_equal(found["correct"].sel(score="AHON_LN", threshold=0.2), answers)


def test_a_killed_run_goes_on(tmp_path):
    model, calls = bridge("llama"), []

    def failing(model):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return next_token(model)

    failing.__name__ = "task"
    path = tmp_path / "curve.nc"
    with pytest.raises(KeyboardInterrupt):
        ablation_curve(model, failing, ["AHON_LN"], [0.1, 0.3], resume=path, progress=False)
    resumed = ablation_curve(model, failing, ["AHON_LN"], [0.1, 0.3], resume=path, progress=False)
    assert len(calls) == 8  # 7 runs and the one that was killed
    again = ablation_curve(model, failing, ["AHON_LN"], [0.1, 0.3], resume=path, progress=False)
    assert len(calls) == 8
    xr.testing.assert_equal(resumed, again)
    fresh = ablation_curve(model, next_token, ["AHON_LN"], [0.1, 0.3], progress=False)
    xr.testing.assert_allclose(resumed, fresh)
    with pytest.raises(InputError, match="belongs to a run with another configuration"):
        ablation_curve(model, failing, ["AHON_LN"], [0.1, 0.2], resume=path, progress=False)


@pytest.mark.parametrize(
    ("task", "options", "text"),
    [
        ("mmlu", {}, "There is no task 'mmlu'. Give questions"),
        ([], {}, r"There is no task '\[\]'"),
        (next_token, {"draws": 0}, "draws=0 must be 1 or more"),
        (lambda model: [0.5, 0.2], {}, "A task gives one True or False per example"),
        (lambda model: [], {}, "A task gives one True or False per example"),
        (lambda model: [True, False], {}, "The task never ran the model"),
        (next_token, {"quantiles": [0.5, 2.0]}, r"quantiles=\[0.5, 2.0\] must be shares from 0 to 1"),
        (next_token, {"scores": ["none"]}, "There is no score 'none'"),
    ],
)
def test_bad_input_is_named(task, options, text):
    with pytest.raises(InputError, match=text):
        ablation_curve(bridge("llama"), task, **{"scores": ["AHON_LN"], "progress": False} | options)
