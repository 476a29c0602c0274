import datasets
import pytest

from tests.sycophancy.test_sets import CHOICE, FREE, lines
from workbench.errors import InputError
from workbench.prompts.rows import rows_from
from workbench.sycophancy import load_set


@pytest.fixture
def hub(monkeypatch):
    """A Hub that holds two rows in every set, and what it was asked for."""
    asked = []

    def load_dataset(name, **given):
        asked.append((name, given))
        if name.startswith("nobody/"):
            raise FileNotFoundError("Couldn't find any data file\nat all")
        rows = datasets.Dataset.from_list([CHOICE, CHOICE])
        splits = ("train", "test") if name.endswith("/split") else ("train",)
        return rows if given["split"] else datasets.DatasetDict(dict.fromkeys(splits, rows))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("source", "name", "file", "revision", "split"),
    [
        ("owner/set", "owner/set", None, None, None),
        ("owner/set/are_you_sure.jsonl", "owner/set", "are_you_sure.jsonl", None, "train"),
        ("owner/set@v1.0/deep/file.jsonl", "owner/set", "deep/file.jsonl", "v1.0", "train"),
        ("owner/split:test", "owner/split", None, None, "test"),
    ],
)
def test_a_set_on_the_hub_is_read_as_a_local_one(hub, tmp_path, source, name, file, revision, split):
    found = load_set(source)
    assert hub == [(name, {"data_files": file, "revision": revision, "split": split})]
    assert found == load_set(lines(tmp_path / "rows.jsonl", CHOICE, CHOICE))


def test_several_splits_are_named(hub):
    with pytest.raises(
        InputError, match="holds the splits train, test; give one of them, on the Hub as OWNER/NAME:SPLIT"
    ):
        load_set("owner/split")


def test_what_the_hub_does_not_give_is_told(hub):
    with pytest.raises(InputError, match="the Hub gives no such set: Couldn't find any data file Check the name"):
        load_set("nobody/nothing")


@pytest.mark.parametrize("source", ("nothing.jsonl", "/nowhere/at/all.jsonl"))
def test_a_path_that_is_no_name_either_asks_nobody(hub, source):
    with pytest.raises(InputError, match=r"There is no file '\w+.jsonl'. Give a local file"):
        load_set(source)
    assert not hub


def test_rows_keep_their_place(tmp_path):
    lines(tmp_path / "a.jsonl", CHOICE)
    lines(tmp_path / "b.jsonl", FREE, FREE)
    assert [row.where for row in rows_from(tmp_path)] == ["a.jsonl, line 1", "b.jsonl, line 1", "b.jsonl, line 2"]
    assert [row.where for row in rows_from([CHOICE, 3])] == ["row 0", "row 1"]
