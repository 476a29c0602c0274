"""Stage 1 as a whole, with answers by a known rule: both models need a clue, and the student falls into a trap."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from tests.interrupts import killed_before_piece, watched
from tests.leaf.made import answered_by, examples, pair
from tests.tiny import tiny
from tests.tuning.chat import WORDS, chat_tokenizer
from workbench.errors import InputError
from workbench.leaf import asking, selection
from workbench.leaf.asking import Reply, ask
from workbench.leaf.causal import causal_check
from workbench.leaf.confounding import confounders, counterfactuals
from workbench.leaf.examples import Example
from workbench.leaf.pruning import Pruned, prune
from workbench.leaf.scores import TokenScore
from workbench.leaf.scoring import sensitivity
from workbench.leaf.selection import select_examples
from workbench.leaf.tokenized_examples import example
from workbench.leaf.verification import verify
from workbench.models.load import load
from workbench.runs.run import Run

TRAP, CLUE = 40, 41


def nearness(batch):
    """How far a token's id is from the trap's."""
    tokens = [torch.tensor(e.context) for e in batch.examples]
    return (torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True) - TRAP).abs().double()


NEAR = TokenScore("nearness", "low", nearness)


def planted():
    """Examples with a clue that both models need, two in three with a trap beside it that the student falls into."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(12):
        body = rng.integers(50, 90, 8).tolist()
        body[2] = CLUE
        if i % 3:
            body[5] = TRAP
        made.append(Example((1, *body, 3), (7, 2), (False, *[True] * 8, False), identifier=str(i)))
    return made


@pytest.fixture
def rules(monkeypatch):
    """Replies by rule instead of by running a model; everything else is real."""
    return answered_by(monkeypatch, lambda name, t: CLUE in t and (name == "teacher" or TRAP not in t))


@pytest.mark.usefixtures("rules")
def test_examples_that_mislead_the_student_alone_are_kept_and_counted():
    found = select_examples(*pair(), planted(), progress=False)
    assert found.index == [i for i in range(12) if i % 3]
    assert found.counts == {"examples": 12, "student_wrong": 8, "misled": 8, "student_cut": 0, "teacher_cut": 0}
    teacher = found.answers["correct"].sel(model="teacher").values
    assert np.isnan(teacher[::3]).all()


def test_the_teacher_is_asked_only_what_the_student_decides(rules):
    select_examples(*pair(), planted(), progress=False)
    assert [(name, len(those)) for name, those in rules] == [("student", 12), ("teacher", 8)]
    rules.clear()
    some = planted()[1:2]
    verify(*pair(), prune(some, [[2, 3, 6]]), progress=False)
    assert [(name, len(those)) for name, those in rules] == [("student", 2), ("teacher", 1)]


@pytest.mark.usefixtures("rules")
def test_a_span_is_accepted_where_both_are_right_without_it():
    some = planted()[1:2]
    found = verify(*pair(), prune(some, [[3, 4, 6, 8]]), progress=False)
    assert found["removed"].values.astype(int).tolist() == [
        [0, 0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1],
    ]
    assert found["correct_after"].sel(model="student").values.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(found["correct_after"].sel(model="teacher").values, [np.nan, 1, np.nan])
    assert found["accepted"].values.tolist() == [False, True, False]
    assert (found["start"].values.tolist(), found["stop"].values.tolist()) == ([3, 6, 8], [5, 7, 9])


def test_equal_counterfactuals_are_answered_once(rules):
    some = planted()[1:2]
    twice = prune(some, [[6]]) + prune(some, [[6]])
    found = verify(*pair(), twice, progress=False)
    assert [len(those) for _, those in rules] == [1, 1]
    assert found["accepted"].values.tolist() == [True, True]


def test_no_candidates_give_an_empty_result():
    found = verify(*pair(), [], progress=False)
    assert found.sizes["span"] == 0
    assert not found["accepted"].values.any()


@pytest.mark.usefixtures("rules")
def test_the_whole_stage_and_its_counterfactuals(tmp_path):
    some, file = planted(), str(tmp_path / "found.nc")
    found = confounders(*pair(), some, score=NEAR, threshold=(0.1, 0.3), resume=file, progress=False)
    assert found["example"].values.tolist() == [i for i in range(12) if i % 3]
    assert found["candidate"].dims == ("threshold", "example", "position")
    assert set(found["span_threshold"].values) == {0.1, 0.3}
    for row in range(found.sizes["span"]):
        one = found.isel(span=row)
        removed = np.flatnonzero(one["removed"].values)
        tokens = {some[int(one["origin"])].context[p] for p in removed}
        assert bool(one["accepted"]) == (TRAP in tokens and CLUE not in tokens)
    made = counterfactuals(some, found)
    assert made
    assert len(made) == len({(p.origin, p.removed) for p in made})
    assert len({p.origin for p in made}) == found.attrs["n_rescued"] == 8
    assert all(isinstance(p, Pruned) and TRAP not in p.example.context for p in made)
    few = counterfactuals(some, found, threshold=0.1)
    assert len(few) <= len(made) < len(counterfactuals(some, found, accepted=False))
    assert found.attrs["n_misled"] == 8
    assert found["gold"].values.tolist() == ["7 2"] * 8
    assert set(found["ending_before"].values.ravel()) == {"end"}
    asked = ~np.isnan(found["correct_after"].values)
    assert ((found["ending_after"].values != "") == asked).all() and (
        (found["answer_after"].values != "") == asked
    ).all()
    assert confounders(*pair(), some, score=NEAR, threshold=(0.1, 0.3), resume=file, progress=False).identical(found)
    with pytest.raises(InputError, match=r"another configuration \(threshold: \[0.1, 0.3\] there, \[0.3\] now\)"):
        confounders(*pair(), some, score=NEAR, threshold=0.3, resume=file, progress=False)
    with pytest.raises(InputError, match=r"another configuration \(max_new_tokens: \W*default\W* there, 3 now\)"):
        confounders(*pair(), some, score=NEAR, threshold=(0.1, 0.3), max_new_tokens=3, resume=file, progress=False)
    with pytest.raises(InputError, match="of example 1, which these 1 examples do not have"):
        counterfactuals(some[:1], found)


@pytest.mark.usefixtures("rules")
def test_what_guessing_gets_is_told_of_questions_with_lettered_options():
    some = [replace(one, options=("a", "b", "c", "d")[: 2 + 2 * (i % 2)]) for i, one in enumerate(planted())]
    given = {"score": NEAR, "draws": 1, "progress": False}
    assert confounders(*pair(), some, match="letter", **given).attrs["guess"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert "guess" not in confounders(*pair(), some, match="text", **given).attrs
    assert "guess" not in confounders(*pair(), planted(), match="letter", **given).attrs


@pytest.mark.usefixtures("rules")
def test_what_a_score_ranks_first_is_taken_out():
    chosen = select_examples(*pair(), planted(), progress=False)
    found = sensitivity(*pair(), chosen.examples, scores=["occlusion", "random"], progress=False)
    ranked = found["sensitivity"].values
    ranked[0], ranked[1] = 0.0, 0.0
    ranked[0, :, 6] = 1.0
    ranked[1, :, 3] = 1.0
    ranked[:, :, [0, 9]] = np.nan
    checked = causal_check(*pair(), chosen.examples, found, draws=20, progress=False)
    assert checked["removed"].sum("position").values.tolist() == [[1] * 8, [1] * 8]
    assert checked["turned_share"].values.tolist() == [1.0, 0.0]
    assert checked["accepted"].values.tolist() == [[True] * 8, [False] * 8]
    assert checked["accepted_gain"].values.tolist() == [1.0, 0.0]
    assert checked["accepted_low"].values[0] < 1.0
    # Random spans keep clear of the first choice: of the trap for the one score, of another token for the other.
    assert checked["chance_share"].values[0] == 0 and 0.05 < checked["chance_share"].values[1] < 0.3
    np.testing.assert_allclose(checked["excess"], checked["accepted_share"] - checked["chance_share"])
    assert checked["excess_low"].values[0] > 0.4 and checked["excess_high"].values[1] < 0.2


def test_replies_that_were_cut_mislead_nobody(monkeypatch):
    """Every other reply of the student is cut."""
    answered_by(monkeypatch, lambda name, t: name == "teacher")
    real = selection.ask

    def cutting(model, those, **given):
        said = real(model, those, **given)
        cut = np.array([int(e.identifier) % 2 == 0 for e in those]) & (model is pair()[0])
        said["ending"].values[cut], said["correct"].values[cut] = "length", np.nan
        return said

    monkeypatch.setattr(selection, "ask", cutting)
    found = select_examples(*pair(), planted(), progress=False)
    assert found.index == [1, 3, 5, 7, 9, 11]
    assert found.counts == {"examples": 12, "student_wrong": 6, "misled": 6, "student_cut": 6, "teacher_cut": 0}
    with pytest.raises(InputError, match="other 3 replies were cut before their end, so that they are neither right"):
        select_examples(*pair(), planted()[::4], progress=False)


def test_no_misled_example_is_refused_with_the_counts(monkeypatch):
    teacher = pair()[1]
    some = examples()
    said = ask(teacher, some, match=lambda reply, example: True, progress=False)
    gold = [
        Example(e.prompt, tuple(int(t) for t in row[: len(e.response)]), e.prunable)
        for e, row in zip(some, said["tokens"].values, strict=True)
    ]
    with pytest.raises(InputError, match="None of 3 examples misleads the student alone: the student answers all"):
        select_examples(teacher, teacher, gold, progress=False)
    with pytest.raises(InputError, match="of the 3 that the student gets wrong, the teacher gets none right"):
        select_examples(pair()[0], pair()[0], gold, progress=False)
    assert select_examples(pair()[0], teacher, gold, progress=False).counts["misled"] == 3


# Answers.


def chat_pair():
    return tuple(load(tiny("llama", torch.float64, seed), tokenizer=chat_tokenizer()) for seed in (0, 7))


def test_replies_are_greedy_and_judged_by_their_tokens_where_there_is_no_answer():
    model, some = pair()[0], examples()
    said = ask(model, some, progress=False)
    for row, one in enumerate(some):
        tokens = list(one.context)
        for step in range(int(said["n_tokens"].values[row])):
            with torch.no_grad():
                tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
            assert tokens[-1] == said["tokens"].values[row, step]
        assert bool(said["correct"].values[row]) == (tuple(tokens[len(one.context) :]) == one.target)
    assert said.sizes["step"] == 5


def test_a_matcher_reads_the_answer_out_of_reply_and_gold():
    some = [example(chat_tokenizer(), "what is it", "yes sure", "yes")]
    judge = asking.judge_of("yes_no")
    assert judge(Reply((), "The answer is yes."), Example(**{**vars(some[0]), "answer": "answer: yes"}))
    assert not judge(Reply((), "No."), Example(**{**vars(some[0]), "answer": "answer: yes"}))
    number = asking.judge_of("number")
    gold = Example((1,), (2,), (True,), answer="1,200")
    assert number(Reply((), "so #### 1200"), gold)
    assert not number(Reply((), "so #### 120"), gold)
    with pytest.raises(InputError, match="match='number' finds no answer in its answer 'two'"):
        ask(chat_pair()[0], [example(chat_tokenizer(), "what", "two", "two", identifier="1")], progress=False)
    with pytest.raises(InputError, match="match='numbers' is not a known reply matcher; did you mean 'number'"):
        ask(chat_pair()[0], some, match="numbers", progress=False)


def test_a_function_may_judge():
    student, _ = chat_pair()
    some = [example(student, "what is the answer", w, w) for w in WORDS[:3]]
    said = ask(student, some, match=lambda reply, one: one.answer == "three", max_new_tokens=3, progress=False)
    assert said["correct"].values.tolist() == [False, True, False]


def test_a_prompt_that_fills_the_context_is_refused():
    long = Example((5,) * 128, (6,), (True,) * 128)
    with pytest.raises(InputError, match="fills the model's context of 128"):
        ask(pair()[0], [long], progress=False)


def test_text_models_of_different_tokenizers_end_to_end():
    from tests.leaf.test_vocabularies import letters_tokenizer

    student = load(tiny("llama"), tokenizer=chat_tokenizer())
    teacher = load(tiny("llama", seed=7), tokenizer=letters_tokenizer())
    some = [example(student, "what is the answer two", w) for w in ("two", "no", "yes")]
    found = confounders(
        student,
        teacher,
        some,
        align="characters",
        match=lambda reply, one: len(one.context) > 20 or len(one.context) == 7,
        max_new_tokens=2,
        retokenize=True,
        progress=False,
    )
    assert found.attrs["align"] == "characters"
    assert found["round_trip"].values.all()
    assert found["accepted"].values.all()
    assert all(len(t.split()) == 4 for t in found["text_after"].values)
    with pytest.raises(InputError, match="pass retokenize= the student"):
        counterfactuals(some, found)
    assert counterfactuals(some, found, retokenize=student)[0].round_trip


def test_stages_that_were_finished_are_not_done_again(tmp_path, monkeypatch):
    student, teacher = pair()
    some, file = examples(), str(tmp_path / "found.nc")

    def stops(*_args, **_given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("workbench.leaf.confounding.verify", stops)
        selected = select_examples(student, teacher, some, match=judge_misled, progress=False)
        with pytest.raises(KeyboardInterrupt):
            confounders(student, teacher, some, match=judge_misled, resume=file, progress=False)
    assert selected.index == [0, 1, 2]
    with watched(Run, "add") as added, killed_before_piece(0):
        confounders(student, teacher, some, match=judge_misled, resume=file, progress=False)
    assert not added  # the first piece that is computed again is of the spans' verification
    found = confounders(student, teacher, some, match=judge_misled, resume=file, progress=False)
    assert found.attrs["n_spans"] >= 3
    assert not (tmp_path / "found.nc.parts").exists()


@cache
def first_words_of_the_teacher():
    replies = ask(pair()[1], examples(), match=lambda reply, one: True, progress=False)
    return frozenset(int(t) for t in replies["tokens"].values[:, 0])


def judge_misled(reply, one):
    """Right where a reply begins as one of the teacher's."""
    return reply.tokens[0] in first_words_of_the_teacher()
