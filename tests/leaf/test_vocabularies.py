"""Two models must read the same ids, or be compared by the characters of the text."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny
from tests.tuning.chat import SPECIAL, TEMPLATE, WORDS, chat_tokenizer
from tests.words import word_tokenizer
from workbench.errors import InputError
from workbench.leaf.examples import Example
from workbench.leaf.scoring import sensitivity
from workbench.leaf.tokenized_examples import example
from workbench.leaf.views import View
from workbench.leaf.vocabularies import check_shared, teacher_examples
from workbench.models.anatomy import anatomy
from workbench.models.load import load


def model(tokenizer=None, family="llama", seed=0):
    return load(tiny(family, torch.float64, seed), tokenizer=tokenizer)


def letters_tokenizer():
    """One token per character, and the template's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = [*SPECIAL, "<unk>", *sorted(set("".join(WORDS) + " "))]
    inner = Tokenizer(models.WordLevel({c: i for i, c in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(pattern="", behavior="isolated")
    own = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<bot>"],
    )
    own.chat_template = TEMPLATE
    return own


def test_equal_tokenizers_pass_and_rows_of_padding_are_no_matter():
    some = [Example((1, 4, 5), (6, 2), (False, True, True))]
    check_shared(model(word_tokenizer(extra=3)), model(word_tokenizer(extra=70)), some)
    assert teacher_examples(model(), model(), some) is None


def test_different_vocabularies_are_refused_by_their_first_ids():
    some = [Example((1, 4, 5), (6, 2), (False, True, True))]
    text = (
        r"different vocabularies: \d+ of the first 20 ids stand for different tokens, such as "
        r"3 \('<unk>' and '<user>'\), 4 \('the' and '<bot>'\), "
        r"5 \('cat' and '<unk>'\)\. Take models of one family, or align='characters'"
    )
    with pytest.raises(InputError, match=text):
        sensitivity(model(word_tokenizer()), model(chat_tokenizer()), some, progress=False)
    with pytest.raises(InputError, match="align='words' is unknown"):
        sensitivity(model(), model(), some, align="words", progress=False)


def test_the_same_tokenizer_aligned_by_characters_gives_the_same_scores():
    tokenizer = chat_tokenizer()
    student, teacher = model(tokenizer), model(tokenizer, seed=7)
    some = [example(student, "what is the answer two", "three is right"), example(student, "is it wrong", "no")]
    names = ["gradient_difference", "raw_gradient_difference", "attention_difference"]
    by_ids, by_text = (
        sensitivity(student, teacher, some, scores=names, align=align, progress=False)
        for align in ("ids", "characters")
    )
    np.testing.assert_allclose(by_ids["sensitivity"], by_text["sensitivity"], atol=1e-9)


def test_a_teacher_of_letters_gives_each_word_the_mean_of_its_letters():
    student, teacher = model(chat_tokenizer()), model(letters_tokenizer(), seed=7)
    made, spelled = example(student, "what is it", "yes"), example(teacher, "what is it", "yes")
    found = sensitivity(student, teacher, [made], scores=["teacher_gradient"], align="characters", progress=False)
    shown = View(teacher, anatomy(teacher), [spelled]).gradient[0].numpy()
    assert teacher.tokenizer.decode(spelled.prompt).replace(" ", "").startswith("<s><user>whatisit")
    first = spelled.positions[0]
    wanted = [shown[first + a : first + b].mean() for a, b in ((0, 4), (4, 7), (7, 10))]
    np.testing.assert_allclose(found["sensitivity"].values[0, 0, list(made.positions)], wanted, atol=1e-9)


def test_examples_without_text_cannot_be_aligned():
    some = [Example((1, 4, 5), (6, 2), (False, True, True), identifier="a")]
    with pytest.raises(InputError, match="Example 'a' has token ids and no text"):
        sensitivity(model(chat_tokenizer()), model(letters_tokenizer()), some, align="characters", progress=False)
