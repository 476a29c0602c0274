"""Examples are values that refuse what cannot be used, and deletion by id leaves everything else as it was."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.leaf.made import examples
from workbench.errors import InputError
from workbench.leaf.examples import Example, Wording, as_record, check_examples, digest, from_record


def one(**changes) -> Example:
    fields = {"prompt": (1, 5, 6, 7, 4), "response": (8, 9, 2), "prunable": (False, True, True, True, False)}
    return Example(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prompt": (), "prunable": ()}, "a prompt without tokens"),
        ({"response": ()}, "no response and prefix=0, so its response segment is empty"),
        ({"prefix": 3, "prunable": (False,) * 8}, "3 response tokens and prefix=3, so its response segment is empty"),
        ({"prunable": (True,)}, "5 context tokens and 1 values of prunable"),
        ({"wording": Wording("a", "b", ((0, 1),))}, "5 context tokens and 1 offsets"),
    ],
)
def test_what_cannot_be_an_example_is_refused(changes, text):
    with pytest.raises(InputError, match=text):
        one(**changes)


def test_deletion_keeps_all_other_ids():
    shorter = one().without([2])
    assert shorter.prompt == (1, 5, 7, 4)
    assert shorter.prunable == (False, True, True, False)
    assert (shorter.response, shorter.prefix) == ((8, 9, 2), 0)


def test_deletion_at_response_level_shortens_the_shown_part_only():
    example = one(prefix=2, prunable=(False,) * 5 + (True, True))
    assert example.context == (1, 5, 6, 7, 4, 8, 9)
    assert example.target == (2,)
    shorter = example.without([5])
    assert (shorter.prompt, shorter.response, shorter.prefix) == (example.prompt, (9, 2), 1)


def test_deletion_refuses_template_tokens_and_everything():
    with pytest.raises(InputError, match=r"Position 0 of example '' may not be pruned; those that may are \[1, 2, 3\]"):
        one().without([0, 1])
    with pytest.raises(InputError, match="would delete all 3 tokens"):
        one().without([1, 2, 3])


def test_a_character_goes_with_the_last_token_on_it():
    words = Wording("né!", "x", ((0, 1), (1, 2), (1, 2), (2, 3)))
    assert words.without({1}).instruction == "né!"
    gone = words.without({1, 2})
    assert (gone.instruction, gone.offsets) == ("n!", ((0, 1), (1, 2)))


@given(st.sets(st.integers(0, 9)), st.integers(0, 6))
def test_text_without_tokens_is_the_text_of_the_others(removed, shown):
    instruction, response = "abcdefgh", "ABCDEF"
    spans = [(i, i + 1) for i in range(8)] + [(8 + i, 9 + i) for i in range(shown)]
    words = Wording(instruction, response, tuple(spans), shown)
    removed = {i for i in removed if i < len(spans)}
    found = words.without(removed)
    kept = [(instruction + response)[a:b] for i, (a, b) in enumerate(spans) if i not in removed]
    whole = found.instruction + found.response
    assert [whole[a:b] for a, b in found.offsets] == kept
    assert found.response[found.shown :] == response[shown:]
    assert found.instruction == "".join(c for i, c in enumerate(instruction) if i not in removed)


def test_records_come_back_from_json_as_they_were():
    words = Wording("a b", "c", ((0, 0), (0, 1), (1, 3), (3, 3), (3, 3)), system="be brief")
    for example in (one(), one(wording=words, answer="c", identifier="7"), *examples(prefix=1)):
        assert from_record(json.loads(json.dumps(as_record(example)))) == example


def test_the_digest_tells_examples_apart():
    first, second = examples()[:2]
    assert digest([first]) == digest([first])
    assert len({digest([first]), digest([second]), digest([first, second]), digest([first.without([1])])}) == 4


def test_lists_of_something_else_are_refused():
    with pytest.raises(InputError, match="the list is empty"):
        check_examples([])
    with pytest.raises(InputError, match="One example was given"):
        check_examples(one())
    with pytest.raises(InputError, match="not str 'a question'"):
        check_examples([one(), "a question"])
