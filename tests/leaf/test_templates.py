"""The user's words in templates like those of Llama 3 and Qwen 2.5, with a byte-level tokenizer."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from workbench.leaf.examples import as_record, from_record
from workbench.leaf.pruning import prune
from workbench.leaf.reading import read_examples
from workbench.leaf.segments import split_responses
from workbench.leaf.tokenized_examples import example, reword

LLAMA = (
    "{{ bos_token }}<|header|>system<|end_header|>\n\nCutting Knowledge Date: December 2023<|eot|>"
    "{% for m in messages %}<|header|>{{ m['role'] }}<|end_header|>\n\n{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant<|end_header|>\n\n{% endif %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|begin|>", "<|header|>", "<|end_header|>", "<|eot|>", "<|im_start|>", "<|im_end|>", "<|end|>"]
QUESTION = "Is a user's café 3 km away?  It has $5^{2}$ seats.\nuser"
REPLY = "It is near.\nSo the answer is yes.\nyes"


def tokenizer(template: str, bos: bool) -> PreTrainedTokenizerFast:
    """Bytes and a few merges, with the special tokens of a template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("Ġ", "s"), ("e", "r"), ("Ġi", "s"), ("u", "s"), ("us", "er"), ("Ġ", "i"), ("Ã", "©")]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys([*letters, *(a + b for a, b in merges)]))}
    inner = Tokenizer(models.BPE(vocabulary, [m for m in merges if m[0] in vocabulary and m[1] in vocabulary]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIAL)
    begin = inner.token_to_id("<|begin|>")
    inner.post_processor = (
        processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", begin)])
        if bos
        else processors.ByteLevel(trim_offsets=True)
    )
    own = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|begin|>" if bos else None, eos_token="<|end|>", pad_token="<|end|>"
    )
    own.add_special_tokens({"additional_special_tokens": SPECIAL[1:6]})
    own.chat_template = template
    return own


@pytest.fixture(params=[(LLAMA, True, "<|eot|>"), (QWEN, False, "<|im_end|>")], ids=["llama", "qwen"])
def chat(request):
    template, bos, end = request.param
    return tokenizer(template, bos), end


def spoken(made, own) -> str:
    return own.decode([t for t, may in zip(made.context, made.prunable, strict=True) if may])


def test_the_words_are_the_users_and_the_rest_is_the_template(chat):
    own, end = chat
    made = example(own, QUESTION, REPLY, "yes", suffix=" Think.")
    rendered = own.apply_chat_template(
        [{"role": "user", "content": QUESTION + " Think."}], tokenize=False, add_generation_prompt=True
    )
    assert own.decode(made.prompt) == rendered
    assert made.prompt.count(own.convert_tokens_to_ids("<|begin|>")) == (end == "<|eot|>")
    assert own.decode(made.response) == REPLY + end
    assert spoken(made, own).replace(" ", "").replace("\n", "") == QUESTION.replace(" ", "").replace("\n", "")
    assert made.wording.instruction == QUESTION
    assert reword(made, own) == made


def test_every_token_covers_the_characters_that_it_stands_for(chat):
    own, _ = chat
    made = example(own, QUESTION, REPLY)
    for token, (a, b) in zip(made.context, made.wording.offsets, strict=True):
        piece = own.decode([token])
        if a < b and "�" not in piece:
            assert QUESTION[a:b].strip() == piece.strip()


def test_pruned_text_reads_as_the_tokens_that_are_left(chat):
    own, _ = chat
    made = example(own, QUESTION, REPLY)
    for position in made.positions[:-1]:
        (pruned,) = prune([made], [[position]])
        left = spoken(pruned.example, own)
        if "�" not in left:
            assert "".join(left.split()) == "".join(pruned.example.wording.instruction.split())
        assert len(pruned.example.wording.instruction) < len(QUESTION)


def test_segments_continue_the_reply_token_by_token(chat):
    own, end = chat
    made = example(own, QUESTION, REPLY, "yes")
    first, second = split_responses(own, [made], 3)
    assert own.decode(first.response[: first.prefix]) == "It is near."
    assert own.decode(second.response[: second.prefix]) == "It is near.\nSo the answer is yes."
    assert own.decode(second.target) == "\nyes" + end
    assert first.tokens == second.tokens == made.tokens


def test_variables_of_the_template_reach_examples_and_stay_with_them():
    own = tokenizer(
        QWEN.replace("assistant\n{% endif", "assistant\n{% if hint %}a {{ hint }} {% endif %}{% endif"), False
    )
    plain, hinted = (example(own, "Is it a sea?", "yes", template_kwargs=given) for given in (None, {"hint": "user"}))
    assert own.decode(hinted.prompt) == own.decode(plain.prompt) + "a user "
    again = reword(from_record(json.loads(json.dumps(as_record(hinted)))), own)
    assert again == hinted and dict(again.wording.template) == {"hint": "user"}
    (read,) = read_examples(own, [{"question": "Is it a sea?", "response": "yes"}], template_kwargs={"hint": "user"})
    assert read.prompt == hinted.prompt
