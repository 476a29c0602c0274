"""The paper's figures on an embedded model, in small."""

import functools
import json

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from tests.papers.inactive_heads.test_sentences import curves
from tests.tiny import tiny
from workbench import organisms
from workbench.errors import InputError
from workbench.inactive_heads import ablation_curve, summarize
from workbench.papers.cache import Source
from workbench.papers.inactive_heads import figures as inactive_heads
from workbench.papers.inactive_heads import measures as inactive_measures
from workbench.papers.inactive_heads.published import published
from workbench.papers.inactive_heads.sentences import rank_correlation
from workbench.papers.recipes import ORGANISMS, FigureRequest
from workbench.runs.results import open_result

RECIPES = {recipe.name.split("/")[1]: recipe for recipe in inactive_heads.RECIPES}


@pytest.fixture(autouse=True)
def few_windows(monkeypatch):
    monkeypatch.setattr(inactive_measures, "WINDOWS", 4)


def drawn(name, folder, models=("organism-gqa",), **options):
    steps = []
    request = FigureRequest(folder, models, step=steps.append, **options)
    made = RECIPES[name].make(request)
    assert made.figure.layout.meta["sentence"] == made.sentence
    return made


@pytest.mark.parametrize("name", ["frequency", "domains", "score-overlap"])
def test_figures_about_texts_are_drawn_and_what_was_measured_is_kept(name, tmp_path):
    made = drawn(name, tmp_path)
    assert made.sentence.startswith("organism-gqa: ")
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nc")}
    assert kept
    assert drawn(name, tmp_path).sentence == made.sentence
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nc")} == kept


def test_curves_are_measured_on_the_organism_s_own_questions(tmp_path, monkeypatch):
    short = functools.partial(ablation_curve, scores=["AHON_LN", "AWFT"], quantiles=(0.2,))
    monkeypatch.setattr(inactive_measures, "ablation_curve", short)
    made = drawn("accuracy-curves", tmp_path, n=8)
    assert "accuracy on 8 questions" in made.sentence and "more than at random" in made.sentence
    assert [t.name for t in made.figure.data][-1] == "random, each layer's share"
    again = drawn("a-tenth-zeroed", tmp_path, n=8)
    assert "Questions: organism-gqa: 8 held-out questions of the kinds in training; the paper's" in again.sentence


def test_the_curves_drawn_are_those_that_the_caption_quotes_and_its_lines_are_explained():
    found = {"a": curves(320, (0, 30), (8, 40), (40, 80)), "b": curves(320, (0, 30), (8, 40), (40, 80))}
    found["b"]["share"] = found["b"]["share"].where(found["b"]["score"] != "AWFT", 0)
    made = inactive_heads.accuracy_curves(found)
    by_panel = {axis: [t.name for t in made.figure.data if (t.xaxis or "x") == axis] for axis in ("x", "x2")}
    assert by_panel == {"x": ["AHON (LN)", "AWFT", "random"], "x2": ["AHON (LN)", "random"]}
    assert "AWFT 5.0% (" in made.sentence and "AWFT selects no head" in made.sentence
    assert "nothing zeroed (solid) and one point less (dashed). Bars: 95% intervals over questions" in made.sentence
    assert made.sentence.endswith("Not drawn in b, since no head is selected: AWFT.")
    alone = inactive_heads.curve_panel(found["a"], alone=True)
    assert alone.sentence.startswith("Chosen by AHON (LN), ") and "one point less (dashed)" in alone.sentence


def test_other_models_take_questions_with_lettered_choices(tmp_path):
    items = [{"question": "Which?", "choices": ["this", "that"], "answer": 1}]
    (tmp_path / "questions.json").write_text(json.dumps(items))
    [question] = inactive_measures.questions_of(Source("organism-gqa"), tmp_path / "questions.json", 1, 0)
    assert question.prompt == "Which?\nA. this\nB. that\nAnswer:" and question.choices == (" A", " B")
    assert question.answer == 1


def test_own_models_stand_below_the_paper_s():
    theirs = published().sel(model="OLMo-2-1124-7B", drop=True)
    made = inactive_heads.auc_ranks({"organism-gqa": theirs})
    heat = made.figure.data[0]
    assert len(heat.y) == 15 and heat.y[-1] == "<b>organism-gqa</b>"
    assert list(heat.z[-1]) == list(heat.z[list(heat.y).index("OLMo-2-1124-7B")])
    assert made.sentence.startswith("Ranks among 14 scores, 1 the best (the largest area).")
    assert "In organism-gqa AHON (LN) ranks first; its order of 14 scores" in made.sentence
    assert "dash on grey" not in made.sentence and "not ranked" not in made.sentence


def test_scores_without_a_rank_or_without_the_paper_s_curves_are_named():
    theirs = published().sel(model="OLMo-2-1124-7B", drop=True)
    theirs["share"] = theirs["share"].where(theirs["score"] != "AVVN_LN", 0)
    extra = theirs.sel(score=["AHON_LN"]).assign_coords(score=["FHON_LN"])
    both = xr.concat([theirs, extra.assign(accuracy=extra["accuracy"] + 0.01)], "score", data_vars="minimal")
    made = inactive_heads.auc_ranks({"mine": both.merge(summarize(both))})
    assert "its order of 13 scores correlates" in made.sentence
    assert "A dash on grey: the score selects no head, so it has no rank." in made.sentence
    assert "the paper has no curves of them: FHON (LN). In mine FHON (LN) has the largest area of all." in made.sentence
    ranks, none = made.figure.data
    missing = np.isnan(np.array(ranks.z, float))
    assert missing.sum() == 1 and missing[-1, list(ranks.x).index("AVVN (LN)")]
    np.testing.assert_array_equal(np.isfinite(np.array(none.z, float)), missing)
    np.testing.assert_array_equal(np.array(none.text) == "–", missing)


def test_correlations_of_ranks_have_intervals_over_scores():
    rng = np.random.default_rng(1)
    first, second = np.arange(14.0), np.arange(14.0) + rng.normal(0, 5, 14)
    value, low, high = rank_correlation(first, second)
    assert value == pytest.approx(stats.spearmanr(first, second).statistic)
    draws = rng.integers(14, size=(400, 14))
    slow = np.percentile([stats.spearmanr(first[i], second[i]).statistic for i in draws], [2.5, 97.5])
    np.testing.assert_allclose([low, high], slow, atol=0.1)
    assert rank_correlation(first, first)[:2] == (1, 1)


def test_what_a_tenth_costs_stands_above_the_paper_s_models():
    made = inactive_heads.tenth_zeroed({"organism-gqa": curves(320, (12, 30), (20, 40), (40, 80))})
    lost = {trace.name: dict(zip(trace.y, trace.x, strict=True)) for trace in made.figure.data}
    assert list(lost) == ["AHON (LN)", "random"] and [len(rows) for rows in lost.values()] == [15, 15]
    own, *theirs = lost["AHON (LN)"]
    assert own == "<b>organism-gqa</b>" and theirs == sorted(theirs, key=lost["AHON (LN)"].get)
    assert lost["AHON (LN)"][own] == pytest.approx(3) and lost["random"][own] == pytest.approx(10)
    one = published().sel(model="OLMo-2-1124-7B", score="AHON_LN")
    between = np.interp(0.1, one["share"], one["accuracy"])
    assert lost["AHON (LN)"]["OLMo-2-1124-7B"] == pytest.approx(100 * float(one["baseline"] - between))
    assert "refuted, 3.0 points lost (1." in made.sentence
    assert made.figure.layout.xaxis.title.text.endswith("(dashed line: 0.5)")
    assert made.sentence.endswith(
        "Questions: organism-gqa: 400 questions; the paper's models: MMLU, without intervals, since single answers are "
        "not released."
    )


def test_training_takes_a_folder_of_checkpoints(tmp_path):
    from tests.words import word_tokenizer

    run = tmp_path / "run"
    for step, seed in ((0, 0), (5, 1), (10, 2)):
        tiny("llama", torch.float32, seed).save_pretrained(run / f"step{step}")
        word_tokenizer().save_pretrained(run / f"step{step}")
    texts = {name: ["the cat sat on a mat and ran " * 40] for name in ("a", "b")}
    made = drawn("training", tmp_path / "out", (str(run),), texts=texts)
    assert made.sentence.startswith("run: of all heads and texts")
    assert list(made.figure.data[0].x) == ["0", "5", "10"]
    made = drawn("distances", tmp_path / "out", (str(run),), texts=texts)
    assert "step0 is" in made.sentence and "step5 is" in made.sentence and "from step10 in AHON (LN)" in made.sentence


def test_the_record_of_an_embedded_model_s_training_is_read(tmp_path):
    made = drawn("training", tmp_path)
    assert "10.0% at step 3,356, half of it reached between steps 867 and 1,216;" in made.sentence
    record = open_result(organisms.ASSETS / "organism-gqa" / inactive_measures.RECORD)
    traces = {trace.name: trace for trace in made.figure.data}
    np.testing.assert_allclose(traces["share of heads and texts inactive"].y, 100 * record["share_inactive"])
    assert list(traces["became dormant"].y) == record["births"].values[1:].tolist()
    with pytest.raises(InputError, match=r"organism-mqa comes without its checkpoints.*--kv-heads 1 --keep 24"):
        drawn("training", tmp_path, ("organism-mqa",))


def test_long_trainings_on_the_hub_are_thinned(monkeypatch):
    steps = {step: f"a/b@step{step}" for step in (0, *range(1000, 144_000, 1000))}
    monkeypatch.setattr(inactive_measures, "hub_checkpoints", lambda name: steps)
    found = inactive_measures.checkpoints_of(Source("a/b"))
    assert list(found)[:3] == [0, 1000, 2000] and max(found) == 143_000
    assert 12 < len(found) <= inactive_measures.CHECKPOINTS


def test_thresholds_are_carried_to_other_texts_tasks_and_questions(tmp_path, monkeypatch):
    short = functools.partial(ablation_curve, quantiles=(0.2,))
    monkeypatch.setattr(inactive_measures, "ablation_curve", short)
    made = drawn("threshold-transfer", tmp_path, n=8)
    assert "between kinds of text " in made.sentence and "between tasks " in made.sentence
    assert made.sentence.endswith(f"on 4 questions. {ORGANISMS}")
    assert "(plus: more are correct than under own thresholds)" in made.sentence
    names = {trace.name for trace in made.figure.data}
    assert {"fitted on prose", "fitted on dialogue", "fitted on fact", "AHON (LN)"} <= names


def test_models_are_compared_with_the_first(tmp_path):
    texts = {"prose": ["The cat sat on a mat and ran. " * 60]}
    made = drawn("distances", tmp_path, ("organism-gqa", "organism-mqa"), texts=texts)
    assert made.sentence.startswith("organism-mqa is 0.") and "from organism-gqa in AHON (LN)" in made.sentence
    assert "AHON" not in [y for trace in made.figure.data for y in (trace.y if isinstance(trace.y[0], str) else ())]
    with pytest.raises(InputError, match="name two or more, or a folder of checkpoints"):
        drawn("distances", tmp_path, texts=texts)


def test_bad_orders_are_named(tmp_path):
    with pytest.raises(InputError, match="inactive-heads/frequency needs at least one model"):
        drawn("frequency", tmp_path, ())
    with pytest.raises(InputError, match=r"too few from short \(0\)"):
        drawn("frequency", tmp_path, texts={"short": ["A few words."]})
