"""Fetching real models: the cache, the two sources in their order, and errors that say why neither answered."""

import json
import zipfile

import pytest

from workbench.errors import InputError
from workbench.models import fetch as module
from workbench.models.fetch import CARD, REAL_MODELS, RealModel, cache_folder, fetch

NAME = "smollm2-135m-instruct"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def card_of(folder):
    return json.loads((folder / CARD).read_text())


def filled(folder):
    folder.mkdir(parents=True)
    (folder / CARD).write_text(json.dumps({"name": NAME, "weights": "made up"}))
    return folder


def test_the_cache_is_the_environment_s_or_the_user_s(cache, monkeypatch):
    assert cache_folder() == cache
    monkeypatch.delenv("WORKBENCH_CACHE")
    assert cache_folder().name == "workbench"


def test_what_is_there_is_not_fetched_again(cache, monkeypatch):
    monkeypatch.setattr(module, "SOURCES", ())
    folder = filled(cache / NAME)
    assert fetch(NAME) == folder
    assert card_of(folder) == {"name": NAME, "weights": "made up"}


def test_unknown_names_get_the_nearest_one(cache):
    with pytest.raises(InputError, match=f"no model 'smollm2-135m' to fetch; did you mean '{NAME}'"):
        fetch("smollm2-135m")


def test_the_first_source_that_answers_is_kept_with_its_card(cache, monkeypatch):
    asked = []

    def down(model, made, scratch):
        asked.append("down")
        return "no route"

    def up(model, made, scratch):
        made.mkdir()
        (made / "config.json").write_text("{}")
        return None

    monkeypatch.setattr(module, "SOURCES", (("the Hub", down), ("the package index", up)))
    folder = fetch(NAME)
    assert asked == ["down"] and (folder / "config.json").is_file()
    card = card_of(folder)
    assert card["name"] == NAME and "package index" in card["source"] and card["licence"] == "Apache-2.0"
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == [NAME]


def test_neither_source_gives_one_error_with_both_reasons_and_leaves_nothing(cache, monkeypatch):
    monkeypatch.setattr(
        module, "SOURCES", (("the Hub", lambda *_: "offline mode is on"), ("the package index", lambda *_: "no route"))
    )
    with pytest.raises(InputError, match=r"cannot be fetched. the Hub: offline mode is on; the package index: no r"):
        fetch(NAME)
    assert not (cache / NAME).exists()
    assert all(path.name.endswith(".lock") for path in cache.iterdir())


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"Cannot write to the cache .* Set WORKBENCH_CACHE"):
        fetch(NAME)


def test_a_wheel_of_another_hash_is_refused(tmp_path):
    wheel = tmp_path / "one.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("inside/model.gguf", "no model")
    wrong = RealModel("hub", "one", "1", "0" * 64, "inside/model.gguf", "MIT")
    assert "hash" in module.unpacked(wrong, wheel, tmp_path)
    assert not (tmp_path / "model.gguf").exists()


def test_every_real_model_is_pinned():
    for model in REAL_MODELS.values():
        assert len(model.sha256) == 64 and model.version and model.member.endswith(".gguf")
