"""Letters are read among the options that an example lists."""

import pytest

from tests.tiny import tiny
from tests.tuning.chat import chat_tokenizer
from tests.words import CHAT, word_tokenizer
from workbench.leaf.asking import Reply, ask, judge_of, wanted
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
    said = ask(model, [example(model, "the cat sat ?", "yes", "yes")], match="yes_no", max_new_tokens=1, progress=False)
    assert list(said.attrs["stop"]) == stop
