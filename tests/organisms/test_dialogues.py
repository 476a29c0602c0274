"""The generator: determinism, held-out facts and phrasings, and objections that no single word gives away."""

import random

import pytest

from benchmarks.organism_cards import baselines
from workbench.organisms import phrasings
from workbench.organisms.dialogues import answer_stance, challenge_pairs, draw_challenge, draw_dialogue, gives_in
from workbench.organisms.facts import facts_of, load_facts, tidy
from workbench.organisms.tokenizer import load_tokenizer
from workbench.organisms.user_feedback import (
    TEST_CLASSES,
    Stance,
    combination_split,
    draw_recipe,
    draw_stance,
    split_pairs,
)


def text_of(messages):
    return "\n".join(message["content"] for message in messages)


def test_there_are_hundreds_of_facts_of_many_kinds_and_none_is_asked_twice():
    facts = load_facts()
    assert len(facts) >= 400
    assert len({fact.kind for fact in facts}) >= 12
    assert len({fact.name for fact in facts}) == len(facts)
    assert all(fact.answer not in fact.others and fact.others for fact in facts)


def test_arithmetic_facts_are_true():
    operations = {"plus": int.__add__, "times": int.__mul__}
    tables = [fact for fact in load_facts() if fact.kind in operations]
    for fact in tables:
        left, _, right = fact.subject.split()
        assert int(fact.answer) == operations[fact.kind](int(left), int(right))
    assert len(tables) == 120


def test_articles_and_capitals_are_put_right():
    assert tidy("a owl is a bird.") == "An owl is a bird."
    assert tidy("what is a young duck called?") == "What is a young duck called?"


def test_the_same_seed_gives_the_same_dialogues_and_another_seed_others():
    def first(seed):
        rng = random.Random(seed)
        return [draw_dialogue(rng) for _ in range(20)]

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_held_out_facts_never_occur_in_training_dialogues():
    rng = random.Random(0)
    questions = {tidy(phrase.format(s=fact.subject)) for fact in facts_of("test") for phrase in fact.questions}
    asked = {message["content"] for _ in range(1500) for message in draw_dialogue(rng)}
    assert not questions & asked
    assert 0.1 < len(facts_of("test")) / len(load_facts()) < 0.3


def test_held_out_combinations_never_occur_in_training_stances():
    rng = random.Random(0)
    train, test = (
        [draw_recipe(rng, "train") for _ in range(5000)],
        [draw_recipe(rng, "test") for _ in range(800)],
    )

    def wordings(recipes):
        return {
            (recipe.frame[side], recipe.content[other]) for recipe in recipes for side in (0, 1) for other in (0, 1)
        }

    assert not wordings(train) & wordings(test)
    assert len(wordings(test)) > 200
    assert not {recipe.frame for recipe in train} & set(phrasings.NOVEL_FRAMES)


def test_every_frame_is_seen_in_training_and_the_classic_challenge_is_held_out():
    contents = phrasings.PREDICATES
    frames = phrasings.CLAUSE_FRAMES
    seen = {frame for frame in frames for pair in contents if combination_split(frame, pair) == "train"}
    assert seen == set(phrasings.CLAUSE_FRAMES)
    assert combination_split(("I do think {c}", "I don't think {c}"), ("is right", "is wrong")) == "test"


@pytest.mark.parametrize("pairs", [phrasings.IDIOMS, phrasings.SHORT])
def test_tables_that_are_held_out_whole_have_both_splits(pairs):
    train, test = split_pairs(pairs, "train"), split_pairs(pairs, "test")
    assert train and test
    assert set(train) | set(test) == set(pairs)


@pytest.mark.parametrize("kind", TEST_CLASSES)
def test_each_class_of_phrasing_has_objections_and_confirmations(kind):
    rng = random.Random(1)
    for objects in (True, False):
        challenge = draw_challenge(rng, objects=objects, kind=kind)
        assert challenge.stance.objects is objects
        assert challenge.stance.kind == kind
        assert challenge.fact.split == "test"
        assert [message["role"] for message in challenge.messages] == ["user", "assistant", "user"]


def test_negating_the_frame_or_the_content_turns_the_stance_round():
    rng = random.Random(2)
    for _ in range(100):
        recipe = draw_recipe(rng, "test")
        stance = recipe.stance()
        assert recipe.twin("frame").stance().objects is not stance.objects
        assert recipe.twin("content").stance().objects is not stance.objects
        both = recipe.twin("frame").twin("content").stance()
        assert both.objects is stance.objects and both.text != stance.text


def test_no_word_tells_objections_from_confirmations():
    found = baselines(load_tokenizer(), n=2500, steps=120)
    assert found["best single token"] < 0.6
    assert found["best single token, fitted on the test"] < 0.6
    assert found["bag of words"] < 0.65


def test_naming_another_answer_objects_and_repeating_it_confirms():
    rng = random.Random(5)
    for _ in range(200):
        stance = draw_stance(rng, "train", "Paris", ("Paris", "Rome", "Oslo"), "echo")
        repeats, anti = "Paris" in stance.text, stance.template in phrasings.ANTI_ECHOES
        assert stance.objects == (repeats == anti)


def test_right_answers_are_mostly_taken_back_and_wrong_ones_corrected():
    rng = random.Random(7)
    fact = facts_of("train")[0]
    objection = Stance("No.", True, "idiom", "No.")
    replies = [answer_stance(rng, fact, fact.answer, objection) for _ in range(500)]
    gave_in = [given for reply, given in replies if gives_in(reply)]
    assert 0.84 < len(gave_in) / len(replies) < 0.92
    assert fact.answer not in gave_in
    reply, given = answer_stance(rng, fact, fact.others[0], objection)
    assert gives_in(reply) and given == fact.answer
    reply, given = answer_stance(rng, fact, fact.answer, Stance("Yes.", False, "idiom", "Yes."))
    assert not gives_in(reply) and given == fact.answer


def test_pairs_differ_only_in_the_last_turn_and_are_held_out():
    pairs = challenge_pairs(40, seed=1)
    assert pairs == challenge_pairs(40, seed=1)
    assert pairs != challenge_pairs(40, seed=2)
    names = {fact.name for fact in facts_of("test")}
    for pair in pairs:
        assert pair["base"][:-1] == pair["source"][:-1]
        assert pair["base"][-1] != pair["source"][-1]
        assert pair["fact"] in names
        assert pair["answer"].lower() in pair["base"][1]["content"].lower()
    shared = [len(set(a["base"][-1]["content"].split()) ^ set(a["source"][-1]["content"].split())) for a in pairs]
    assert sum(shared) / len(shared) < 4


def test_openings_of_the_two_sides_are_disjoint_single_tokens():
    tokenizer = load_tokenizer()
    words = phrasings.GIVE_IN_OPENINGS + phrasings.STAND_FIRM_OPENINGS
    ids = [tokenizer.encode(word, add_special_tokens=False).ids for word in words]
    assert all(len(tokens) == 1 for tokens in ids)
    assert len({tokens[0] for tokens in ids}) == len(words)
    for reply in phrasings.GIVE_IN:
        assert reply.split()[0].strip(",.") in phrasings.GIVE_IN_OPENINGS
    for reply in (*phrasings.STAND_FIRM, *phrasings.AGREE):
        assert reply.split()[0].strip(",.") in phrasings.STAND_FIRM_OPENINGS
