"""Files are whole or absent, attributes survive, and every text can be written."""

import json
import os
import sys

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.runs.files import check_writable, write_atomic, write_text
from workbench.runs.results import open_result, provenance, save_result, text_array


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "contribution": (("metric", "layer"), rng.normal(size=(2, 3))),
            "chosen": ("layer", [True, False, True]),
            "total": 1.5,
            "count": ("layer", np.arange(3)),
            "text": ("layer", ["a", "", "é"]),
            "empty": ("example", np.zeros(0)),
        },
        {"metric": ["logit_diff", "prob"]},
        {"model": "organism-gqa"},
    )


def test_a_dataset_comes_back_identical_and_its_file_is_closed(dataset, tmp_path):
    path = save_result(dataset, tmp_path / "new" / "folder" / "result.nc")
    loaded = open_result(path)
    xr.testing.assert_identical(loaded, dataset)
    assert {name: v.dtype for name, v in loaded.items()} == {name: v.dtype for name, v in dataset.items()}
    path.unlink()
    assert float(loaded["contribution"].sum()) == float(dataset["contribution"].sum())


ATTRS = {
    "text": "é",
    "empty_text": "",
    "number": 3,
    "fraction": 0.1,
    "many": ["a", "b"],
    "one": ["a"],
    "none": [],
    "one_number": [7],
    "numbers": [1, 2],
    "fractions": [0.5, 1.5],
    "mixed": ["a", 1, 2.5, None],
    "nested": [[0, 1], [2, 3]],
    "looks_like_json": '["a"]',
}


def test_attributes_keep_their_types(dataset, tmp_path):
    dataset.attrs = dict(ATTRS)
    dataset["total"].attrs = {"answers": ["Yes"]}
    loaded = open_result(save_result(dataset, tmp_path / "result.nc"))
    assert loaded.attrs == ATTRS
    assert {key: type(value) for key, value in loaded.attrs.items()} == {k: type(v) for k, v in ATTRS.items()}
    assert loaded["total"].attrs == {"answers": ["Yes"]}
    assert dataset.attrs == ATTRS, "saving must not change the caller's Dataset"


def test_provenance_is_plain_and_says_what_made_the_result(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [f"{tmp_path}/bin/workbench", "report", f"--out={tmp_path}/page", "--n", "3"])
    made = provenance(
        model="m",
        revision=None,
        exact=True,
        seeds=(0, 1),
        hook={"name": "z", "n": np.int64(2)},
        folder=tmp_path / "weights",
        threshold=np.float32(0.5),
        dtype=np.dtype("float64"),
        huge=2**70,
    )
    assert made["command"] == "workbench report --out=page --n 3"
    assert (made["revision"], made["exact"], made["seeds"]) == ("", 1, [0, 1])
    assert type(made["exact"]) is int
    assert json.loads(made["hook"]) == {"name": "z", "n": 2}
    assert (made["folder"], made["threshold"], made["dtype"]) == ("weights", 0.5, "float64")
    assert made["huge"] == str(2**70)
    assert made["xarray_version"] == xr.__version__
    assert made["date"].endswith("+00:00")
    assert str(tmp_path) not in json.dumps(made)


def test_facts_overrule_what_is_found_out():
    assert provenance(command="by hand")["command"] == "by hand"


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(dataset, tmp_path, monkeypatch):
    path = save_result(dataset, tmp_path / "result.nc")

    def half_written(file, _whole):
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", half_written)
    with pytest.raises(InputError, match=r"Cannot write .*result\.nc \(No space left on device\)\..*another place"):
        save_result(dataset.isel(layer=[0]), path)
    monkeypatch.undo()
    xr.testing.assert_identical(open_result(path), dataset)
    assert [file.name for file in tmp_path.iterdir()] == ["result.nc"]


@pytest.mark.parametrize(
    "attrs",
    [
        {"": 1, "a/b": 2, ".": 3, "units": "days since 2000", "scale_factor": "x", "_FillValue": 1, "CLASS": "y"},
        {"name " * 50: [1, 2], "long": "x" * 100_000, "many": [1.5] * 20_000, "huge": [2**64, 1]},
        {f"k{i}": i for i in range(1000)},
    ],
    ids=["names", "sizes", "number"],
)
def test_no_attribute_is_too_odd_to_be_kept(dataset, tmp_path, attrs):
    dataset.attrs = dict(attrs)
    dataset["contribution"].attrs = dict(attrs)
    loaded = open_result(save_result(dataset, tmp_path / "result.nc"))
    assert loaded.attrs == attrs == loaded["contribution"].attrs
    xr.testing.assert_identical(loaded, dataset)


def test_what_has_no_text_is_kept_as_text(dataset, tmp_path):
    odd = {"a\0b\ud800": b"\xff", 7: 1j, "call": print}
    mixed = dataset.assign(mixed=("layer", np.array([1, "a\0", None], dtype=object))).assign_attrs(odd)
    loaded = open_result(save_result(mixed, tmp_path / "result.nc"))
    assert loaded["mixed"].values.tolist() == ["1", "a\ufffd", ""]
    assert {key: type(loaded.attrs[key]) for key in ("a\ufffdb\ufffd", "7", "call")} == dict.fromkeys(
        ("a\ufffdb\ufffd", "7", "call"), str
    )


@pytest.mark.parametrize("name", ["a/b", "", 5, "\ud800"])
def test_a_variable_that_no_file_can_name_is_one_clear_error(dataset, tmp_path, name):
    with pytest.raises(InputError, match=r"cannot be kept as netCDF .*text without a slash"):
        save_result(dataset.assign({name: 1.0}), tmp_path / "result.nc")
    assert list(tmp_path.iterdir()) == []


def test_a_place_inside_a_file_is_refused(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    for call in (lambda p: save_result(dataset, p / "result.nc"), check_writable):
        with pytest.raises(InputError, match=r"Cannot write .*file.*(Not a directory|File exists)"):
            call(tmp_path / "file")


def test_a_read_only_folder_is_refused_with_its_cause(dataset, tmp_path, monkeypatch):
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
    else:  # permissions do not bind the superuser

        def refuse(*_args, **_kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.touch", refuse)
        monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    for call in (lambda p: save_result(dataset, p / "result.nc"), check_writable):
        with pytest.raises(InputError, match=r"Cannot write .*locked.*\(Permission denied\).*read-only") as caught:
            call(folder)
        assert isinstance(caught.value.__cause__, OSError)


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    folder = check_writable(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


def _cut(content):
    return content[: len(content) // 2]


def _flip_data(content):
    where = content.index(np.float64(0.123456789).tobytes())
    return content[:where] + bytes([content[where] ^ 0xFF]) + content[where + 1 :]


@pytest.mark.parametrize("damage", [_cut, _flip_data, lambda _: b"", lambda _: b"not netCDF" * 100])
def test_a_damaged_file_is_refused(dataset, tmp_path, damage):
    dataset["contribution"][0, 0] = 0.123456789
    path = save_result(dataset, tmp_path / "result.nc")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"result\.nc \(\d+ bytes\) cannot be read as netCDF.*Delete it and run"):
        open_result(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.nc: no such file"):
        open_result(tmp_path / "gone.nc")
    with pytest.raises(InputError, match="a folder, not a file"):
        open_result(tmp_path)


BAD = "a\0b\ud800c\udc80"
GOOD = "a\ufffdb\ufffdc\ufffd"


def test_texts_that_no_file_holds_are_replaced(tmp_path):
    reply = np.array(["fine", "a\0b"], dtype=object)
    result = xr.Dataset(
        {
            "reply": ("example", reply),
            "word": ("example", np.array(["ok", BAD])),
            "one": BAD,
            "n": ("example", [1, 2]),
        },
        {"example": ["x", "a\0b"], "at": ("example", reply)},
        {"system": BAD, "stop": [BAD, "fine"], "nested": {"stop": [BAD]}, "numbers": [1, 2]},
    )
    result["n"].attrs["unit"] = BAD
    before = result.copy(deep=True)
    loaded = open_result(save_result(result, tmp_path / "result.nc"))
    for name, wanted in (("reply", "a\ufffdb"), ("at", "a\ufffdb"), ("example", "a\ufffdb"), ("word", GOOD)):
        assert loaded[name].values.tolist()[1] == wanted, name
        assert loaded[name].values.tolist()[0] in ("fine", "ok", "x")
    assert loaded["one"].item() == GOOD
    assert set(loaded.coords) == {"example", "at"}
    assert loaded.attrs == {
        "system": GOOD,
        "stop": [GOOD, "fine"],
        "nested": json.dumps({"stop": [GOOD]}),
        "numbers": [1, 2],
    }
    assert loaded["n"].attrs == {"unit": GOOD}
    xr.testing.assert_identical(result, before)


def test_arrays_of_texts_are_made_without_them():
    """xarray takes no object array with lone surrogates at all."""
    assert xr.Dataset({"reply": ("example", text_array(["fine", BAD]))})["reply"].values.tolist() == ["fine", GOOD]
    assert text_array([["a", BAD], ["", "b"]]).tolist() == [["a", GOOD], ["", "b"]]


def test_home_is_expanded(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert save_result(dataset, "~/out/result.nc") == tmp_path / "home" / "out" / "result.nc"
    xr.testing.assert_identical(open_result("~/out/result.nc"), dataset)
    assert write_text("~/note.txt", "é").read_text(encoding="utf-8") == "é"
    assert check_writable("~/new") == tmp_path / "home" / "new"
    assert [file.name for file in tmp_path.iterdir()] == ["home"]


def test_a_folder_is_whole_or_absent(tmp_path):
    def whole(folder):
        folder.mkdir()
        (folder / "a").write_text("a")

    def killed(folder):
        whole(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"Cannot write .*made \(No space left on device\)\."):
        write_atomic(tmp_path / "made", killed)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "made").mkdir()
    write_atomic(tmp_path / "made", whole)
    assert (tmp_path / "made" / "a").read_text() == "a"
    with pytest.raises(InputError, match="Directory not empty"):
        write_atomic(tmp_path / "made", whole)
    assert [file.name for file in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o777 & ~UMASK


UMASK = os.umask(0o022)
os.umask(UMASK)
