"""Files are whole or absent, attributes survive, and a resumed run trusts only what it can read."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError, WorkbenchWarning
from workbench.runs import results


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
    path = results.save(dataset, tmp_path / "new" / "folder" / "result.nc")
    loaded = results.load(path)
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
    loaded = results.load(results.save(dataset, tmp_path / "result.nc"))
    assert loaded.attrs == ATTRS
    assert {key: type(value) for key, value in loaded.attrs.items()} == {k: type(v) for k, v in ATTRS.items()}
    assert loaded["total"].attrs == {"answers": ["Yes"]}
    assert dataset.attrs == ATTRS, "saving must not change the caller's Dataset"


def test_provenance_is_plain_and_says_what_made_the_result(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [f"{tmp_path}/bin/workbench", "report", f"--out={tmp_path}/page", "--n", "3"])
    made = results.provenance(
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
    assert results.provenance(command="by hand")["command"] == "by hand"


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(dataset, tmp_path, monkeypatch):
    path = results.save(dataset, tmp_path / "result.nc")

    def half_written(self, file, **_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", half_written)
    with pytest.raises(InputError, match=r"Cannot write .*result\.nc \(No space left on device\)\..*another place"):
        results.save(dataset.isel(layer=[0]), path)
    monkeypatch.undo()
    xr.testing.assert_identical(results.load(path), dataset)
    assert [file.name for file in tmp_path.iterdir()] == ["result.nc"]


def test_a_place_inside_a_file_is_refused(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    for call in (lambda p: results.save(dataset, p / "result.nc"), results.check_writable):
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
        monkeypatch.setattr(xr.Dataset, "to_netcdf", refuse)
    for call in (lambda p: results.save(dataset, p / "result.nc"), results.check_writable):
        with pytest.raises(InputError, match=r"Cannot write .*locked.*\(Permission denied\).*read-only") as caught:
            call(folder)
        assert isinstance(caught.value.__cause__, OSError)


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    folder = results.check_writable(tmp_path / "a" / "b")
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
    path = results.save(dataset, tmp_path / "result.nc")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"result\.nc \(\d+ bytes\) cannot be read as netCDF.*Delete it and run"):
        results.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.nc: no such file"):
        results.load(tmp_path / "gone.nc")
    with pytest.raises(InputError, match="a folder, not a file"):
        results.load(tmp_path)


CONFIG = {"model": "organism-gqa", "unit": "head", "metrics": ("prob", "logit_diff"), "n": 100, "seed": None}


def piece(start):
    return xr.Dataset({"patched": ("example", np.arange(start, start + 2.0))}, {"example": [start, start + 1]})


def test_a_resumed_run_finds_its_pieces_in_counting_order(tmp_path):
    journal = results.Journal(tmp_path / "out" / "patch.nc", CONFIG)
    assert journal.done == set()
    assert journal.result is None
    for start in (10, 0, 2, 8):
        journal.add(f"{start}:{start + 2}", piece(start))
    resumed = results.Journal(tmp_path / "out" / "patch.nc", CONFIG | {"metrics": ["prob", "logit_diff"]})
    assert resumed.done == {"0:2", "2:4", "8:10", "10:12"}
    pieces = resumed.pieces()
    assert list(pieces) == ["0:2", "2:4", "8:10", "10:12"]
    for key, found in pieces.items():
        xr.testing.assert_identical(found, piece(int(key.split(":")[0])))


@pytest.mark.parametrize("key", ["0:8", "L3/head 5", "..", ".hidden", "m²", "é%2F", "config.json"])
def test_any_text_can_name_a_piece(tmp_path, key):
    results.Journal(tmp_path / "patch.nc", CONFIG).add(key, piece(0))
    assert results.Journal(tmp_path / "patch.nc", CONFIG).done == {key}


def test_a_finished_run_is_returned_and_its_pieces_are_gone(tmp_path):
    path = tmp_path / "patch.nc"
    journal = results.Journal(path, CONFIG)
    journal.add("0:2", piece(0))
    final = journal.finish(piece(0).assign_attrs(model="m"))
    assert [file.name for file in tmp_path.iterdir()] == ["patch.nc"]
    again = results.Journal(path, CONFIG).result
    assert again is not None
    xr.testing.assert_identical(again, final)
    assert again.attrs["model"] == "m"


@pytest.mark.parametrize("finished", [False, True])
def test_another_runs_configuration_is_refused_with_the_difference(tmp_path, finished):
    path = tmp_path / "patch.nc"
    journal = results.Journal(path, CONFIG | {"old": 1})
    if finished:
        journal.finish(piece(0))
    with pytest.raises(InputError) as caught:
        results.Journal(path, CONFIG | {"n": 50, "unit": "kv_group", "new": [1]})
    text = str(caught.value)
    assert 'unit: "head" there, "kv_group" now' in text
    assert "n: 100 there, 50 now" in text
    assert "new: absent there, [1] now" in text
    assert "old: 1 there, absent now" in text
    assert "model" not in text
    assert "seed" not in text


def test_a_damaged_piece_is_computed_again(tmp_path):
    path = tmp_path / "patch.nc"
    journal = results.Journal(path, CONFIG)
    journal.add("0:2", piece(0))
    journal.add("2:4", piece(2))
    broken = next(file for file in journal.parts.glob("*.nc") if file.name.startswith("2"))
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.warns(WorkbenchWarning, match="piece of the run is ignored and computed again"):
        resumed = results.Journal(path, CONFIG)
    assert resumed.done == {"0:2"}
    resumed.add("2:4", piece(2))
    assert results.Journal(path, CONFIG).done == {"0:2", "2:4"}


def test_a_killed_run_loses_only_the_piece_in_flight(tmp_path):
    path = tmp_path / "patch.nc"
    program = textwrap.dedent(
        f"""
        import os, signal
        import numpy as np, xarray as xr
        from workbench.results import Journal
        journal = Journal({str(path)!r}, {{"n": 4}})
        journal.add("0:2", xr.Dataset({{"patched": ("example", np.zeros(2))}}))
        write = xr.Dataset.to_netcdf
        def killed(self, file, **how):
            write(self, file, **how)
            os.truncate(file, 100)
            os.kill(os.getpid(), signal.SIGKILL)
        xr.Dataset.to_netcdf = killed
        journal.add("2:4", xr.Dataset({{"patched": ("example", np.zeros(2))}}))
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    journal = results.Journal(path, {"n": 4})
    assert list(journal.parts.glob(".*.tmp")), "the killed write must have left its temporary file"
    assert journal.done == {"0:2"}


def test_pieces_without_a_configuration_are_refused(tmp_path):
    path = tmp_path / "patch.nc"
    journal = results.Journal(path, CONFIG)
    journal.add("0:2", piece(0))
    (journal.parts / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"unreadable config\.json.*Delete that folder to start over"):
        results.Journal(path, CONFIG)
    (journal.parts / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json.*Delete that folder to start over"):
        results.Journal(path, CONFIG)


def test_a_file_of_another_origin_is_not_overwritten(dataset, tmp_path):
    results.save(dataset, tmp_path / "result.nc")
    with pytest.raises(InputError, match="not written by a run that can be resumed"):
        results.Journal(tmp_path / "result.nc", CONFIG)
    with pytest.raises(InputError, match=r"is a folder; give a file in it"):
        results.Journal(tmp_path, CONFIG)
