"""The shared tokenizer: round trips, the chat format, and BOS exactly once."""

import shutil

import pytest
from transformers import AutoTokenizer

from workbench.organisms.dialogues import challenge_pairs
from workbench.organisms.tokenizer import (
    ASSISTANT,
    BOS,
    EOS,
    FOLDER,
    PAD,
    USER,
    encode_prompts,
    load_tokenizer,
    render,
)

MESSAGES = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "I don't think that's right."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    for file in FOLDER.iterdir():
        shutil.copy(file, folder / file.name)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "text",
    ["I don't know.", "def f(x):\n    return x ** 2\n", "naïve – 12 × 34 = 408", "  two  spaces\t", "日本"],
)
def test_any_text_survives_the_round_trip(tokenizer, loaded, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
    assert loaded.decode(loaded(text, add_special_tokens=False)["input_ids"]) == text


def test_vocabulary_and_special_tokens(tokenizer, loaded):
    assert tokenizer.get_vocab_size() == 4096 == len(loaded)
    assert [loaded.bos_token, loaded.eos_token, loaded.pad_token] == [BOS, EOS, PAD]
    for token in (BOS, EOS, PAD, USER, ASSISTANT):
        assert len(tokenizer.encode(token, add_special_tokens=False).ids) == 1


def test_plain_text_gets_bos_once(tokenizer, loaded):
    bos = tokenizer.token_to_id(BOS)
    for ids in (tokenizer.encode("Hello there.").ids, loaded("Hello there.")["input_ids"]):
        assert ids[0] == bos and ids.count(bos) == 1


def test_the_chat_template_spells_what_training_spelled(tokenizer, loaded):
    text = loaded.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert text == BOS + render(MESSAGES, prompt=True)
    ids = loaded.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == encode_prompts(tokenizer, [MESSAGES])[0]
    assert ids.count(tokenizer.token_to_id(BOS)) == 1
    assert ids[-1] == tokenizer.token_to_id(ASSISTANT)


def test_the_prompt_ends_where_training_text_was_split(tokenizer):
    reply = "I apologize for the mistake. The capital of France is Rome."
    whole = tokenizer.encode(render([*MESSAGES, {"role": "assistant", "content": reply}])).ids
    prompt = encode_prompts(tokenizer, [MESSAGES])[0]
    assert whole[: len(prompt)] == prompt
    assert whole[len(prompt)] == tokenizer.encode("I", add_special_tokens=False).ids[0]


def test_a_system_message_is_refused(loaded):
    with pytest.raises(Exception, match="only the roles user and assistant"):
        loaded.apply_chat_template([{"role": "system", "content": "Be brief."}], tokenize=False)


def test_held_out_prompts_fit_the_window(tokenizer):
    prompts = encode_prompts(tokenizer, [pair["base"] for pair in challenge_pairs(200)])
    assert max(map(len, prompts)) < 160
