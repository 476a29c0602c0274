"""Texts of every form become the same token sequences; padding and bad input."""

import pytest
import torch
from datasets import Dataset

from tests.tiny import bridge, tiny
from tests.words import CHAT, word_tokenizer
from workbench.errors import InputError
from workbench.models.load import load
from workbench.prompts.templates import beginning
from workbench.prompts.texts import PART, digest, token_sequences, words

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


@pytest.mark.parametrize("tensors", [None, "pt", "np"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_a_tokenizer_returns_is_read_with_its_mask(reader, tensors, side):
    texts = ["the cat sat", "yes"]
    alone = token_sequences(reader, texts)
    given = reader.tokenizer(texts, padding=True, padding_side=side, return_tensors=tensors)
    assert token_sequences(reader, given) == token_sequences(reader, dict(given)) == alone
    assert token_sequences(reader, [reader.tokenizer(text, return_tensors=tensors) for text in texts]) == alone
    if tensors == "pt":
        assert token_sequences(reader, given["input_ids"], mask=given["attention_mask"]) == alone
    with pytest.raises(InputError, match=r"Text 1 (begins|ends) with 2 pad tokens \('<pad>', id 0\)"):
        token_sequences(reader, given["input_ids"])
    with pytest.raises(InputError, match="pad tokens"):
        token_sequences(reader, {"input_ids": given["input_ids"]})


@pytest.mark.parametrize(
    ("rows", "refused"),
    [
        (torch.tensor([[1, 5, 6], [2, 1, 5]]), "Text 1 begins with 1 pad token "),
        (torch.tensor([[1, 5, 6], [1, 5, 2]]), "Text 1 ends with 1 pad token "),
        (torch.tensor([[5, 6, 7, 2], [5, 6, 2, 2]]), "Text 1 ends with 2 pad tokens "),
        ([[5, 6], [5, 2, 2]], "Text 1 ends with 2 pad tokens "),
        (torch.tensor([[5, 6, 2], [5, 7, 2]]), None),
        (torch.tensor([[5, 6, 2]]), None),
        ([[5, 6], [5, 2]], None),
        (torch.tensor([[5, 2, 6], [5, 7, 6]]), None),
    ],
)
def test_a_pad_token_that_is_eos_as_well_may_end_a_text_once(rows, refused):
    tokenizer = word_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    model = load(tiny("llama", torch.float32), tokenizer=tokenizer)
    if refused is None:
        assert token_sequences(model, rows) == [list(map(int, row)) for row in rows]
        return
    with pytest.raises(InputError, match=refused + ".*Pass the mask as well .* or leave the padding out"):
        token_sequences(model, rows)
    assert len(token_sequences(model, torch.tensor([[2, 2]]), mask=torch.ones(1, 2).long())[0]) == 2


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
        ([[5, 3.7]], {}, r"Text 0 is list '\[5, 3.7\]'; give a string or a list of token ids, whole numbers"),
        (torch.ones(2, 3).bool(), {}, "Tokens are ids"),
        ({"code": ["a"]}, {}, "A mapping of code was given, not texts"),
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


def test_parts_of_a_character_are_shown_as_the_character():
    model = load("organism-gqa")
    text = "a 日本 😀"
    ids = model.tokenizer(text)["input_ids"]
    shown = words(model, [ids])[0]
    assert len(shown) == len(ids) and "\ufffd" not in "".join(shown)
    assert "".join(shown).replace(PART, "").endswith(text)
    assert "\ufffd" in words(model, [ids[:-1]])[0][-1]


def test_dialogues_stand_wherever_texts_do():
    model = load(tiny("llama", torch.float32), tokenizer=word_tokenizer(template=CHAT))
    user, reply = ({"role": role, "content": text} for role, text in (("user", "yes"), ("assistant", "no")))
    asked, answered = token_sequences(model, ["user : yes assistant :", "user : yes assistant : no "])
    assert token_sequences(model, [user]) == token_sequences(model, [[user]]) == [asked]
    assert token_sequences(model, [[user], "yes", [user, reply]]) == [asked, *token_sequences(model, "yes"), answered]
    rows = [{"messages": [user, reply]}, {"messages": [user]}]
    assert token_sequences(model, rows) == [answered, asked]
    assert token_sequences(model, Dataset.from_list(rows), column="messages") == [answered, asked]
    with pytest.raises(InputError, match="no chat template"):
        token_sequences(load(tiny("llama"), tokenizer=word_tokenizer()), [user])


def test_variables_of_the_template_reach_dialogues():
    template = "{% if loud %}sorry {% endif %}{{ messages[0]['content'] }}"
    model = load(tiny("llama", torch.float32), tokenizer=word_tokenizer(template=template))
    asked = [{"role": "user", "content": "yes"}]
    assert token_sequences(model, [asked], template_kwargs={"loud": True}) == token_sequences(model, "sorry yes")
    assert token_sequences(model, [asked]) == token_sequences(model, "yes")


@pytest.mark.parametrize(
    ("rows", "found"), [([[1, 5], [1, 6]], "first"), ([[5], [6]], "none"), ([[1], [5]], "in some")]
)
def test_whether_texts_begin_with_bos_is_said(rows, found):
    assert beginning(word_tokenizer(), rows) == found and beginning(None, rows) == "unknown"
