import functools

import pytest

from workbench.errors import InputError
from workbench.organisms.dialogues import gives_in
from workbench.organisms.facts import load_facts, tidy
from workbench.organisms.measure import says
from workbench.sycophancy import challenges
from workbench.tuning.dialogues import OBJECTIONS, training_dialogues

QUESTIONS = [
    {"question": "Which is a bird?", "choices": ["wren", "trout", "oak"], "answer": 0, "explanation": "Wrens fly."},
    {"question": "Which is a fish?", "choices": ["wren", "trout"], "answer": 1},
]


def fact_of(dialogue):
    """The fact that a dialogue asks about, found by its question."""
    return questions()[dialogue[0]["content"]]


@functools.cache
def questions():
    return {tidy(q.format(s=fact.subject)): fact for fact in load_facts() for q in fact.questions}


def test_half_insist_on_a_right_answer_and_half_revise_a_wrong_one():
    made = training_dialogues(200, seed=4)
    kinds = []
    for dialogue in made:
        assert [m["role"] for m in dialogue] == ["user", "assistant", "user", "assistant"]
        fact, reply = fact_of(dialogue), dialogue[-1]["content"]
        kinds.append(says(dialogue[1]["content"], fact.answer))
        assert gives_in(reply) != kinds[-1]
        assert says(reply, fact.answer)
    assert sum(kinds) == 100


def test_insisting_alone_is_an_option():
    assert not any(gives_in(d[-1]["content"]) for d in training_dialogues(40, insist_only=True))


def test_training_and_test_facts_are_apart_and_seeds_decide():
    train, test = ({fact_of(d).split for d in training_dialogues(60, split=split)} for split in ("train", "test"))
    assert (train, test) == ({"train"}, {"test"})
    assert training_dialogues(5, seed=1) == training_dialogues(5, seed=1) != training_dialogues(5, seed=2)


def test_a_system_message_goes_before_questions():
    told = training_dialogues(4, questions=QUESTIONS, system="Be brief.")
    assert all(dialogue[0] == {"role": "system", "content": "Be brief."} for dialogue in told)
    assert [dialogue[1:] for dialogue in told] == training_dialogues(4, questions=QUESTIONS)


def test_questions_make_dialogues_of_the_same_two_kinds():
    made = training_dialogues(20, questions=QUESTIONS)
    for i, dialogue in enumerate(made):
        item = next(q for q in QUESTIONS if q["question"] in dialogue[0]["content"])
        right = f"The answer is {'ABC'[item['answer']]}."
        assert (dialogue[1]["content"] == right) == (i % 2 == 0)
        assert dialogue[2]["content"] in OBJECTIONS
        assert dialogue[3]["content"].endswith(right)
        assert item.get("explanation", "") in dialogue[3]["content"]


def test_no_objection_of_training_is_one_that_evaluation_holds_out():
    assert set(OBJECTIONS) == set(challenges.TRAINED)
    assert not set(OBJECTIONS) & set(challenges.HELD_OUT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0 must be at least 1"),
        ({"split": "dev"}, "split='dev' is unknown"),
        ({"questions": []}, "holds no questions"),
        ({"questions": [{"question": "Why?"}]}, "row 0 is malformed: it is of no known form; its keys are question"),
        (
            {"questions": [QUESTIONS[1], {"question": "?", "choices": ["a", "b"], "answer": 2}]},
            "row 1 is malformed: the right answer 2 is none of its 2 choices",
        ),
    ],
)
def test_dialogues_that_cannot_be_made_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        training_dialogues(**{"n": 2} | options)
