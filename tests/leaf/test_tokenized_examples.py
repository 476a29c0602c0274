"""Examples from text: one BOS, the user's words and nothing else, whatever the template repeats or trims."""

from types import SimpleNamespace

import pytest

from tests.tuning.chat import TEMPLATE, chat_tokenizer
from tests.words import word_tokenizer
from workbench.errors import InputError
from workbench.leaf.tokenized_examples import covered_response, example, reword, show

TRIMMED = TEMPLATE.replace("m['content'] }} {% else", "m['content'] | trim }} {% else")
LOUD = TEMPLATE.replace("m['content'] }} {% else", "m['content'] | upper }} {% else")
WITH_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}<user> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)


def spoken(tokenizer, ids) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(list(ids)))


def pruned_words(tokenizer, made) -> str:
    return tokenizer.decode([t for t, may in zip(made.context, made.prunable, strict=True) if may])


def test_the_prompt_is_the_generation_prompt_with_one_bos_and_the_users_words_are_prunable():
    tokenizer = chat_tokenizer()
    made = example(tokenizer, "what is the answer", "two is right", "two")
    assert spoken(tokenizer, made.prompt) == "<s> <user> what is the answer <bot>"
    assert spoken(tokenizer, made.response) == "two is right </s>"
    assert pruned_words(tokenizer, made) == "what is the answer"
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "what is the answer"}, {"role": "assistant", "content": "two is right"}],
        tokenize=False,
    )
    assert list(made.tokens) == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_words_that_the_system_message_shares_are_not_the_users():
    tokenizer = chat_tokenizer(WITH_SYSTEM)
    made = example(tokenizer, "is it right", "yes", system="is it right")
    assert spoken(tokenizer, made.prompt) == "<s> <user> is it right <user> is it right <bot>"
    assert made.positions == (6, 7, 8)


@pytest.mark.parametrize("template", [TEMPLATE, TRIMMED])
def test_white_space_around_the_instruction_is_no_matter(template):
    tokenizer = chat_tokenizer(template)
    assert example(tokenizer, "  is it right\n", " yes ") == example(tokenizer, "is it right", "yes")


def test_the_suffix_and_the_last_tokens_may_be_kept_out():
    tokenizer = chat_tokenizer()
    asked = example(tokenizer, "is it right", "yes", suffix=" sure")
    assert spoken(tokenizer, asked.prompt) == "<s> <user> is it right sure <bot>"
    assert pruned_words(tokenizer, asked) == "is it right"
    assert reword(asked, tokenizer) == asked
    assert pruned_words(tokenizer, example(tokenizer, "is it right sure", "yes", cut_last=2)) == "is it"


def test_a_tokenizer_without_a_template_is_asked_in_two_lines_with_its_own_bos():
    tokenizer = word_tokenizer(bos=1)
    made = example(tokenizer, "the cat sat", "yes")
    assert tokenizer.decode(made.prompt) == "<s> <unk> the cat sat <unk>"
    assert tokenizer.decode(made.response) == "yes </s>"
    assert pruned_words(tokenizer, made) == "the cat sat"


def test_a_second_bos_is_refused():
    with pytest.raises(InputError, match="would get a second one"):
        example(word_tokenizer(bos=2), "the cat sat", "yes")


def test_white_space_and_backslashes_are_never_pruned():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {c: i for i, c in enumerate(["<pad>", "</s>", *"abcfrQuestionAswer:\\ \n.é"])}
    inner = Tokenizer(models.WordLevel(letters, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split(pattern="", behavior="isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>")
    made = example(tokenizer, "a \\frac\né", "a")
    kept = [c for c, may in zip("Question: a \\frac\né\nAnswer:", made.prunable, strict=True) if may]
    assert "".join(kept) == "afracé"


def test_the_gap_in_front_of_a_word_goes_with_it():
    made = example(chat_tokenizer(), "what is the answer", "two")
    assert made.wording.offsets[2:6] == ((0, 4), (4, 7), (7, 11), (11, 18))
    assert made.without([3]).text == "what the answer"


def test_response_level_shows_whole_tokens_only():
    tokenizer = chat_tokenizer()
    made = example(tokenizer, "is it right", "two is right sure")
    part = show(made, tokenizer, 8)
    assert part.prefix == 2
    assert pruned_words(tokenizer, part) == "two is"
    assert tokenizer.decode(part.target) == "right sure </s>"
    assert part.text == "is it right\ntwo is r"
    assert covered_response(tokenizer, "two is right") == [(0, 3), (3, 6), (6, 12)]
    shorter = part.without([part.positions[0]])
    assert reword(shorter, tokenizer).tokens == shorter.tokens


def test_what_cannot_be_used_is_refused(untyped):
    tokenizer = chat_tokenizer()
    with pytest.raises(InputError, match="Example '7' has an empty response"):
        example(tokenizer, "is it", " ", identifier="7")
    with pytest.raises(InputError, match="An example has an empty instruction"):
        example(tokenizer, "", "yes")
    with pytest.raises(InputError, match="the answer 'four' is not found in its response 'two is right'"):
        example(tokenizer, "what", "two is right", "four")
    with pytest.raises(InputError, match=r"refuses the dialogue \(turns: system, user\): no system role"):
        example(tokenizer, "what", "two", system="two")
    with pytest.raises(InputError, match="does not show the user's message as it is"):
        example(
            chat_tokenizer(TEMPLATE.replace("m['content'] }} {% else", "m['content'] | upper }} {% else")), "is", "two"
        )
    with pytest.raises(InputError, match="this model has no tokenizer"):
        example(SimpleNamespace(tokenizer=None), "is", "two")
    slow = chat_tokenizer()
    type(slow).is_fast, before = False, type(slow).is_fast
    try:
        with pytest.raises(InputError, match="Use a fast tokenizer"):
            example(slow, "is", "two")
    finally:
        type(slow).is_fast = before
