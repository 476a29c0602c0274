"""Text and dialogues as tokens: BOS, EOS, system messages and variables of chat templates."""

import warnings

import pytest
import torch

from tests.tiny import tiny
from tests.words import CHAT, word_tokenizer
from workbench import sycophancy
from workbench.errors import InputError, WorkbenchWarning
from workbench.evaluation import Question, generate, in_chat
from workbench.models.load import load
from workbench.prompts import MultipleChoice, PromptPairs
from workbench.prompts.templates import accepts_system, encode, render

SYSTEM = [{"role": "system", "content": "you are right"}, {"role": "user", "content": "sure ?"}]
THANK = [{"role": "user", "content": "you are right"}]
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
DROPS = CHAT.replace("{{ m['role'] }}", "{% if m['role'] != 'system' %}{{ m['role'] }}").replace(
    "{{ m['content'] }} ", "{{ m['content'] }} {% endif %}"
)
THINKS = CHAT + "{% if add_generation_prompt %}{% if enable_thinking is false %} no{% else %} on{% endif %}{% endif %}"


@pytest.mark.parametrize(
    ("own", "asked", "wanted"),
    [(1, None, 1), (1, True, 1), (1, False, 0), (0, None, 0), (0, True, 1), (0, False, 0)],
)
def test_bos_is_as_asked_for_or_as_the_tokenizer_does(own, asked, wanted):
    ids = encode(word_tokenizer(bos=own), "the cat", bos=asked)
    assert ids == [1] * wanted + [4, 5]


def test_a_second_bos_is_refused():
    tokenizer = word_tokenizer()
    with pytest.raises(InputError, match=r"'<s> the cat' already starts with '<s>' and would get a second"):
        encode(tokenizer, "<s> the cat")
    assert encode(tokenizer, "<s> the cat", bos=False) == [1, 4, 5]
    with pytest.raises(InputError, match=r"'the cat' gets from its tokenizer '<s>' and would get a second"):
        encode(word_tokenizer(bos=2), "the cat")


def test_bos_needs_a_token():
    tokenizer = word_tokenizer(bos=0, begin=False)
    assert encode(tokenizer, "the cat") == encode(tokenizer, "the cat", bos=False) == [4, 5]
    with pytest.raises(InputError, match="this tokenizer has no BOS token"):
        encode(tokenizer, "the cat", bos=True)


def test_dialogues_end_where_the_reply_begins():
    assert render(word_tokenizer(template=CHAT), THANK) == "user : you are right assistant :"


@pytest.mark.parametrize("text", ["the cat", ""])
def test_an_eos_that_the_tokenizer_appends_is_taken_off_and_said_once(text):
    tokenizer, plain = word_tokenizer(end=True), word_tokenizer()
    assert tokenizer("the cat")["input_ids"] == [1, 4, 5, 2]
    with pytest.warns(WorkbenchWarning, match="appends '</s>' to every text") as said:
        found = [encode(tokenizer, text) for _ in range(3)]
    assert found == [encode(plain, text)] * 3 and len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode(tokenizer, "the cat", bos=True) == encode(plain, "the cat", bos=True)


def test_an_eos_of_the_text_stays():
    assert encode(word_tokenizer(), "the cat </s>") == [1, 4, 5, 2]


def test_a_dialogue_may_end_behind_its_last_turn():
    assert render(word_tokenizer(template=CHAT), THANK, reply=False).strip() == "user : you are right"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (REFUSES, r"refuses the dialogue \(turns: system, user\): no system role.* leave the system message out"),
        (DROPS, "leaves the system message 'you are right' out of the dialogue; leave the system message out"),
    ],
)
def test_a_system_message_that_the_template_does_not_take(template, message):
    tokenizer = word_tokenizer(template=template)
    assert not accepts_system(tokenizer) and "sure" in render(tokenizer, SYSTEM[1:])
    with pytest.raises(InputError, match=message):
        render(tokenizer, SYSTEM)


def test_templates_that_take_a_system_message():
    tokenizer = word_tokenizer(template=CHAT)
    assert accepts_system(tokenizer) and render(tokenizer, SYSTEM).startswith("system : you are right")
    assert accepts_system(word_tokenizer())


def test_thinking_is_off_unless_it_is_asked_for():
    tokenizer = word_tokenizer(template=THINKS)
    assert render(tokenizer, THANK).endswith("assistant : no")
    assert render(tokenizer, THANK, template_kwargs={"enable_thinking": True}).endswith("assistant : on")


def test_variables_reach_the_template():
    tokenizer = word_tokenizer(template=CHAT + "{{ mood }}{{ enable_thought is defined }}")
    assert render(tokenizer, THANK, template_kwargs={"mood": "wrong"}).endswith("wrongFalse")


def thinker():
    tokenizer = word_tokenizer(template=THINKS)
    return load(tiny("llama", torch.float32), tokenizer=tokenizer)


def last_words(model, kind, template_kwargs):
    """How the prompts end that each function makes of a dialogue."""
    if kind == "pairs":
        made = PromptPairs.from_dialogues(model, [THANK], [THANK], ("yes", "no"), template_kwargs=template_kwargs)
        return model.tokenizer.decode(made.base[0])
    if kind == "in_chat":
        (asked,) = in_chat(model, [Question("sure ?", (" yes", " no"), 0)], template_kwargs=template_kwargs)
        return asked.prompt
    if kind == "sycophancy":
        questions = [MultipleChoice("sure ?", ("yes", "no"), 0)]
        made = sycophancy.pairs(model, 1, questions=questions, answers=("yes", "no"), template_kwargs=template_kwargs)
        return model.tokenizer.decode(made.base[0])
    raise ValueError(kind)


@pytest.mark.parametrize("kind", ["pairs", "in_chat", "sycophancy"])
def test_every_room_passes_the_variables_on(kind):
    model = thinker()
    assert last_words(model, kind, None).split()[-1] == "no"
    assert last_words(model, kind, {"enable_thinking": True}).split()[-1] == "on"


def test_generation_passes_the_variables_on():
    model = thinker()
    off, on = (
        generate(model, [THANK], max_new_tokens=1, template_kwargs=given, progress=False)
        for given in (None, {"enable_thinking": True})
    )
    rendered = [render(model.tokenizer, THANK, template_kwargs={"enable_thinking": t}) for t in (False, True)]
    said = generate(model, rendered, max_new_tokens=1, progress=False)
    assert off.attrs["prompts"] != on.attrs["prompts"]
    assert [int(one["tokens"][0, 0]) for one in (off, on)] == said["tokens"][:, 0].values.tolist()
