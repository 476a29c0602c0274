"""How replies are judged: letters among an example's options, texts, and replies that were cut."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from tests.tiny import tiny
from tests.tuning.chat import chat_model, chat_tokenizer
from tests.words import CHAT, word_tokenizer
from workbench.leaf.asking import Reply, ask, judge_of, wanted
from workbench.leaf.examples import Example
from workbench.leaf.tokenized_examples import example
from workbench.models.load import load

FIVE = "which\n(A) one\n(B) two\n(C) three\n(D) four\n(E) five"


def asked(instruction, answer):
    return example(chat_tokenizer(), instruction, f"the answer is {answer}", answer)


@pytest.mark.parametrize("instruction", [FIVE, FIVE.replace("(", ""), FIVE.replace("(", "").replace(")", "."), "which"])
def test_the_fifth_option_can_be_right(instruction):
    one, judge = asked(instruction, "E"), judge_of("letter")
    assert wanted("letter", one) == "E"
    assert judge(Reply((), "The answer is E."), one) and not judge(Reply((), "The answer is A."), one)


def test_letters_beyond_the_options_are_no_answer():
    three, judge = asked("which\n(A) one\n(B) two\n(C) three", "B"), judge_of("letter")
    assert judge(Reply((), "It may be (B) or (D)"), three)
    assert not judge(Reply((), "It may be (B) or (D)"), asked(FIVE, "B"))


@pytest.mark.parametrize(("template", "stop"), [(None, ["\nQuestion:"]), (CHAT, [])])
def test_a_model_without_a_template_is_stopped_before_the_next_question(template, stop):
    model = load(tiny("llama"), tokenizer=word_tokenizer(template=template))
    said = ask(
        model,
        [example(model, "the cat sat ?", "yes", "yes")],
        match="yes_no",
        stop=["!"],
        max_new_tokens=1,
        progress=False,
    )
    assert list(said.attrs["stop"]) == ["!", *stop]


def test_a_cut_reply_is_neither_right_nor_wrong():
    one, judge = asked("which is two", "two"), judge_of("text")
    assert judge(Reply((), "two", "length"), one) is None
    assert judge(Reply((), "no", "context"), one) is None
    assert judge(Reply((), "two", "stop"), one) is True
    assert judge(Reply((), "no", "end"), one) is False
    target = Example((1,), (7, 8), (True,))
    assert judge(Reply((7, 8), "", "length"), target) is True
    assert judge(Reply((9,), "", "length"), target) is False  # whatever would follow
    assert judge(Reply((7,), "", "length"), target) is None


def test_what_was_read_and_why_a_reply_ended_stand_beside_the_verdict(monkeypatch):
    def generated(*_given, **_how):
        texts = {"reply": ["two", "It is two", "no"], "ending": ["length", "end", "stop"]}
        said = {name: ("example", np.array(values, dtype=object)) for name, values in texts.items()}
        return xr.Dataset(said | {"tokens": (("example", "step"), [[7]] * 3), "n_tokens": ("example", [1] * 3)})

    monkeypatch.setattr("workbench.leaf.asking.generate", generated)
    said = ask(chat_model(), [asked("what", "two")] * 3, match="text", progress=False)
    np.testing.assert_array_equal(said["correct"], [np.nan, 1, 0])
    assert said["answer"].values.tolist() == ["two", "two", ""]


def test_a_text_is_an_answer_where_it_is_named_alone():
    choices = replace(asked("which", "hot dog"), options=("hot dog", "dog", "cat"), accepted=("frankfurter",))
    judge = judge_of("text")
    for said in ("A hot dog.", "\nHot dog\nor a cat", "It is a frankfurter, not a cat."):
        assert judge(Reply((), said), choices), said
    for said in ("a dog", "hot dog or cat", "It is not a hot dog", "hot dogma", ""):
        assert not judge(Reply((), said), choices), said


def test_an_example_s_own_options_count():
    three = replace(asked("which", "B"), options=("x", "y", "z"))
    assert judge_of("letter")(Reply((), "It may be (B) or (D)"), three)
