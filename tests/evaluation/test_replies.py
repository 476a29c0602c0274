"""Replies are compared with their targets, and what could not be read is counted."""

import numpy as np
import pytest
import xarray as xr

from tests.tiny import bridge
from workbench.errors import InputError
from workbench.evaluation.questions import Question
from workbench.evaluation.replies import judge_replies, score_replies
from workbench.models.load import load
from workbench.organisms.abilities import ability_items
from workbench.organisms.tokenizer import BOS, render


def spoken(*replies):
    return xr.Dataset({"reply": ("example", np.array(replies, dtype=object))})


def asked(*targets, task="made up"):
    return [Question("?", target=target, id=str(i), task=task) for i, target in enumerate(targets)]


def test_right_wrong_and_unread_are_counted():
    found = judge_replies(
        spoken("#### 1,003", "#### 4", "many", "#### 5."), asked("1,003", "3", "2", "5"), "gsm8k_strict"
    )
    assert list(found["correct"].values) == [True, False, False, True]
    assert list(found["given"].values) == ["1003", "4", "", "5"]
    assert found.attrs["accuracy"] == 0.5 and found.attrs["no_match"] == 0.25
    assert found.attrs["accuracy_low"] < 0.5 < found.attrs["accuracy_high"]


def test_targets_take_the_matchers_form():
    assert judge_replies(spoken("The answer is B."), asked("b"), "letter")["correct"].all()
    assert judge_replies(spoken("It is $4,000.00"), asked("4000"), "number")["correct"].all()
    assert judge_replies(spoken("Paris is it"), asked("Paris"), lambda reply: reply.split()[0])["correct"].all()


def test_an_organism_solves_word_problems_in_its_own_words():
    items = ability_items("word problem", 4)
    questions = [
        Question(BOS + render([{"role": "user", "content": i.question}], prompt=True), target=i.target) for i in items
    ]
    found = score_replies(load("organism-gqa"), questions, match="number", max_new_tokens=40, progress=False)
    assert found.attrs["accuracy"] >= 3 / 4 and found.attrs["no_match"] == 0


@pytest.mark.parametrize(
    ("questions", "given", "says"),
    [
        ([Question("?", id="4")], {}, "Question '4' has no target"),
        (asked("3"), {}, "match='' is not a known reply matcher"),
        (asked("3"), {"match": "numbr"}, "did you mean 'number'?"),
        (asked("3", task="humaneval"), {}, "run them with score_programs"),
    ],
)
def test_what_cannot_be_judged_is_refused(questions, given, says):
    with pytest.raises(InputError) as raised:
        score_replies(bridge("llama"), questions, progress=False, **given)
    assert says in str(raised.value)
