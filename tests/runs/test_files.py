"""What dead processes left is removed, full and read-only places give one clear error, and locks hold without flock."""

import errno
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from workbench.errors import InputError
from workbench.runs import Run, open_result
from workbench.runs.files import write_text
from workbench.runs.state import State, StateFile


def noise(kilobytes):
    return xr.Dataset({"x": ("i", np.random.default_rng(0).normal(size=128 * kilobytes))})


@pytest.fixture
def small_files():
    """Files of more than 64 kB cannot be written, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    usual = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, usual)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 128 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", disk], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("mounting needs the superuser's rights")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    program = f"""
import os
from workbench.runs.files import write_atomic
write_atomic({str(tmp_path / "a.txt")!r}, lambda file: [file.write_text("half"), os._exit(1)])
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    [left] = tmp_path.iterdir()
    living = left.with_name(left.name.replace(left.name.split("-")[-1].split(".")[0], str(os.getppid())))
    living.write_text("half")
    other = tmp_path / ".a.txt.00000000-1.0123456789ab.tmp"
    other.write_text("of another host")
    write_text(tmp_path / "a.txt", "whole")
    assert {file.name for file in tmp_path.iterdir()} == {"a.txt", living.name, other.name}
    assert (tmp_path / "a.txt").read_text() == "whole"


def full(run):
    run.add("small", noise(16))
    with pytest.raises(InputError, match=r"Cannot write .*large\.nc \((File too large|No space left on device)\)\."):
        run.add("large", noise(256))


@pytest.mark.parametrize("place", ["small_files", "tiny_disk"])
def test_a_full_disk_is_one_clear_error_that_keeps_earlier_pieces(place, request, tmp_path, capfd, recwarn):
    found = request.getfixturevalue(place)
    path = (found or tmp_path) / "run.nc"
    with Run(path, n=2) as run:
        full(run)
        assert sorted(file.name for file in run.parts.iterdir()) == ["config.json", "lock", "small.nc"]
    with Run(path, n=2) as run:
        xr.testing.assert_identical(run.pieces["small"], noise(16))
    with StateFile(path.with_name("state"), {}) as file:
        file.save(State(1, {}, {}, {}))
        with pytest.raises(InputError, match=r"Cannot write .*state \("):
            file.save(State(2, {"w": torch.zeros(64 * 1024)}, {}, {}))
        assert file.load().step == 1
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_a_read_only_mount_is_refused_before_the_first_step(tiny_disk):
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    for opened in (lambda: Run(tiny_disk / "run.nc"), lambda: StateFile(tiny_disk / "state", {}).__enter__()):
        with pytest.raises(InputError, match=r"Cannot write .*\(Read-only file system\)\. The place is read-only"):
            opened()


def test_where_the_file_system_knows_no_locks_the_lock_file_counts_and_a_dead_ones_is_taken_over(tmp_path, monkeypatch):
    def without_flock(*_):
        raise OSError(errno.ENOSYS, "no locks")

    (tmp_path / "run.nc.parts").mkdir()
    program = f"""
import fcntl, sys
from pathlib import Path
def without_flock(*_):
    raise OSError({errno.ENOSYS}, "no locks")
fcntl.flock = without_flock
from workbench.runs.files import locked
with locked(Path({str(tmp_path / "run.nc.parts" / "lock")!r}), None):
    print("open", flush=True)
    sys.stdin.read()
"""
    monkeypatch.setattr(fcntl, "flock", without_flock)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "open\n"
        text = rf"is being written by another run, process {other.pid} on host {socket.gethostname()}\."
        with pytest.warns(UserWarning, match="flock not supported"), pytest.raises(InputError, match=text):
            Run(tmp_path / "run.nc")
        other.kill()
    with pytest.warns(UserWarning, match="flock not supported"), Run(tmp_path / "run.nc") as run:
        run.finish(noise(1))
    assert [file.name for file in tmp_path.iterdir()] == ["run.nc"]
    assert open_result(tmp_path / "run.nc").sizes == {"i": 128}
