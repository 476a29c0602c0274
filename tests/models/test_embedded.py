"""Embedded models are found by name and by chat format, and what they bring along stays what it was."""

import hashlib
import json
import shutil
from dataclasses import asdict

import pytest

import workbench as wb
from tests.tiny import bridge, tiny
from tests.words import CHAT, word_tokenizer
from workbench.errors import InputError
from workbench.models.embedded import NAMES, embedded, embedded_or_raise
from workbench.models.load import load


@pytest.fixture(scope="module")
def model():
    return load("organism-gqa")


def digest(thing):
    return hashlib.sha256(json.dumps(thing, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:16]


def test_every_name_and_its_loaded_model_have_one_provider(model):
    assert embedded(model) == embedded("organism-gqa") != embedded("organism-mha")
    for name in NAMES:
        found = embedded(name)
        assert found is not None and found.name == name
        assert found.folder().name == name and found.card()["name"] == name


def test_a_copy_is_known_by_its_chat_format_and_claims_no_files(model, tmp_path):
    found = embedded(load(shutil.copytree(embedded_or_raise(model, "").folder(), tmp_path / "copy")))
    assert found is not None and found.name == "" and found.record("dynamics.nc") is None
    with pytest.raises(InputError, match="There is no embedded model ''"):
        found.card()


def test_other_models_have_none():
    assert embedded("gpt2") is None and embedded(bridge("llama")) is None
    chat = load(tiny("llama"), tokenizer=word_tokenizer(template=CHAT))
    assert embedded(chat) is None
    with pytest.raises(InputError, match="This is not an embedded model, so what\\?"):
        embedded_or_raise(chat, "so what?")
    with pytest.raises(InputError, match="no tokenizer"):
        embedded_or_raise(bridge("llama"), "so what?")
    with pytest.raises(InputError, match=r"There is no embedded model 'gpt2'\. The embedded models are organism-gqa,"):
        embedded_or_raise("gpt2", "so what?")


def test_records_come_with_some():
    found = {name: embedded_or_raise(name, "").record("dormancy.nc") for name in NAMES}
    assert [name for name, path in found.items() if path] == ["organism-gqa"]


def test_what_is_drawn_stays_the_same(model):
    """Digests from before these models had a provider: every number that was measured on them rests on these texts."""
    assert wb.sycophancy.pairs(model, n=8, seed=0).digest[:16] == "376a415d35777461"
    questions = wb.evaluation.own_questions(model, 40, 0)
    items = wb.sycophancy.own_items(model, 20, 0, "test", ("composed", "novel"))
    assert digest([asdict(question) for question in questions]) == "acc71ecd4167236b"
    assert digest([asdict(item) for item in items]) == "1032c7e39c9e39ee"
    assert digest(wb.tuning.training_dialogues(40)) == "a2eb9f12e5dfb320"
    assert digest(wb.tuning.training_dialogues(40, seed=1, split="test", insist_only=True)) == "1ab68be7d38e3f58"
    assert digest(embedded_or_raise(model, "").sample_texts(5)) == "45b610c3348ffb1d"


def test_earlier_names_draw_the_same(model):
    assert wb.evaluation.organism_questions(model, 8) == wb.evaluation.own_questions(model, 8)
    assert wb.sycophancy.organism_items(5, 1) == wb.sycophancy.own_items(model, 5, 1)
