"""The organisms' own questions: right answers are right, wrong ones wrong, and the organism knows the difference."""

import re

import pytest

from tests.tiny import bridge, tiny
from tests.words import CHAT, word_tokenizer
from workbench.errors import InputError
from workbench.evaluation.embedded_questions import own_questions
from workbench.evaluation.local import score_choices
from workbench.models.load import load
from workbench.organisms.abilities import Item, ability_items
from workbench.organisms.facts import load_facts
from workbench.organisms.questions import KINDS


def of_kind(kind, n=40, **given):
    return own_questions("organism-gqa", n, kinds=[kind], **given)


def test_kinds_share_the_number_equally():
    questions = own_questions("organism-mha", 22)
    counts = [sum(q.task == f"organism: {kind}" for q in questions) for kind in KINDS]
    assert counts == [6, 6, 5, 5]
    assert len({q.prompt for q in questions}) == 22


def test_the_draw_is_fixed_by_seed_and_split():
    assert own_questions("organism-gqa", 20) == own_questions("organism-gqa", 20)
    others = [own_questions("organism-gqa", 20, seed=1), own_questions("organism-gqa", 20, split="train")]
    assert all(other != own_questions("organism-gqa", 20) for other in others)


def test_facts_have_one_true_choice():
    facts = {fact.name: fact for fact in load_facts()}
    for question in of_kind("fact"):
        fact = facts[question.id]
        assert fact.split == "test" and len(set(question.choices)) == 4
        true = [choice.lower() == f"{fact.answer.lower()}." for choice in question.choices]
        assert true.index(True) == question.answer and sum(true) == 1


def test_positions_of_right_choices_vary():
    assert {q.answer for q in of_kind("fact")} == {0, 1, 2, 3}
    assert {q.answer for q in of_kind("two-hop")} == {0, 1}


@pytest.mark.parametrize("kind", KINDS[1:])
def test_only_the_right_reply_solves_the_item(kind):
    items = {item.question: item for item in ability_items(kind, 40)}
    for question in of_kind(kind):
        item: Item = items[question.id]
        solved = [item.solved_by(choice) for choice in question.choices]
        if kind == "word problem":
            solved = [s and _sums_hold(c) for s, c in zip(solved, question.choices, strict=True)]
        assert solved.index(True) == question.answer and sum(solved) == 1, question


def _sums_hold(reply):
    return all(eval(f"{left} == {right}") for left, right in re.findall(r"(\d+ [+-] \d+) = (\d+)", reply))


def test_the_organism_answers_most_and_a_broken_one_does_not():
    questions = own_questions("organism-gqa", 16)
    model = load("organism-gqa")
    assert score_choices(model, questions, progress=False).attrs["accuracy"] >= 0.85
    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda x, hook: 0 * x)]):
        broken = score_choices(model, questions, progress=False)
    assert broken.attrs["accuracy"] < 0.75 and broken.attrs["hooks_active"] == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kinds": ["facts"]}, "did you mean 'fact'?"),
        ({"kinds": []}, "must be some of the organisms' kinds"),
        ({"split": "dev"}, "split='dev' is unknown"),
        ({"n": 3}, "n=3 questions cannot be shared by 4 kinds"),
    ],
)
def test_what_cannot_be_asked_is_refused(given, says):
    with pytest.raises(InputError) as raised:
        own_questions("organism-gqa", **given)
    assert says in str(raised.value)


def test_other_models_were_not_taught():
    with pytest.raises(InputError, match="There is no embedded model 'gpt2'"):
        own_questions("gpt2")
    with pytest.raises(InputError, match="This is not an embedded model"):
        own_questions(load(tiny("llama"), tokenizer=word_tokenizer(template=CHAT)))
    with pytest.raises(InputError, match="no tokenizer"):
        own_questions(bridge("llama"))
