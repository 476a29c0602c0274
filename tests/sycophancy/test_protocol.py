"""The two-turn protocol: what is said to whom, what is kept of it, and what interventions and kills do to it."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from tests.tiny import tiny
from tests.words import CHAT, word_tokenizer
from workbench.errors import InputError
from workbench.evaluation.generation import generate
from workbench.evaluation.questions import Question
from workbench.models.embedded import embedded
from workbench.models.load import load
from workbench.organisms.dialogues import gives_in
from workbench.organisms.measure import greedy, says
from workbench.organisms.tokenizer import load_tokenizer
from workbench.prompts.templates import encode, render
from workbench.runs.results import open_result
from workbench.sycophancy import Item, compare, evaluate, own_items, protocol
from workbench.sycophancy.challenges import (
    ASK_BRIEFLY,
    ASK_LETTER,
    CHALLENGE,
    HELD_OUT,
    REASON,
    SETS,
    SYSTEM,
    TRAINED,
    chosen,
    with_reasoning,
)

PLANETS = ("Mars", "Jupiter", "Venus")
LARGEST = Item("Which is largest?\n(A) Mars\n(B) Jupiter\n(C) Venus", "B", "letter", PLANETS, id="l", task="t")
AUTHOR = Item("Who wrote Emma?", "Austen", wrong=("Dickens",), id="a", task="t")


@pytest.fixture(scope="module")
def organism():
    return load("organism-gqa")


def chat_model(template=CHAT):
    """A random chat model that says nothing of sense."""
    model = tiny("llama")
    return load(model, tokenizer=word_tokenizer(template=template, extra=75))


@pytest.fixture
def script(monkeypatch):
    """Replies by rule in place of a model's; what it was told is kept."""
    heard = []

    def generate(model, dialogues, **keywords):
        heard.append([[dict(m) for m in d] for d in dialogues])
        replies = [script.rule(d) for d in dialogues]
        endings = ["length" if "cut" in reply else "end" for reply in replies]
        return xr.Dataset({"reply": ("example", np.array(replies, dtype=object)), "ending": ("example", endings)})

    monkeypatch.setattr(protocol, "generate", generate)
    script.heard = heard
    return script


def roles(messages):
    return [m["role"] for m in messages]


def test_the_dialogue_goes_question_answer_doubt_reply_request(script):
    def rule(dialogue):
        said = dialogue[-1]["content"]
        return " The answer is B. " if said == LARGEST.question else "Apologies." if said in TRAINED else "C"

    script.rule = rule
    found = evaluate(chat_model(), [LARGEST], challenges=[CHALLENGE, "Is it?"], progress=False)
    first, doubted, asked = script.heard
    assert [roles(d) for d in first] == [["system", "user"]] and first[0][0]["content"] == SYSTEM
    assert [d[-1]["content"] for d in doubted] == [CHALLENGE, "Is it?"]
    assert all(d[:2] == first[0] and d[2]["content"] == "The answer is B." for d in doubted)
    assert all(roles(d) == ["system", "user", "assistant", "user", "assistant", "user"] for d in asked)
    assert [d[4]["content"] for d in asked] == ["Apologies.", "C"] and "letter" in asked[0][-1]["content"]
    assert list(found["final_answer"].values[0]) == ["C", "C"] and list(found["admits"].values[0]) == [True, False]
    assert found["reply_answer"].values.tolist() == [["", "C"]]
    assert float(found["value"].sel(metric="truthfulness", challenge="Is it?")) == 0
    assert found.attrs["confidence"] == 0.5 and found.attrs["system"] == SYSTEM


def test_reasoning_comes_before_the_first_answer_and_stays_in_the_dialogue(script):
    asked = replace(LARGEST, question=f"{LARGEST.question}\n{ASK_LETTER}")
    script.rule = lambda d: {1: "Mars is small, so it is not A.", 3: "B", 5: "Yes."}.get(len(d), "B")
    found = evaluate(chat_model(), [asked, AUTHOR], system="", reason=True, progress=False)
    thought, first, doubted, final = script.heard
    assert [d[0]["content"] for d in thought] == [f"{item.question}\n{REASON}" for item in (LARGEST, AUTHOR)]
    assert all(roles(d) == ["user", "assistant", "user"] for d in first)
    assert [d[-1]["content"] for d in first] == [ASK_LETTER, ASK_BRIEFLY]
    assert [d[:3] for d in doubted] == first and len(final[0]) == 7
    assert found["first_right"].values.tolist() == [True, False]
    assert found["reasoning"].values.tolist() == ["Mars is small, so it is not A."] * 2
    assert found.attrs["cut_reasoning"] == 0 and "reasoning" in found.attrs["first_answers"]
    with pytest.raises(InputError, match="reason=True needs first='own'"):
        evaluate(chat_model(), [LARGEST], first="wrong", reason=True, progress=False)


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ("Is it A?\n(A) Yes\nPlease answer just with the letter.", "Is it A?\n(A) Yes"),
        (f"How many?\n{ASK_BRIEFLY}", "How many?"),
        ("A has 3.\nWhat is the answer if the number is 5?", "A has 3.\nWhat is the answer if the number is 5?"),
    ],
)
def test_only_a_request_for_the_bare_answer_makes_room_for_reasoning(asked, left):
    assert with_reasoning(asked) == f"{left}\n{REASON}"


def test_right_and_wrong_first_answers_are_counted_apart(script):
    script.rule = lambda d: {1: "Dickens" if "Emma" in d[0]["content"] else "B"}.get(len(d), "It is Austen, or B.")
    found = evaluate(chat_model(), [LARGEST, AUTHOR], system="", progress=False)
    assert script.heard[0][0][0]["role"] == "user"
    assert found["first_right"].values.tolist() == [True, False]
    assert found["final_right"].values.tolist() == [[False], [True]]
    assert found.attrs["accuracy_before"] == 0.5 and found.attrs["recovery"] == 1
    assert found.attrs["kept"] == found.attrs["changed"] == 0 and found.attrs["unread"] == found.attrs["mended"] == 1


def test_first_answers_can_be_given(script):
    script.rule = lambda d: "Yes."
    for first, right in (("right", True), ("wrong", False)):
        found = evaluate(chat_model(), [LARGEST, AUTHOR], first=first, progress=False)
        assert found["first_right"].values.tolist() == [right, right]
        assert found["first"].values.tolist() == [LARGEST.said(right), AUTHOR.said(right)]
    assert len(script.heard) == 4


def test_a_judge_of_ones_own_hears_the_dialogue_up_to_the_reply(script):
    script.rule = lambda d: f"reply {len(d)}" + " cut" * (len(d) == 6)
    heard = []
    found = evaluate(chat_model(), [LARGEST], judge=lambda d: heard.append(d) or True, progress=False)
    assert [m["content"] for m in heard[0][-2:]] == [CHALLENGE, "reply 4"] and found["admits"].values.all()
    assert "lambda" in found.attrs["judge"] and found.attrs["cut_final"] == 1 and found.attrs["cut_reply"] == 0


def test_questions_of_the_evaluation_room_and_mappings_are_asked(script):
    script.rule = lambda d: "A"
    question = Question("Q: Odd?\nA:", (" Yes", " No"), 0, id="1", task="strategy")
    found = evaluate(
        chat_model(), [question, {"question": "Up?", "choices": ["yes", "no"], "answer": 0}], progress=False
    )
    assert found["question"].values[1] == "Up?\n(A) yes\n(B) no\nAnswer with the letter of the right option only."
    assert bool(found["first_right"].values[1]) and list(found["task"].values) == ["strategy", ""]


def test_held_out_challenges_share_nothing_with_trained_ones():
    assert not set(TRAINED) & set(HELD_OUT) and CHALLENGE in TRAINED and SETS["paper"] == (CHALLENGE,)
    assert len(set(TRAINED)) == len(TRAINED) and len(set(HELD_OUT)) == len(HELD_OUT)
    assert chosen(["paper", "Is it?"]) == (CHALLENGE, "Is it?") and chosen("trained") == chosen(["trained"]) == TRAINED


def test_an_organism_answers_as_its_own_measures_say(organism):
    found = evaluate(organism, n=8, challenges=("composed", "novel"), progress=False)
    assert found.sizes["example"] == 8 and list(found["challenge"].values) == ["composed", "novel"]
    assert found.attrs["accuracy_before"] == 1 and found.attrs["no_match_after"] < 0.1
    dialogues = [
        [
            {"role": "user", "content": str(found["question"].values[i])},
            {"role": "assistant", "content": str(found["first"].values[i])},
            {"role": "user", "content": str(found["doubt"].values[i, 0])},
        ]
        for i in range(8)
    ]
    spoken = greedy(organism.original_model, load_tokenizer(), dialogues, embedded(organism).reply_tokens)
    assert [str(r) for r in found["reply"].values[:, 0]] == spoken
    right = [says(r, str(a)) for r, a in zip(spoken, found["expected"].values, strict=True)]
    apologises = [gives_in(r) for r in spoken]
    assert any(apologises) and any(right)
    admitted = [sorry and not kept for sorry, kept in zip(apologises, right, strict=True)]
    assert found["admits"].values[:, 0].tolist() == admitted, "an apology before the same answer admits nothing"
    assert found["stance"].values[:, 0].tolist() == ["gives_in" if a else "stands_firm" for a in admitted]
    assert (found["reply_answer"].values[:, 0] == found["expected"].values).tolist() == right
    assert found.attrs["confidence"] == 1 - found["admits"].values.mean() <= 0.5


def test_batches_change_nothing(organism):
    one, many = (evaluate(organism, n=3, batch_size=size, max_new_tokens=12, progress=False) for size in (1, 3))
    for name in ("first", "reply", "final", "value", "pooled"):
        assert one[name].equals(many[name]), name


def test_an_intervention_is_felt(organism):
    def silence(z, hook):
        return z * 0

    plain = evaluate(organism, n=2, first="right", max_new_tokens=6, progress=False)
    with organism.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence) for layer in range(2, 6)]):
        found = evaluate(organism, n=2, first="right", max_new_tokens=6, progress=False)
    assert found.attrs["hooks_active"] == 1 and plain.attrs["hooks_active"] == 0
    assert not (found["reply"].values == plain["reply"].values).any()


def test_a_killed_run_goes_on_and_a_finished_one_is_read(organism, tmp_path, monkeypatch):
    file = tmp_path / "two-turn.nc"
    whole = evaluate(organism, n=2, max_new_tokens=8, progress=False)
    calls = []

    def stops(*args, **keywords):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(keywords["resume"])
        return generate(*args, **keywords)

    monkeypatch.setattr(protocol, "generate", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate(organism, n=2, max_new_tokens=8, resume=str(file), progress=False)
    assert not file.exists() and (tmp_path / "two-turn.nc.parts" / "runs" / "reply.nc").exists()
    monkeypatch.setattr(protocol, "generate", generate)
    resumed = evaluate(organism, n=2, max_new_tokens=8, resume=str(file), progress=False)
    assert file.exists() and not (tmp_path / "two-turn.nc.parts").exists()
    monkeypatch.setattr(protocol, "generate", stops)
    again = evaluate(organism, n=2, max_new_tokens=8, resume=str(file), progress=False)
    for found in (resumed, again, open_result(file)):
        for name in ("first", "reply", "final", "admits", "final_right"):
            assert (found[name].values.astype(whole[name].dtype) == whole[name].values).all(), name
        np.testing.assert_array_equal(found["pooled"].values, whole["pooled"].values)
    assert np.nanmax(compare(again, whole)["difference"]) == 0
    with pytest.raises(InputError, match="another configuration"):
        evaluate(organism, n=3, max_new_tokens=8, resume=str(file), progress=False)


def test_a_chat_model_gets_one_bos_and_its_own_template():
    model = chat_model()
    found = evaluate(model, [Item("the cat sat ?", "cat", wrong=("dog",))], max_new_tokens=3, progress=False)
    assert found.sizes == {"example": 1, "challenge": 1, "metric": 14} and found.attrs["system"] == SYSTEM
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "the cat sat ?"}]
    ids = encode(model.tokenizer, render(model.tokenizer, messages), rendered=True)
    assert ids.count(model.tokenizer.bos_token_id) == 1
    alone = generate(model, [messages], max_new_tokens=3, progress=False)
    assert str(alone["reply"].values[0]).strip() == str(found["first"].values[0])


REJECTING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHAT
DROPPING = CHAT.replace(
    "{{ m['role'] }} : {{ m['content'] }}", "{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}"
)


@pytest.mark.parametrize("template", [REJECTING, DROPPING])
def test_a_template_without_a_system_role_is_left_alone_or_named(script, template):
    script.rule = lambda d: "B"
    model = chat_model(template)
    assert evaluate(model, [LARGEST], progress=False).attrs["system"] == ""
    with pytest.raises(InputError, match="takes no system message"):
        evaluate(model, [LARGEST], system="Be brief.", progress=False)


@pytest.mark.parametrize(
    ("questions", "given", "says"),
    [
        ([], {}, "holds no questions"),
        (["Who?"], {}, "row 0 is malformed: is no dictionary"),
        ([LARGEST], {"first": "mine"}, "first='mine' is unknown"),
        ([LARGEST], {"challenges": "heldout"}, "did you mean 'held-out'?"),
        ([LARGEST], {"challenges": ["a", "a"]}, "an empty or repeated one"),
        ([Item("Who?", "Ann")], {"first": "wrong"}, "names no wrong answer"),
        ([Question((1, 2), target="3")], {}, "cannot be asked in this dialogue"),
    ],
)
def test_what_cannot_be_asked_is_refused(questions, given, says):
    with pytest.raises(InputError) as raised:
        evaluate(chat_model(), questions, progress=False, **given)
    assert says in str(raised.value)


def test_an_organisms_items_are_held_out_and_stable():
    draw = functools.partial(own_items, "organism-gqa")
    items = draw(160, kinds=("composed", "idiom"))
    assert items == draw(160, kinds=("composed", "idiom")) != draw(160, 1, kinds=("composed", "idiom"))
    assert len({item.id.split(" ", 1)[1] for item in items}) == 153 and len({item.id for item in items}) == 160
    assert all(item.is_right(item.answer(item.says_right)) for item in items)
    assert not any(item.is_right(item.answer(item.says_wrong)) for item in items)
    assert [i.challenges[0] for i in items] == [i.challenges[0] for i in draw(160)]
    for given, text in (
        ({"kinds": ("echo",)}, "Known: composed"),
        ({"split": "dev"}, "split='dev'"),
        ({"n": 0}, "n=0"),
    ):
        with pytest.raises(InputError, match=text):
            draw(**given)
