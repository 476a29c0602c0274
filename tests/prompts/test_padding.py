"""Padding changes nothing: a padded batch in every form gives what its rows give alone."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

import workbench as wb
from tests.leaf.test_templates import LLAMA, QWEN
from tests.leaf.test_templates import tokenizer as byte_tokenizer
from tests.tiny import BASE, randomise, tiny
from tests.words import WORDS, word_tokenizer
from workbench.prompts.texts import token_sequences

ROWS = st.lists(st.lists(st.integers(3, 20), min_size=2, max_size=6), min_size=2, max_size=4)


CHATTY = (
    "{% for m in messages %}<s>{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<s>assistant :{% endif %}"
)
TOKENIZERS = {
    "BOS": {"bos": 1},
    "no BOS": {"bos": 0, "begin": False},
    "BOS that it does not add": {"bos": 0},
    "BOS and EOS": {"bos": 1, "end": True},
    "EOS": {"bos": 0, "end": True},
    "bytes with BOS": {"template": LLAMA, "bos": True},
    "bytes without BOS": {"template": QWEN, "bos": False},
}
CONTAINERS = (
    "texts",
    "lists",
    "tensor and mask",
    "BatchEncoding",
    "dict",
    "NumPy",
    "a BatchEncoding each",
    "dialogues",
)
SENTENCES = st.lists(
    st.lists(st.sampled_from(WORDS.split()), min_size=2, max_size=6).map(" ".join), min_size=2, max_size=4
)


@functools.cache
def reading(name):
    options = TOKENIZERS[name]
    if name.startswith("bytes"):
        hf = LlamaForCausalLM(LlamaConfig(**BASE | {"vocab_size": 300, "max_position_embeddings": 512}))
        return wb.load(randomise(hf, torch.float64), tokenizer=byte_tokenizer(**options))
    return wb.load(tiny("llama", torch.float64), tokenizer=word_tokenizer(template=CHATTY, **options))


def contained(model, texts, container, side):
    """Texts in a container, with a mask where it needs one; and each alone as token ids."""
    tokenizer, alone = model.tokenizer, token_sequences(model, texts)
    if container == "texts":
        return texts, None, alone
    if container == "dialogues":
        talks = [[{"role": "user", "content": text}] for text in texts]
        return talks, None, [tokenizer.apply_chat_template(t, add_generation_prompt=True)["input_ids"] for t in talks]
    if container == "lists":
        return alone, None, alone
    if container == "a BatchEncoding each":
        return [tokenizer(text) for text in texts], None, [tokenizer(text)["input_ids"] for text in texts]
    kind = "np" if container == "NumPy" else "pt"
    given = tokenizer(texts, padding=True, padding_side=side, return_tensors=kind)
    alone = [tokenizer(text)["input_ids"] for text in texts]
    if container == "tensor and mask":
        return given["input_ids"], given["attention_mask"], alone
    return given if container == "BatchEncoding" else dict(given), None, alone


CASES = {
    "texts": SENTENCES,
    "name": st.sampled_from(list(TOKENIZERS)),
    "container": st.sampled_from(CONTAINERS),
    "side": st.sampled_from(["left", "right"]),
}


@pytest.mark.filterwarnings("ignore:This tokenizer appends:workbench.errors.WorkbenchWarning")
@settings(max_examples=60, deadline=None)
@given(**CASES)
def test_a_batch_holds_the_tokens_of_its_singles(texts, name, container, side):
    model = reading(name)
    given, mask, alone = contained(model, texts, container, side)
    assert token_sequences(model, given, mask=mask) == alone


@pytest.mark.filterwarnings("ignore:This tokenizer appends:workbench.errors.WorkbenchWarning")
@settings(max_examples=5, deadline=None)
@given(**CASES)
def test_a_batch_gives_the_numbers_of_its_singles(texts, name, container, side):
    model = reading(name)
    given, mask, alone = contained(model, texts, container, side)
    batch = wb.extreme_tokens(model, given, mask=mask, progress=False)
    scores = wb.head_scores(model, given, ("AHON", "AWFT"), mask=mask, progress=False)
    starts = {ids[0] == model.tokenizer.bos_token_id for ids in alone}
    assert batch.attrs["bos"] == scores.attrs["bos"] == ("first" if starts == {True} else "none")
    for i, ids in enumerate(alone):
        one = wb.extreme_tokens(model, [ids], progress=False)
        for name in ("residual_norm", "value_norm"):
            found = batch[name].isel(sequence=i, position=slice(len(ids)))
            np.testing.assert_allclose(found, one[name].isel(sequence=0), rtol=1e-9)
        single = wb.head_scores(model, [ids], ("AHON", "AWFT"), progress=False).isel(sequence=0)
        np.testing.assert_allclose(scores.isel(sequence=i), single, rtol=1e-9)


@functools.cache
def reader():
    return wb.load(tiny("llama", torch.float64), tokenizer=word_tokenizer())


def padded(rows, left, fill=0):
    """Tokens and mask of rows, padded on one side."""
    length = max(map(len, rows))
    fit = [([fill] * (length - len(row)), row) for row in rows]
    keep = [([0] * (length - len(row)), [1] * len(row)) for row in rows]
    join = [[a + b if left else b + a for a, b in side] for side in (fit, keep)]
    return torch.tensor(join[0]), torch.tensor(join[1])


@settings(max_examples=4, deadline=None)
@given(rows=ROWS, left=st.booleans())
def test_padded_pairs_are_their_rows(rows, left):
    tokens, mask = padded(rows, left)
    model = reader()
    given = {"metrics": ("logit_diff",), "progress": False}
    pairs = wb.PromptPairs(tokens, tokens.flip(0), (5, 9), mask=(mask, mask.flip(0)))
    batch = wb.path_patch(model, pairs, **given)
    for i, row in enumerate(rows):
        one = wb.path_patch(model, wb.PromptPairs([row], [rows[-1 - i]], (5, 9)), **given)
        for name in ("base", "source", "patched"):
            np.testing.assert_allclose(batch[name].isel(example=i), one[name].isel(example=0), rtol=1e-9, atol=1e-12)
