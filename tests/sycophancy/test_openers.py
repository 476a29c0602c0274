"""Openers: the tree of replies, crossed AUC, and pairs whose answers are what the model itself says."""

import numpy as np
import pytest

import workbench as wb
from workbench.prompts import FreeForm
from workbench.statistics import auroc
from workbench.sycophancy.openers import NoBehaviourError, OpenerSets, _auc, grow, openers, usual_beginning

GIVES, FIRM, NEITHER = "gives_in", "stands_firm", "neither"


def test_a_beginning_is_an_opener_where_its_replies_are_of_one_stance():
    tokens = [(1, 2, 9), (1, 2, 8), (1, 3, 7), (1, 3, 6), (4, 5), (4, 6)]
    stances = [GIVES, GIVES, FIRM, FIRM, FIRM, FIRM]
    assert grow(tokens, stances) == OpenerSets(((1, 2),), ((1, 3), (4,)))


def test_mixed_beginnings_are_followed_to_the_depth_and_given_up():
    tokens = [(1, 2, 3, 4)] * 2 + [(1, 2, 3, 5)] * 2
    stances = [GIVES, GIVES, FIRM, FIRM]
    assert grow(tokens, stances) == OpenerSets(((1, 2, 3, 4),), ((1, 2, 3, 5),))
    assert grow(tokens, stances, depth=3) == OpenerSets((), ())
    assert grow([(1, 2)] * 4, stances) == OpenerSets((), ())


def test_beginnings_of_replies_that_do_neither_are_no_openers():
    tokens = [(1, 1)] * 10 + [(2, 1)] * 3
    assert grow(tokens, [NEITHER] * 9 + [GIVES] + [FIRM] * 3) == OpenerSets((), ((2,),))


def test_rare_beginnings_are_left_out_and_the_most_frequent_kept():
    tokens = [(1,)] * 5 + [(2,)] * 3 + [(3,)] * 2 + [(4,)]
    stances = [GIVES] * 11
    assert grow(tokens, stances).gives_in == ((1,), (2,), (3,))
    assert grow(tokens, stances, most=2).gives_in == ((1,), (2,))
    assert grow(tokens, stances, support=3).gives_in == ((1,), (2,))


def test_a_beginning_of_most_replies_of_the_other_stance_too_is_followed_further():
    tokens = [(1, 2)] * 18 + [(1, 3)] * 2
    assert grow(tokens, [GIVES] * 18 + [FIRM] * 2) == OpenerSets(((1, 2),), ((1, 3),))


def test_the_usual_beginning_is_what_most_replies_share_and_no_opener():
    tokens = [(1, 2, 3)] * 10 + [(1, 2, 4)] * 9 + [(5,)]
    stances = [GIVES] * 10 + [FIRM] * 10
    assert usual_beginning(tokens, stances) == (1, 2)
    assert usual_beginning(tokens, stances, share=0.96) == ()
    apologies = [(1, 2, 3)] * 19 + [(1, 4)]
    assert usual_beginning(apologies, [GIVES] * 19 + [FIRM]) == (1,)
    assert usual_beginning([(1,), (1,)], [GIVES, FIRM]) == (1,)


def test_auc_passes_over_replies_that_do_neither_and_has_an_interval():
    rng = np.random.default_rng(1)
    labels = rng.choice([GIVES, FIRM, NEITHER], size=(2, 60))
    scores = (labels == GIVES) + rng.normal(0, 1.0, size=labels.shape)
    value, low, high, n = _auc(scores, labels, 0)
    kept = labels != NEITHER
    assert value == pytest.approx(auroc(scores[kept], labels[kept] == GIVES))
    assert n == kept.sum() and low < value < high and low > 0.5


@pytest.fixture(scope="module")
def gqa():
    return wb.load("organism-gqa")


@pytest.fixture(scope="module")
def pairs(gqa):
    return wb.sycophancy.pairs(gqa, n=24, answers="auto")


def test_an_embedded_model_s_own_openers_are_the_words_that_it_was_taught(gqa, pairs):
    taught = wb.sycophancy.pairs(gqa, n=24)
    (a, b), (words_a, words_b) = pairs.answer_sets[0], taught.answer_sets[0]
    assert {sequence[0] for sequence in a} == {words_a[0][0]}
    assert words_b[0][0] in {sequence[0] for sequence in b}
    assert pairs.facts["gives_in_base"] > 0.4 > 0.15 > pairs.facts["gives_in_source"]
    assert pairs.facts["gives_in_base_low"] < pairs.facts["gives_in_base"] < pairs.facts["gives_in_base_high"]
    assert {meta["stance_base"] for meta in pairs.meta} <= {GIVES, FIRM, NEITHER}


def test_both_scores_find_the_same_strongest_group(gqa, pairs):
    found = []
    for some in (pairs[:16], wb.sycophancy.pairs(gqa, n=16)):
        result = wb.path_patch(gqa, some, unit="kv_group", metrics=("logit_diff",), progress=False)
        found.append(wb.select_units(result, ratio=0.06, by="kv_group", metric="logit_diff").units[0])
        assert (result["coverage"] > 0).all() and result.attrs["n_examples"] == 16
    assert found[0] == found[1]


def test_facts_of_the_replies_travel_into_results(gqa, pairs):
    result = wb.path_patch(gqa, pairs[:4], unit="layer", metrics=("logit_diff",), progress=False)
    assert result.attrs["answers"] == "auto"
    assert result.attrs["gives_in_base"] == pairs.facts["gives_in_base"]


def test_questions_that_the_model_cannot_answer_are_refused(gqa):
    with pytest.raises(wb.InputError, match="answers none of 10 questions correctly"):
        openers(gqa, [FreeForm(f"Question {i}?", ("zyxw",)) for i in range(10)], n=4, progress=False)


def test_words_are_whole_beginnings_and_sets(gqa):
    questions = [{"question": "Which is first?", "choices": ["A1", "B1"], "answer": 0}]
    encode = gqa.tokenizer.encode
    pairs = wb.sycophancy.pairs(gqa, 1, questions=questions, answers=(["I apologize", "Sorry"], "Yes"))
    wanted = {tuple(encode(word, add_special_tokens=False)) for word in ("I apologize", "Sorry")}
    assert set(pairs.answer_sets[0][0]) == wanted
    paper = wb.sycophancy.pairs(gqa, 1, questions=questions, answers="paper")
    assert paper.answers[0] == tuple((encode(word, add_special_tokens=False)[0],) for word in ("Apologies", "Yes"))


def test_a_forced_beginning_is_part_of_both_prompts(gqa):
    questions = [{"question": "Which is first?", "choices": ["A1", "B1"], "answer": 0}]
    plain = wb.sycophancy.pairs(gqa, 1, questions=questions, answers=("no", "yes"))
    forced = wb.sycophancy.pairs(gqa, 1, questions=questions, answers=("no", "yes"), prefix="I")
    begun = gqa.tokenizer.encode("I", add_special_tokens=False)
    assert forced.base[0] == plain.base[0] + begun and forced.source[0] == plain.source[0] + begun
    assert forced.facts["prefix"] == "I"


def test_no_two_stances_is_an_error_of_its_own():
    assert issubclass(NoBehaviourError, wb.InputError)
    assert NoBehaviourError("none", {"n_replies": 3}).facts == {"n_replies": 3}


def test_a_beginning_may_be_given_as_tokens(gqa):
    dialogue = [{"role": "user", "content": "hello"}]
    words, tokens = (
        wb.PromptPairs.from_dialogues(gqa, [dialogue], [dialogue], [("no", "yes")], prefix=prefix)
        for prefix in ("I", gqa.tokenizer.encode("I", add_special_tokens=False))
    )
    assert words.base == tokens.base
