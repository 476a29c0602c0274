"""Texts of every form become the same token sequences; padding and bad input."""

import pytest
import torch
from datasets import Dataset

from tests.tiny import bridge, tiny
from tests.words import word_tokenizer
from workbench.errors import InputError
from workbench.models.load import load
from workbench.prompts.texts import digest, token_sequences, words

IDS = [[5, 6, 7], [8, 9]]


@pytest.fixture(scope="module")
def reader():
    return load(tiny("llama", torch.float32), tokenizer=word_tokenizer())


def test_every_form_of_tokens_gives_the_same_sequences():
    model = bridge("llama")
    right = torch.tensor([[5, 6, 7], [8, 9, 0]])
    left = torch.tensor([[5, 6, 7], [0, 8, 9]])
    assert token_sequences(model, IDS) == IDS
    assert token_sequences(model, [torch.tensor(ids) for ids in IDS]) == IDS
    assert token_sequences(model, right, mask=torch.tensor([[1, 1, 1], [1, 1, 0]])) == IDS
    assert token_sequences(model, left, mask=torch.tensor([[True] * 3, [False, True, True]])) == IDS
    assert token_sequences(model, IDS[0]) == token_sequences(model, torch.tensor(IDS[0])) == [IDS[0]]


def test_texts_get_the_tokenizer_s_own_bos_and_are_cut(reader):
    cat = token_sequences(reader, "the cat sat")
    assert cat[0][0] == 1 and len(cat[0]) == 4
    assert token_sequences(reader, ["the cat sat"], max_tokens=2) == [cat[0][:2]]
    assert token_sequences(reader, Dataset.from_dict({"text": ["the cat sat"]})) == cat
    assert words(reader, cat) == [["<s>", "the", "cat", "sat"]]


def test_tokens_without_a_tokenizer_are_shown_as_numbers():
    assert words(bridge("llama"), [[5, 60]]) == [["[5]", "[60]"]]


def test_the_digest_is_that_of_the_tokens():
    assert digest(IDS) == digest([list(ids) for ids in IDS])
    assert digest(IDS) != digest([[5, 6], [7, 8, 9]])


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "No texts: the list is empty"),
        ([[5], []], {}, "Text 1 has no tokens"),
        ([[5, 97]], {}, "Text 0 holds token id 97, but the model knows the ids 0 to 96"),
        (["the"], {}, "this model has no tokenizer"),
        ([[5], 3.5], {}, "Text 1 is float '3.5'"),
        (4, {}, "not int"),
        (IDS, {"mask": torch.ones(2, 3).long()}, "mask= belongs to a token tensor"),
        (torch.ones(2, 3).long(), {"mask": torch.ones(2, 4).long()}, r"mask has shape \[2, 4\], but the tokens"),
        (torch.ones(2, 3), {}, "Tokens are ids"),
        (IDS, {"max_tokens": 0}, "max_tokens=0 leaves nothing"),
        (Dataset.from_dict({"content": ["a"]}), {}, "no column 'text'"),
    ],
)
def test_what_is_no_text_is_refused(texts, options, message):
    with pytest.raises(InputError, match=message):
        token_sequences(bridge("llama"), texts, **options)
