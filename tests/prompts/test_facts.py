"""The default facts: enough of them, each in one split, answers and wrong answers apart."""

from collections import Counter

import pytest

from workbench.errors import InputError
from workbench.prompts.facts import default_facts, with_choices

SPLITS = ("train", "selection", "test")


def test_every_split_is_large_and_no_fact_is_in_two():
    questions = {split: [fact.question for fact in default_facts(split)] for split in SPLITS}
    assert len(questions["test"]) >= 450 and len(questions["train"]) >= 300 and len(questions["selection"]) >= 120
    every = [question for split in questions.values() for question in split]
    assert len(every) == len(set(every)) >= 1000


def test_wrong_answers_are_wrong_and_differ():
    for split in SPLITS:
        for fact in default_facts(split):
            accepted = {answer.casefold() for answer in fact.answers}
            wrong = [answer.casefold() for answer in fact.wrong]
            assert len(set(wrong)) == 3 and not accepted & set(wrong), fact.question


def test_choices_hold_the_answer_at_every_place_about_equally():
    asked = [with_choices(fact) for fact in default_facts("test")]
    assert all(
        one.choices[one.answer] == fact.answers[0] for one, fact in zip(asked, default_facts("test"), strict=True)
    )
    places = Counter(one.answer for one in asked)
    assert set(places) == {0, 1, 2, 3} and min(places.values()) > 0.18 * len(asked)


def test_splits_do_not_depend_on_the_order_of_facts():
    assert [fact.id for fact in default_facts("train")][:2] == [fact.id for fact in default_facts("train")][:2]
    assert {"What is the capital of Norway?"} <= {fact.question for fact in default_facts("test")}


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="split='tset' is unknown; did you mean 'test'"):
        default_facts("tset")
