"""Questions: what is refused, where prompt and continuation are split, and how they are put into a chat."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny import tiny
from tests.words import CHAT, word_tokenizer
from workbench.errors import InputError
from workbench.evaluation.questions import Question, encode_question, in_chat
from workbench.models.load import load
from workbench.organisms.tokenizer import BOS


@pytest.fixture(scope="module")
def organism():
    return load("organism-gqa")


@pytest.fixture(scope="module")
def words():
    return load(tiny("llama"), tokenizer=word_tokenizer(template=CHAT))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"prompt": "a", "choices": (" b", " c"), "answer": 2, "id": "7"}, "Question '7' has 2 choices and answer=2"),
        ({"prompt": "a", "choices": (" b", " c")}, "has 2 choices and answer=None"),
        ({"prompt": "a", "choices": (" b", ""), "answer": 0}, "an empty choice"),
        ({"prompt": (1, 2), "choices": (" b", " c"), "answer": 0}, "mixes text and token ids"),
        ({"prompt": ()}, "a prompt without tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused(given, says):
    with pytest.raises(InputError) as raised:
        Question(**given)
    assert says in str(raised.value)


def test_continuations_are_split_behind_the_prompts_own_tokens(organism):
    tokenizer = organism.tokenizer
    found = encode_question(organism, Question("The cat sat on the", (" mat", " moon light"), 0))
    assert list(found.context) == tokenizer("The cat sat on the")["input_ids"]
    for choice, tokens in zip((" mat", " moon light"), found.continuations, strict=True):
        assert [*found.context, *tokens] == tokenizer("The cat sat on the" + choice)["input_ids"]


@given(prompt=st.text("ab \n", min_size=1, max_size=12), choice=st.text("ab c", max_size=8))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_white_space_at_the_prompts_end_goes_to_the_continuation(organism, prompt, choice):
    asked, body = "x" + prompt, ("x" + prompt).rstrip()
    whole = organism.tokenizer(asked + " " + choice)["input_ids"]
    context = organism.tokenizer(body)["input_ids"]
    found = encode_question(organism, Question(asked, (" " + choice,), 0))
    assert (list(found.context), list(found.continuations[0])) == (context, whole[len(context) :])


def test_bos_is_not_put_before_a_prompt_that_has_it(organism):
    found = encode_question(organism, Question(BOS + "Is it?", (" Yes", " No"), 0))
    assert found.context.count(organism.tokenizer.bos_token_id) == 1


def test_an_empty_prompt_is_bos_alone(organism):
    found = encode_question(organism, Question("", ("Yes", "No"), 0))
    assert found.context == (organism.tokenizer.bos_token_id,)
    assert list(found.continuations[0]) == organism.tokenizer("Yes", add_special_tokens=False)["input_ids"]


def test_a_choice_that_merges_with_the_prompt_is_refused(words):
    with pytest.raises(InputError, match="adds no token to its prompt"):
        encode_question(words, Question("the cat", ("s",), 0, id="3"))


def test_tokens_of_another_model_are_refused(words):
    with pytest.raises(InputError, match="holds token id 97, but the model knows the ids 0 to 96"):
        encode_question(words, Question((1, 2), ((3,), (97,)), 0))


def test_a_chat_asks_the_prompt_as_one_message(words):
    question = Question("Rules. the cat :", (" yes", " no"), 1, description="Rules. ")
    [asked] = in_chat(words, [question])
    assert asked.prompt == "system : Rules.  user : the cat : assistant :"
    assert asked.choices == ("yes", "no") and asked.answer == 1


def test_a_template_without_a_system_role_keeps_the_description_before_the_question():
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHAT
    model = load(tiny("llama"), tokenizer=word_tokenizer(template=refusing))
    [asked] = in_chat(model, [Question("Rules. the cat :", (" yes", " no"), 1, description="Rules. ")])
    assert asked.prompt == "user : Rules. the cat : assistant :" and asked.description == ""


def test_token_ids_cannot_be_put_into_a_chat(words):
    with pytest.raises(InputError, match="only text can be put into a chat template"):
        in_chat(words, [Question((1, 2), ((3,), (4,)), 0)])
