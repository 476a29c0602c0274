"""A resumed run trusts only what it can read, no two runs write one file, and every result says how it was made."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import xarray as xr

from tests.runs.test_results import BAD, GOOD
from workbench.errors import InputError, WorkbenchWarning
from workbench.runs import Run, open_result, save_result
from workbench.runs.batching import Batches
from workbench.runs.state import State, StateFile

CONFIG = {"model": "organism-gqa", "unit": "head", "metrics": ("prob", "logit_diff"), "n": 100, "seed": None}


def piece(start):
    return xr.Dataset({"patched": ("example", np.arange(start, start + 2.0))}, {"example": [start, start + 1]})


def test_a_resumed_run_finds_its_pieces_in_counting_order(tmp_path):
    with Run(tmp_path / "out" / "patch.nc", **CONFIG) as run:
        assert run.pieces == {}
        assert run.finished is None
        for start in (10, 0, 2, 8):
            run.add(f"{start}:{start + 2}", piece(start))
        assert run.left(14) == [4, 5, 6, 7, 12, 13]
    with Run(tmp_path / "out" / "patch.nc", **CONFIG | {"metrics": ["prob", "logit_diff"]}) as resumed:
        pieces = resumed.pieces
    assert resumed.left(14) == [4, 5, 6, 7, 12, 13]
    assert list(pieces) == ["0:2", "2:4", "8:10", "10:12"]
    for key, found in pieces.items():
        xr.testing.assert_identical(found, piece(int(key.split(":")[0])))


@pytest.mark.parametrize("key", ["0:8", "L3/head 5", "..", ".hidden", "m²", "é%2F", "config.json"])
def test_any_text_can_name_a_piece(tmp_path, key):
    with Run(tmp_path / "patch.nc", **CONFIG) as run:
        run.add(key, piece(0))
    with Run(tmp_path / "patch.nc", **CONFIG) as run:
        assert set(run.pieces) == {key}


def test_a_finished_run_is_returned_and_its_pieces_are_gone(tmp_path):
    path = tmp_path / "patch.nc"
    with Run(path, **CONFIG) as run:
        run.add("0:2", piece(0))
        final = run.finish(piece(0).assign_attrs(model="m", found=BAD), tasks=["a"])
    assert [file.name for file in tmp_path.iterdir()] == ["patch.nc"]
    again = Run(path, **CONFIG).finished
    assert again is not None
    xr.testing.assert_identical(again, final)
    assert (again.attrs["model"], again.attrs["tasks"], again.attrs["found"]) == ("organism-gqa", ["a"], GOOD)
    assert again.attrs["duration_s"] >= 0
    assert [file.name for file in tmp_path.iterdir()] == ["patch.nc"]


@pytest.mark.parametrize("finished", [False, True])
def test_another_runs_configuration_is_refused_with_the_difference(tmp_path, finished):
    path = tmp_path / "patch.nc"
    with Run(path, **CONFIG, old=1) as run:
        if finished:
            run.finish(piece(0))
    with pytest.raises(InputError) as caught:
        Run(path, **CONFIG | {"n": 50, "unit": "kv_group", "new": [1]})
    text = str(caught.value)
    assert 'unit: "head" there, "kv_group" now' in text
    assert "n: 100 there, 50 now" in text
    assert "new: absent there, [1] now" in text
    assert "old: 1 there, absent now" in text
    assert "model" not in text
    assert "seed" not in text


def test_a_damaged_piece_is_computed_again(tmp_path):
    path = tmp_path / "patch.nc"
    with Run(path, **CONFIG) as run:
        run.add("0:2", piece(0))
        run.add("2:4", piece(2))
    broken = next(file for file in run.parts.glob("*.nc") if file.name.startswith("2"))
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.warns(WorkbenchWarning, match="piece of the run is ignored and computed again"):
        resumed = Run(path, **CONFIG)
    with resumed:
        assert set(resumed.pieces) == {"0:2"}
        resumed.add("2:4", piece(2))
    with Run(path, **CONFIG) as run:
        assert set(run.pieces) == {"0:2", "2:4"}


def test_a_killed_run_loses_only_the_piece_in_flight(tmp_path):
    path = tmp_path / "patch.nc"
    program = textwrap.dedent(
        f"""
        import os, pathlib, signal
        import numpy as np, xarray as xr
        from workbench.runs import Run
        run = Run({str(path)!r}, n=4)
        run.add("0:2", xr.Dataset({{"patched": ("example", np.zeros(2))}}))
        write = pathlib.Path.write_bytes
        def killed(file, whole):
            write(file, whole[:100])
            os.kill(os.getpid(), signal.SIGKILL)
        pathlib.Path.write_bytes = killed
        run.add("2:4", xr.Dataset({{"patched": ("example", np.zeros(2))}}))
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    with Run(path, n=4) as run:
        assert list(run.parts.glob(".*.tmp")), "the killed write must have left its temporary file"
        assert set(run.pieces) == {"0:2"}
        run.add("2:4", piece(2))
        assert not list(run.parts.glob(".*.tmp")), "the next write removes what the dead process left"


def test_pieces_without_a_configuration_are_refused(tmp_path):
    path = tmp_path / "patch.nc"
    with Run(path, **CONFIG) as run:
        run.add("0:2", piece(0))
    (run.parts / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"unreadable config\.json.*Delete that folder to start over"):
        Run(path, **CONFIG)
    (run.parts / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json.*Delete that folder to start over"):
        Run(path, **CONFIG)


def test_a_file_of_another_origin_is_not_overwritten(tmp_path):
    save_result(piece(0), tmp_path / "result.nc")
    with pytest.raises(InputError, match="not written by a run that can be resumed"):
        Run(tmp_path / "result.nc", **CONFIG)
    with pytest.raises(InputError, match=r"is a folder; give a file in it"):
        Run(tmp_path, **CONFIG)


def test_without_a_file_pieces_are_remembered_and_the_result_is_described(monkeypatch):
    clock = iter([10.0, 12.3456])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    run, calls = Run(method="m", revision=None, seeds=(0, 1)), []
    for _ in range(2):
        found = run.piece("0:2", lambda: [calls.append(0), piece(0)][1])
    xr.testing.assert_identical(found, piece(0))
    assert (len(calls), list(run.pieces), run.parts, run.beside("x.nc")) == (1, ["0:2"], None, None)
    attrs = run.finish(found, device="cpu", method="n").attrs
    assert {
        "method": "n",
        "revision": "",
        "seeds": [0, 1],
        "device": "cpu",
        "duration_s": 2.346,
    }.items() <= attrs.items()
    assert attrs["xarray_version"] == xr.__version__
    assert "resume_config" not in attrs


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with Run("~/run.nc", n=1) as run:
        run.add("0:2", piece(0))
        run.finish(piece(0))
    with StateFile("~/state", {}) as file:
        file.save(State(1, {}, {}, {"loss": np.zeros(2)}))
    assert sorted(file.name for file in (tmp_path / "home").iterdir()) == ["run.nc", "state"]
    assert [file.name for file in tmp_path.iterdir()] == ["home"]


def held(what):
    return rf"{what} is being written by another run, process {os.getpid()} on host {socket.gethostname()}\. Wait"


def test_a_second_run_in_this_process_is_refused_until_the_first_ends(tmp_path):
    path = tmp_path / "patch.nc"
    with pytest.raises(ZeroDivisionError), Run(path, **CONFIG) as run:
        run.add("0:2", piece(0))
        for _ in range(2):
            with pytest.raises(InputError, match=held("patch.nc")):
                Run(path, **CONFIG)
        raise ZeroDivisionError
    with pytest.raises(InputError, match="another configuration"):
        Run(path, n=1)
    with Run(path, **CONFIG) as again:
        assert list(again.pieces) == ["0:2"]
    with StateFile(tmp_path / "state", {}) as _, pytest.raises(InputError, match=held("state")):
        StateFile(tmp_path / "state", {}).__enter__()
    with StateFile(tmp_path / "state", {}) as file:
        assert file.load() is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["patch.nc.parts"]


def test_a_piece_that_repeats_an_example_is_dropped_and_its_other_examples_are_computed_again(tmp_path):
    with Run(tmp_path / "run.nc", n=6) as run:
        for start in (0, 4, 1):
            run.add(f"from example {start}", piece(start))
        save_result(piece(0).assign_coords(example=[5, 5]), run.parts / "from%20example%205.nc")
    computed = []

    def work(batch):
        computed.append(batch)
        return xr.Dataset({"patched": ("example", np.array(batch, dtype=float))})

    with Run(tmp_path / "run.nc", n=6) as run:
        with pytest.raises(InputError, match=r"do not hold each of 6 examples once.*Delete that folder"):
            run.joined(6)
        with pytest.warns(WorkbenchWarning, match="computed again. It holds an example that another piece holds too"):
            left = run.left(6)
        run.over(left, Batches(torch.device("cpu"), 1), work)
        assert (left, computed) == ([2, 3], [[2], [3]])
        assert run.joined(6)["patched"].values.tolist() == [0, 1, 2, 3, 4, 5]
    with Run(tmp_path / "run.nc", n=6) as run:
        assert run.left(6) == []


def test_pieces_of_several_widths_are_joined_in_the_order_of_the_examples():
    run = Run()

    def work(batch):
        tokens = [[i] * (1 + max(batch)) for i in batch]
        return xr.Dataset(
            {"tokens": (("example", "step"), tokens), "loss": (("example", "step"), np.ones_like(tokens))}
        )

    run.over([2, 0, 1], Batches(torch.device("cpu"), 2), work)
    found = run.joined(3, "step", {"tokens": -1})
    assert found["tokens"].values.tolist() == [[0, 0, 0], [1, 1, -1], [2, 2, 2]]
    assert found["tokens"].dtype == int
    assert np.isnan(found["loss"].values).tolist() == [[False] * 3, [False, False, True], [False] * 3]


PROGRAM = """
import os, sys
import numpy as np, xarray as xr
from workbench.errors import InputError
from workbench.runs import Run
try:
    with Run(sys.argv[1], n=60) as run:
        print("has", len(run.pieces), flush=True)
        for i in run.left(60):
            if i == int(sys.argv[2]):
                print("waits", os.getpid(), flush=True)
                sys.stdin.read()
            run.add(f"{i}", xr.Dataset({"x": ("example", [float(i)])}, {"example": [i]}))
        run.finish(xr.concat(list(run.pieces.values()), "example"))
except InputError as error:
    print(error, flush=True)
"""


def second(path):
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), "-1"],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return found.stdout


def test_two_processes_never_write_one_file(tmp_path):
    """The second is refused while the first lives; after a kill it goes on, and every example is there once."""
    path = tmp_path / "run.nc"
    first = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), "20"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "has 0\n"
        assert first.stdout.readline() == f"waits {first.pid}\n"
        told = second(path)
        assert f"is being written by another run, process {first.pid} on host {socket.gethostname()}." in told
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert second(path) == "has 20\n"
    finally:
        first.kill()
        first.communicate()
    assert open_result(path)["example"].values.tolist() == list(range(60))
    assert [file.name for file in tmp_path.iterdir()] == ["run.nc"]
