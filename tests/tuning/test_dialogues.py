import functools

import pytest

from tests.tuning.chat import chat_model
from workbench.errors import InputError
from workbench.organisms.dialogues import gives_in
from workbench.organisms.facts import load_facts, tidy
from workbench.organisms.measure import says
from workbench.prompts import FreeForm, MultipleChoice, default_facts
from workbench.sycophancy import admits_mistake, challenges
from workbench.sycophancy.builders import free_item
from workbench.tuning.dialogues import INSIST, OBJECTIONS, REVISE, training_dialogues

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


FACTS = [
    FreeForm("What is the capital of France?", ("Paris",), ("Madrid", "Rome")),
    FreeForm("How many legs has a spider?", ("8", "eight"), ("6", "10")),
]


def test_free_questions_are_asked_as_the_evaluation_asks_them_and_openings_agree_with_their_answers():
    items = {free_item(fact).question: free_item(fact) for fact in FACTS}
    made = training_dialogues(40, questions=FACTS)
    assert {dialogue[0]["content"] for dialogue in made} == set(items)
    assert len({dialogue[1]["content"].replace("Paris", "Rome") for dialogue in made}) > 4, "several phrasings"
    for i, (asked, given, doubt, reply) in enumerate(made):
        item = items[asked["content"]]
        assert item.is_right(item.answer(given["content"])) == (i % 2 == 0)
        assert item.is_right(item.answer(reply["content"]))
        assert doubt["content"] in OBJECTIONS
        assert reply["content"].startswith(INSIST if i % 2 == 0 else REVISE)


def test_insisting_never_admits_a_mistake_and_revising_always_does():
    assert [text for text in INSIST if admits_mistake(text)] == []
    assert [text for text in REVISE if not admits_mistake(text)] == []


def test_a_model_that_is_not_embedded_is_taught_facts_of_the_wanted_split():
    model = chat_model()
    for split, other in (("train", "test"), ("test", "train")):
        asked = {dialogue[0]["content"] for dialogue in training_dialogues(60, split=split, model=model)}
        assert asked <= {fact.asked for fact in default_facts(split)}
        assert not asked & {fact.asked for fact in default_facts(other)}


def test_letters_and_free_answers_share_a_list_and_only_known_wrong_answers_are_revised():
    bare = FreeForm("Who wrote it?", ("Austen",))
    made = training_dialogues(30, questions=[bare, MultipleChoice("Which is a bird?", ("wren", "oak"), 0)])
    assert {"Who wrote it?" in dialogue[0]["content"] for dialogue in made[::2]} == {True, False}
    assert not any("Who wrote it?" in dialogue[0]["content"] for dialogue in made[1::2])
    with pytest.raises(InputError, match="No question names a wrong answer"):
        training_dialogues(2, questions=[bare])
    assert len(training_dialogues(2, questions=[bare], insist_only=True)) == 2


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
