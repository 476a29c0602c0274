"""Running an untrusted program in a separate process that can compute and nothing else.

1. A fresh interpreter starts in an empty temporary folder and a session of its own, without a terminal, with an empty
   environment and no open file but its pipes.
2. It limits its own memory, time, files and processes, gives up root's privileges, and hides all files but the
   standard library, shared libraries and time zones (Landlock). Then it installs a filter of system calls: what is not
   on a short list fails. No file is opened for writing, no socket, no process, no signal to others, no control of a
   terminal or of a file's attributes (ioctl, most of fcntl); nothing undoes it.
3. It runs the program with its output thrown away, and says over a pipe how that ended, in one of a fixed set of words:
   no text of the program's comes out. A second clock outside kills the whole group.

What remains possible: to use the processor and memory up to the limits, to ask whether a path exists and how large a
file is, to read installed libraries, and to attack the kernel by the calls on the list. The limits protect the machine.
They don't protect the verdict from a program that sets out to pass: it shares the interpreter with its tests.
"""

import builtins
import contextlib
import ctypes
import json
import os
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import InputError

RUNNER = (Path(__file__).parent / "sandbox_runner.py").read_text(encoding="utf-8")
REASONS = frozenset(
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
)
"""What an exception is reported as: its nearest built-in class."""
_LANDLOCK = 444
"""The number of the system call `landlock_create_ruleset`, the same on every architecture."""
SUPPORTED = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Outcome:
    """Whether a program ran to its end, or else what stopped it: one of `REASONS`, a limit or a signal."""

    passed: bool
    reason: str


def check_sandbox() -> None:
    """Raise where programs cannot be confined: on Linux with Landlock (5.13), on x86-64 and 64-bit ARM, only."""
    if sys.platform != "linux" or platform.machine() not in SUPPORTED:
        raise _unconfined(f"this is {sys.platform} on {platform.machine()}")
    if ctypes.CDLL(None).syscall(_LANDLOCK, None, ctypes.c_size_t(0), 1) < 1:
        raise _unconfined("this kernel is older, or a container's rules switch Landlock off")


def _unconfined(why: str) -> InputError:
    return InputError(
        f"Programs written by a model run on Linux 5.13 or newer ({' or '.join(SUPPORTED)}) only, where the kernel can "
        f"confine them; {why}. Score another task here, or use another machine."
    )


def run_program(source: str, *, seconds: float = 5.0, memory_mb: int = 512) -> Outcome:
    """Run a Python program that is not trusted, and say whether it ran to its end.

    Args:
        source: the program, with the tests that decide.
        seconds: processor time; the clock on the wall allows twice as much and one second more.
        memory_mb: address space, the interpreter's own included.

    Raises:
        InputError: a machine that cannot confine programs, or limits that leave nothing.
    """
    check_sandbox()
    if seconds <= 0 or memory_mb < 64:
        raise InputError(f"seconds={seconds}, memory_mb={memory_mb}: give some time, and 64 MB at least.")
    token = secrets.token_hex(16)
    order = json.dumps({"source": source, "seconds": seconds, "memory": memory_mb * 2**20, "token": token})
    with tempfile.TemporaryDirectory(prefix="program-") as folder:
        return _verdict(_watched(order, folder, 2 * seconds + 1), token)


def _watched(order: str, folder: str, wall: float) -> tuple[str, int | None]:
    """The child's report and its exit status; None where the wall clock ended it."""
    listen, speak = os.pipe()
    child = subprocess.Popen(
        [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", RUNNER, str(speak)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={},
        pass_fds=(speak,),
        start_new_session=True,
    )
    os.close(speak)
    status: int | None = None
    try:
        child.communicate(order.encode(), timeout=wall)
        status = child.returncode
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        os.set_blocking(listen, False)
        with contextlib.suppress(BlockingIOError):
            said = os.read(listen, 4096).decode(errors="replace")
        os.close(listen)
    return said, status


def _verdict(watched: tuple[str, int | None], token: str) -> Outcome:
    said, status = watched
    lines = said.splitlines()
    if lines and lines[-1] == f"passed {token}":
        return Outcome(True, "")
    if status is None:
        return Outcome(False, "time: still running when the clock on the wall ended it")
    if status == -signal.SIGXCPU or status == -signal.SIGKILL:
        return Outcome(False, "time: used up its processor time")
    if lines and lines[0].startswith("unconfined "):
        raise _unconfined(lines[0].removeprefix("unconfined "))
    if lines and (reason := lines[-1].removeprefix("failed ")) in REASONS:
        return Outcome(False, reason)
    if status < 0:
        return Outcome(False, f"crashed with signal {signal.Signals(-status).name}")
    return Outcome(False, f"left early with exit status {status}")
