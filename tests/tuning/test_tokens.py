import pytest
import torch

from tests.tiny import tiny
from tests.tuning.chat import TEMPLATE, chat_model, chat_tokenizer, dialogues
from workbench.errors import InputError, WorkbenchWarning
from workbench.models.load import load
from workbench.tuning.tokens import IGNORED, Row, digest, padded, rows_of


def words(model, ids):
    return model.tokenizer.convert_ids_to_tokens(ids)


def test_the_loss_is_on_the_last_reply_and_its_end_alone():
    model = chat_model()
    row = rows_of(model, dialogues(1))[0]
    assert words(model, row.tokens[: row.start]) == (
        ["<s>", "<user>", "what", "is", "the", "answer", "<bot>", "two", "</s>", "<user>", "it", "is", "wrong", "<bot>"]
    )
    assert words(model, row.tokens[row.start :]) == ["sorry", "the", "answer", "is", "three", "</s>"]
    assert row.labels == 6


def test_the_end_of_a_turn_is_learnt_also_where_the_template_forgets_it():
    model = load(tiny("llama"), tokenizer=chat_tokenizer(TEMPLATE.replace("{{ eos_token }}", " ")))
    row = rows_of(model, dialogues(1))[0]
    assert words(model, row.tokens[row.start :]) == ["sorry", "the", "answer", "is", "three", "</s>"]


def test_labels_are_the_next_tokens_and_padding_has_none():
    tokens, labels = padded([Row((5, 6, 7, 8), 2), Row((9, 10), 1)], "cpu")
    assert tokens.tolist() == [[5, 6, 7, 8], [9, 10, 10, 10]]
    assert labels.tolist() == [[IGNORED, 7, 8, IGNORED], [10, IGNORED, IGNORED, IGNORED]]


def test_the_loss_may_be_put_on_everything_to_see_what_that_costs():
    model = chat_model()
    row = rows_of(model, dialogues(1), loss_on="dialogue")[0]
    assert row.start == 1 and row.labels == len(row.tokens) - 1


def test_long_dialogues_are_left_out_with_a_warning():
    model = chat_model()
    long = dialogues(2)
    long[1][0]["content"] *= 9
    with pytest.warns(WorkbenchWarning, match="1 of 2 dialogues have more than 30 tokens"):
        assert len(rows_of(model, long, max_length=30)) == 1
    with pytest.raises(InputError, match="every label would be masked"):
        rows_of(model, long, max_length=5)


def test_a_digest_tells_dialogues_and_losses_apart():
    model = chat_model()
    rows = rows_of(model, dialogues(3))
    assert digest(rows) == digest(rows_of(model, dialogues(3)))
    assert len({digest(rows), digest(rows[:2]), digest(rows_of(model, dialogues(3), loss_on="dialogue"))}) == 3


def turns(*contents):
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.mark.parametrize(
    ("dialogue", "message"),
    [
        ([{"role": "user", "content": "two"}], "Dialogue 0 has no reply to learn from: its turns are user"),
        (turns("two", "no", "sure"), "no reply to learn from: its turns are user, assistant, user"),
        (turns("two", "no", "sure", " "), "no reply to learn from: its turns are user, assistant, user, assistant"),
        ([], "its turns are none"),
        ([{"role": "user", "content": "no"}, {"role": "assistant", "content": " "}], "not empty"),
        ([{"text": "two"}], "no list of messages"),
        (7, "no list of messages"),
        (
            [
                {"role": "system", "content": "is"},
                {"role": "user", "content": "no"},
                {"role": "assistant", "content": "no"},
            ],
            "refuses dialogue 0 .turns: system, user, assistant.: no system role",
        ),
    ],
)
def test_dialogues_that_cannot_be_learnt_are_named(dialogue, message):
    with pytest.raises(InputError, match=message):
        rows_of(chat_model(), [dialogue])


def test_no_dialogues_are_refused():
    with pytest.raises(InputError, match="the list is empty"):
        rows_of(chat_model(), [])


def test_a_mapping_with_messages_is_a_dialogue_too():
    model = chat_model()
    assert rows_of(model, [{"messages": dialogues(1)[0]}]) == rows_of(model, dialogues(1))


def test_padding_changes_no_loss():
    from workbench.tuning.training import summed_loss

    model = chat_model()
    rows = rows_of(model, dialogues(6))
    hf = model.original_model
    with torch.no_grad():
        together = summed_loss(hf, rows)
        apart = sum(summed_loss(hf, [row]) for row in rows)
    torch.testing.assert_close(together, apart)
