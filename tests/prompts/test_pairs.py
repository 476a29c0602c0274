"""Pairs of prompts: what is refused, how BOS is decided, and that slices are pairs again."""

import numpy as np
import pytest
import torch

from tests.tiny import bridge, tiny
from tests.words import CHAT, word_tokenizer
from workbench.errors import InputError
from workbench.models.load import load
from workbench.patching.activation import activation_patch
from workbench.patching.attribution import attribution_patch
from workbench.patching.path import path_patch
from workbench.prompts.pairs import PromptPairs, shared_prefix
from workbench.prompts.templates import tokenizer_of

BOS = "{{ bos_token }} "
ASK = [{"role": "user", "content": "are you sure ?"}]
THANK = [{"role": "user", "content": "you are right"}]


def with_words(**options):
    return load(tiny("llama"), tokenizer=word_tokenizer(**options))


@pytest.fixture
def three():
    answers = [(5, 9), (6, 9), ((5, 7), (9,))]
    meta = [{"fact": name} for name in "abc"]
    return PromptPairs([[1, 2], [1, 3, 4], [1]], [[1, 5], [1, 3, 6, 7], [2]], answers, meta=meta)


# What pairs are.


def test_one_answer_pair_stands_for_all():
    assert PromptPairs([[1], [2]], [[3], [4]], (5, 9)).answers == [((5,), (9,))] * 2
    assert PromptPairs([[1], [2]], [[3], [4]], [5, 9]).answers == [((5,), (9,))] * 2


def test_two_examples_may_have_answers_of_their_own():
    assert PromptPairs([[1], [2]], [[3], [4]], [(5, 9), (6, 8)]).answers == [((5,), (9,)), ((6,), (8,))]
    whole = np.array([[5, 9], [6, 8]])
    assert PromptPairs([[1], [2]], [[3], [4]], list(whole)).answers == [((5,), (9,)), ((6,), (8,))]
    assert PromptPairs([[1]], [[3]], tuple(whole[0])).answers == [((5,), (9,))]
    tensor = torch.tensor([[5, 9], [6, 8]])
    assert PromptPairs([[1], [2]], [[3], [4]], tensor).answers == [((5,), (9,)), ((6,), (8,))]


def test_tensors_and_lists_are_the_same_pairs():
    lists = PromptPairs([[1, 2], [3, 4]], [[1, 5], [3, 6]], (7, 8))
    tensors = PromptPairs(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 5], [3, 6]]), (7, 8))
    assert tensors.base == lists.base and tensors.digest == lists.digest


PADDED = torch.tensor([[1, 4, 5], [0, 1, 6]])
SHORT = torch.tensor([[1, 7], [1, 8]])
REAL = torch.tensor([[1, 1, 1], [0, 1, 1]])


def test_padding_is_cut_off_where_a_mask_tells_it():
    wanted = [[1, 4, 5], [1, 6]]
    both = PromptPairs(PADDED, PADDED, (7, 8), mask=REAL)
    apart = PromptPairs(PADDED, SHORT, (7, 8), mask=(REAL, None))
    tokenized = PromptPairs({"input_ids": PADDED, "attention_mask": REAL}, SHORT, (7, 8))
    assert both.base == both.source == apart.base == tokenized.base == wanted
    assert apart.source == tokenized.source == [[1, 7], [1, 8]]
    with pytest.raises(InputError, match=r"mask has shape \[2, 2\], but the tokens \[2, 3\]"):
        PromptPairs(PADDED, SHORT, (7, 8), mask=REAL[:, :2])


@pytest.mark.parametrize("measure", [path_patch, activation_patch, attribution_patch])
def test_padding_without_a_mask_is_refused_where_the_model_is_seen(measure):
    model = with_words()
    for base, source, says in (
        (PADDED, SHORT, "Base prompt 1 begins with 1 pad token"),
        (SHORT, PADDED.flip(1), "Source prompt 1 ends with 1 pad token"),
    ):
        pairs = PromptPairs(base, source, (7, 8))
        for given in (pairs, pairs[:]):
            with pytest.raises(InputError, match=says + r" \('<pad>', id 0\).*Pass the mask .* lists of token ids"):
                measure(model, given, progress=False)
    masked = PromptPairs(PADDED, PADDED, (7, 8), mask=REAL)
    masked.check_model(model)
    masked[1:].check_model(model)


@pytest.mark.parametrize("ids", [[[1.0, 3.7]], torch.tensor([[1.0, 3.7]]), [np.array([1.5])]])
def test_ids_with_a_fraction_are_refused(ids):
    with pytest.raises(InputError, match=r"whole numbers|not embeddings"):
        PromptPairs(ids, [[1]], (5, 9))
    with pytest.raises(InputError, match=r"no pairs .* of token ids"):
        PromptPairs([[1]], [[2]], [(5.5, 9)])


def test_answers_of_several_tokens(three):
    assert three[:2].single_tokens and not three.single_tokens
    assert three.answers[2] == ((5, 7), (9,))
    assert three.answer_sets[2] == (((5, 7),), ((9,),))


def test_answers_are_sets_of_openers():
    pairs = PromptPairs([[1, 2]], [[1, 3]], [([[5, 7], [6], [6, 8], 4], [[9], [5, 8]])])
    assert pairs.answers == [(((4,), (5, 7), (6,)), ((5, 8), (9,)))]  # (6, 8) is part of what (6,) stands for
    assert not pairs.single_tokens
    with pytest.raises(InputError, match=r"token ids \[5\] of one answer begin \[5, 8\] of the other"):
        PromptPairs([[1, 2]], [[1, 3]], [([[5], [6]], [[9], [5, 8]])])
    one = PromptPairs([[1, 2]], [[1, 3]], [([[5, 7]], [9])])
    assert one.answers == [((5, 7), (9,))] and one.digest == PromptPairs([[1, 2]], [[1, 3]], [((5, 7), (9,))]).digest


def test_slices_are_pairs(three):
    assert len(three) == 3
    assert three[-1].base == [[1]] and three[-1].meta == [{"fact": "c"}]
    assert three[1:].base == [[1, 3, 4], [1]] and three[[2, 0]].source == [[2], [1, 5]]
    assert three[[2, 0]].answers == [((5, 7), (9,)), ((5,), (9,))]
    assert [pair.base for pair in three] == [[[1, 2]], [[1, 3, 4]], [[1]]]
    assert three[:].digest == three.digest


def test_a_slice_of_nothing_is_refused(three):
    with pytest.raises(InputError, match="No pairs"):
        three[3:]


def test_the_digest_is_the_identity_of_the_prompts(three):
    same = PromptPairs(three.base, three.source, three.answers)
    assert same.digest == three.digest and len(three.digest) == 64
    changed = [
        PromptPairs([[1, 3], *three.base[1:]], three.source, three.answers),
        PromptPairs(three.base, [[1, 4], *three.source[1:]], three.answers),
        PromptPairs(three.base, three.source, [(5, 8), *three.answers[1:]]),
        PromptPairs(three.source, three.base, three.answers),
        three[[1, 0, 2]],
    ]
    assert len({three.digest, *(pairs.digest for pairs in changed)}) == 6


def test_the_digest_knows_where_one_prompt_ends():
    one, other = ([[1, 2], [3]], [[1], [2, 3]])
    assert PromptPairs(one, one[::-1], (5, 9)).digest != PromptPairs(other, other[::-1], (5, 9)).digest


def test_shared_prefix(three):
    assert [shared_prefix(three.base[i], three.source[i]) for i in range(3)] == [1, 2, 0]
    assert shared_prefix([1, 2], [1, 2, 3]) == 2


def test_the_repr_tells_the_sizes(three):
    assert repr(three).startswith("PromptPairs(3 pairs, 1 to 4 tokens, digest ")


# What is refused.


@pytest.mark.parametrize(
    ("base", "source", "answers", "message"),
    [
        ([], [], (5, 9), r"No pairs: base is empty"),
        ([[1], [2]], [[3]], (5, 9), r"got \{'base': 2, 'source': 1, 'answers': 2, 'meta': 2\}"),
        ([[1], [2]], [[3], [4]], [(5, 9)], r"'answers': 1"),
        ([[1], []], [[3], [4]], (5, 9), r"Example 1: the base prompt has no tokens"),
        ([[1]], [[]], (5, 9), r"Example 0: the source prompt has no tokens"),
        ([[1]], [[2]], [((), (9,))], r"Example 0: an answer has no tokens"),
        ([[1], [2]], [[3], [4]], [(5, 9), (7, 7)], r"Example 1: answers a and b are the same, token ids \[7\]"),
        ([[1]], [[2]], [(5, 7, 9)], r"answers=\[\(5, 7, 9\)\] are no pairs \(a, b\) of token ids"),
        ([[1]], [[2]], ("yes", "no"), r"are no pairs .*words need PromptPairs\.from_text"),
        ([[1]], [[2]], [5], r"answers=\[5\] are no pairs"),
        (["the cat"], [[1]], (5, 9), r"takes token ids, and got the text 'the cat'\. Use PromptPairs\.from_text"),
    ],
)
def test_bad_pairs(base, source, answers, message):
    with pytest.raises(InputError, match=message):
        PromptPairs(base, source, answers)


@pytest.mark.parametrize(
    ("base", "source", "answers", "where"),
    [
        ([[1], [97]], [[1], [2]], (5, 9), "Example 1: base holds token id 97"),
        ([[1]], [[-1]], (5, 9), "Example 0: source holds token id -1"),
        ([[1]], [[2]], (5, 200), "Example 0: answers holds token id 200"),
    ],
)
def test_ids_outside_the_vocabulary(base, source, answers, where):
    with pytest.raises(InputError, match=where + ", but the model knows the ids 0 to 96"):
        PromptPairs(base, source, answers, vocab=97)


# Text.


def test_texts_become_tokens_as_the_tokenizer_makes_them():
    model = with_words()
    pairs = PromptPairs.from_text(model, ["the cat sat"], ["the dog"], ("yes", "no"))
    assert pairs.base == [[1, 4, 5, 7]] and pairs.source == [[1, 4, 6]]
    assert pairs.answers == [((12,), (13,))]
    assert pairs.meta == [{"base": "the cat sat", "source": "the dog"}]


@pytest.mark.parametrize("own", [0, 1])
@pytest.mark.parametrize("begin", ["", BOS])
def test_dialogues_hold_bos_at_most_once(own, begin):
    model = with_words(bos=own, template=begin + CHAT)
    pairs = PromptPairs.from_dialogues(model, [ASK], [THANK], ("sorry", "yes"), meta=[{"fact": 3}])
    words = model.tokenizer.convert_tokens_to_ids(["user", ":", "are", "you", "sure", "?", "assistant", ":"])
    assert pairs.base == [[1] * (own or bool(begin)) + words]
    assert pairs.meta == [{"fact": 3}]


def test_dialogues_need_a_template():
    with pytest.raises(InputError, match="This tokenizer has no chat template"):
        PromptPairs.from_dialogues(with_words(), [ASK], [THANK], ("sorry", "yes"))


def test_answers_in_words_and_ids():
    model = with_words()
    texts = (["the cat", "the dog"], ["a cat", "a dog"])
    several = PromptPairs.from_text(model, *texts, [("I apologize", "yes"), (7, "no")])
    assert several.answers == [((15, 16), (12,)), ((7,), (13,))]
    assert PromptPairs.from_text(model, *texts, ("I apologize", "yes")).answers == [((15, 16), (12,))] * 2
    assert PromptPairs.from_text(model, *texts, ("yes", 7)).answers == [((12,), (7,))] * 2


def test_answers_carry_no_bos():
    pairs = PromptPairs.from_text(with_words(), ["the cat"], ["a cat"], ("yes", "no"))
    assert pairs.answers == [((12,), (13,))]


@pytest.mark.parametrize(
    ("base", "answers", "message"),
    [
        ("the cat", ("yes", "no"), r"base is one text; give a list of texts, such as \['the cat'\]"),
        (["the cat"], ("", "no"), r"The answer '' has no tokens"),
        (["the cat"], ("yes", "yes"), r"a and b are the same, token ids \[12\]"),
        (["the cat", "the dog"], ("yes", "no"), r"got \{'base': 2, 'source': 1"),
    ],
)
def test_bad_texts(base, answers, message):
    with pytest.raises(InputError, match=message):
        PromptPairs.from_text(with_words(), base, ["a cat"], answers)


def test_a_tokenizer_of_another_model_is_found():
    model = with_words(extra=200)
    with pytest.raises(InputError, match=r"base holds token id \d+.*tokenizer of another model"):
        PromptPairs.from_text(model, ["w150"], ["the cat"], ("yes", "no"))


def test_text_needs_a_tokenizer():
    with pytest.raises(InputError, match="Text was given, but this model has no tokenizer"):
        PromptPairs.from_text(bridge("llama"), ["the cat"], ["a cat"], ("yes", "no"))
    assert tokenizer_of(with_words()).bos_token == "<s>"
