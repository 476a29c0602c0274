"""Hostile programs end, change nothing and hear nothing; honest ones run."""

import contextlib
import ctypes
import os
import platform
import socket
import struct
import sys
import threading
import time
import traceback
import warnings
from types import SimpleNamespace

import pytest

from workbench.errors import InputError
from workbench.evaluation import sandbox
from workbench.evaluation.sandbox import SUPPORTED, Outcome, run_program

confined = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in SUPPORTED,
    reason="programs are confined on Linux, x86-64 and 64-bit ARM, only",
)


@confined
def test_honest_programs_pass():
    source = """
import collections, copy, datetime, decimal, functools, hashlib, heapq
import itertools, json, math, random, re, string, typing
random.seed(1)
assert math.isqrt(17) == 4 and re.match("a+", "aab") and sorted([3, 1, 2]) == [1, 2, 3]
assert hashlib.md5(b"").hexdigest().startswith("d41d") and random.random() < 1
print("output is thrown away")
datetime.datetime.now()
"""
    outcome = run_program(source)
    assert outcome.passed and outcome.reason == ""


PARENT = os.getpid()
TELL = "for fd in range(3, 30):\n  try: os.write(fd, b'{}')\n  except OSError: pass"
CALLS = "import ctypes, os; c = ctypes.CDLL(None); "
HOSTILE = {
    "an assertion": ("assert 1 + 1 == 3, 'no'", "AssertionError"),
    "an endless loop": ("while True: pass", "time: "),
    "a sleep": ("import time; time.sleep(99)", "time: "),
    "a memory bomb": ("x = bytearray(10**11)", "MemoryError"),
    "a growing list": ("x = [0]\nwhile True: x = x + x", "MemoryError"),
    "a fork bomb": ("import os\nwhile True: os.fork()", "PermissionError"),
    "a thread": ("import threading; threading.Thread(target=print).start()", "RuntimeError"),
    "a subprocess": ("import subprocess; subprocess.run(['true'])", "PermissionError"),
    "another program": ("import os; os.execv('/bin/true', ['true'])", "PermissionError"),
    "a flood": ("while True: print('x' * 10**6)", "time: "),
    "sys.exit": ("import sys; sys.exit(0)", "SystemExit"),
    "a silent exit": ("import os; os._exit(0)", "left early with exit status 0"),
    "an interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "a crash": ("import ctypes; ctypes.string_at(0)", "crashed with signal SIGSEGV"),
    "no program": ("def (", "SyntaxError"),
    "deep recursion": ("def f(): f()\nf()", "RecursionError"),
    "a killer": (f"import os; os.kill({PARENT}, 9)", "PermissionError"),
    "a higher limit": ("import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))", "ValueError"),
    "the environment": (
        "import os; assert 'PATH' not in os.environ and 'HOME' not in os.environ; 1 / 0",
        "ZeroDivision",
    ),
    "a forged verdict": (
        "import os\nfor fd in range(3, 30):\n  try: os.write(fd, b'passed x')\n  except OSError: pass\n1/0",
        "",
    ),
    "a forged escape": (f"import os\n{TELL.format('unconfined x')}\nos._exit(0)", "left early with exit status 0"),
    "a secret in the reason": (
        f"import os\n{TELL.format('failed my secret')}\nos._exit(3)",
        "left early with exit status 3",
    ),
    "a secret in an exception": ("class Secret(Exception): pass\nraise Secret('told')", "Exception"),
    "typing into a terminal": ("import fcntl; fcntl.ioctl(1, 0x5412, b'x')", "PermissionError"),
    "a terminal": ("open('/dev/tty')", "PermissionError"),
    "a signal by a descriptor's owner": (f"import fcntl; fcntl.fcntl(1, 8, {PARENT})", "PermissionError"),
    "a signal by asynchronous reading": ("import fcntl, os; fcntl.fcntl(1, 4, 0o20000)", "PermissionError"),
    "a descriptor opened again": ("open('/proc/self/fd/1')", "PermissionError"),
    "an unchangeable file": ("import fcntl; fcntl.ioctl(1, 0x40086602, b'\\x10' + bytes(7))", "PermissionError"),
    "accounts": ("open('/etc/passwd')", "PermissionError"),
    "the folder above": ("import os; os.listdir('/')", "PermissionError"),
    "its own folder": ("import os; os.listdir('.')", "PermissionError"),
    "the environment of all processes": (
        "import glob, os\nfor i in range(1, 40000):\n  if os.path.exists(f'/proc/{i}'): open(f'/proc/{i}/environ')",
        "PermissionError",
    ),
    "the memory of its parent": (f"open('/proc/{PARENT}/mem', 'rb')", "PermissionError"),
    "tracing its parent": (CALLS + f"assert c.ptrace(16, {PARENT}, 0, 0) == 0", "AssertionError"),
    "reading its parent": (CALLS + f"assert c.syscall(310, {PARENT}, 0, 0, 0, 0, 0) >= 0", "AssertionError"),
    "another user": ("import os; os.setuid(1)", "PermissionError"),
    "a clock": ("import time; time.clock_settime(time.CLOCK_REALTIME, 0)", "PermissionError"),
    "a mount": (CALLS + "assert c.mount(b'/', b'/', None, 4096, None) == 0", "AssertionError"),
}


def without_privileges(work):
    """Do something in a process without root's privileges; what it raised, as text."""
    listen, speak = os.pipe()
    with warnings.catch_warnings(action="ignore"):
        child = os.fork()
    if child == 0:
        try:
            assert ctypes.CDLL(None).capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) == 0
            work()
            os._exit(0)
        except BaseException as error:
            os.write(speak, "".join(traceback.format_exception(error)).encode())
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    os.close(speak)
    with os.fdopen(listen) as told:
        return told.read() if status else ""


@confined
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root gives them up")
def test_hostile_programs_fail_without_roots_privileges_too():
    def work():
        for name, (source, reason) in HOSTILE.items():
            if reason.startswith("time"):
                continue
            outcome = run_program(source, seconds=0.2, memory_mb=128)
            assert not outcome.passed and outcome.reason.startswith(reason), (name, outcome)
        assert run_program("import decimal, hashlib; hashlib.sha256(b'')").passed

    assert without_privileges(work) == ""


@confined
def test_a_file_of_ones_own_is_not_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("key")
    outcome = run_program(f"assert open({str(secret)!r}).read() == 'key'")
    assert outcome == Outcome(False, "PermissionError")


@confined
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_fail_for_their_reason(name):
    source, reason = HOSTILE[name]
    began = time.monotonic()
    outcome = run_program(source, seconds=0.2, memory_mb=128)
    assert not outcome.passed and outcome.reason.startswith(reason), outcome
    assert time.monotonic() - began < 15


@confined
@pytest.mark.parametrize(
    "act",
    [
        "open({here!r} + '/new', 'w').write('x')",
        "open('new', 'w')",
        "import os; os.unlink({here!r} + '/mine')",
        "import os; os.rename({here!r} + '/mine', {here!r} + '/yours')",
        "import os; os.mkdir({here!r} + '/folder')",
        "import os; os.chmod({here!r} + '/mine', 0o777)",
        "import os; os.symlink('/', {here!r} + '/link')",
        "import os; os.truncate({here!r} + '/mine', 0)",
    ],
)
def test_no_file_is_changed(act, tmp_path):
    (tmp_path / "mine").write_text("kept")
    mode = (tmp_path / "mine").stat().st_mode
    outcome = run_program(act.format(here=str(tmp_path)))
    assert not outcome.passed and "PermissionError" in outcome.reason
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_text() == "kept" and (tmp_path / "mine").stat().st_mode == mode


@confined
def test_nobody_is_called():
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1.5)

        def listen():
            with contextlib.suppress(TimeoutError):
                heard.append(server.accept())

        thread = threading.Thread(target=listen)
        thread.start()
        port = server.getsockname()[1]
        outcome = run_program(f"import socket; socket.create_connection(('127.0.0.1', {port}))")
        thread.join()
    assert not outcome.passed and "PermissionError" in outcome.reason and not heard


@confined
def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    descriptors = len(os.listdir("/proc/self/fd"))
    for source in ("x = 1", "1 / 0", "import time; time.sleep(99)"):
        run_program(source, seconds=0.2)
    assert not list(tmp_path.iterdir()) and len(os.listdir("/proc/self/fd")) == descriptors


def test_limits_that_leave_nothing_are_refused():
    for given in ({"seconds": 0.0}, {"memory_mb": 10}):
        with pytest.raises(InputError, match="give some time, and 64 MB at least"):
            run_program("1", **given)


def test_machines_that_cannot_confine_are_refused(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(InputError, match=r"run on Linux 5\.13 or newer.*this is darwin"):
        run_program("1")


@confined
def test_kernels_that_do_not_hide_files_are_refused(monkeypatch):
    monkeypatch.setattr(sandbox.ctypes, "CDLL", lambda _: SimpleNamespace(syscall=lambda *given: -1))
    with pytest.raises(InputError, match="this kernel is older, or a container's rules switch Landlock off"):
        run_program("1")
