"""Atomic writes and lock files: a file is complete or absent, and one process at a time writes it.

Everything is written under a temporary name and renamed when complete, so no reader sees a partial file. The name tells
host and process, so the next write removes what a dead process left. A lock is the operating system's and ends with the
process that holds it, on other hosts too where the file system tells them; where it knows no such locks, the lock file
itself counts, and one of a dead process of this host is taken over.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Generator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from workbench.errors import HeldError, InputError


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file or folder beside `path`, then rename it, and return the path.

    Missing parents are created; a file or an empty folder of that name is replaced.

    Raises:
        InputError: the place cannot be written.
    """
    path = Path(path).expanduser()
    temporary = path.parent / _temporary_name(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        write(temporary)
        if temporary.is_dir() and path.exists():
            path.rmdir()
        os.replace(temporary, path)
    except (OSError, SafetensorError) as cause:
        raise _unwritable(path, cause) from cause
    finally:
        _remove(temporary)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write a text in UTF-8, whole or not at all, and return its path; missing folders are created."""
    return write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def check_writable(folder: str | Path) -> Path:
    """The folder, created if need be, once a file has been written to it and removed again.

    Call it before a long run, so that a read-only place is found at the start and not at the end.
    """
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / _temporary_name("probe")
        probe.touch()
        probe.unlink()
    except OSError as cause:
        raise _unwritable(folder, cause) from cause
    return folder


@contextlib.contextmanager
def locked(lock: Path, path: Path) -> Generator[None]:
    """Hold a lock file, which names its holder, and remove it afterwards; `path` is the run's file, for the message."""
    held = FileLock(lock, thread_local=False)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise HeldError(
            f"{path} is being written by another run, {_holder(lock)}. Wait until that run has ended, stop it, or "
            "choose another file."
        ) from None
    except OSError as cause:
        raise _unwritable(lock, cause) from cause
    try:
        holder = f"{os.getpid()}\n{socket.gethostname()}\n"
        if not lock.read_text(encoding="utf-8", errors="replace").startswith(holder):
            lock.write_text(holder, encoding="utf-8")
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()


def _holder(lock: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        pid, host = lock.read_text(encoding="utf-8").split()[:2]
        return f"process {int(pid)} on host {host}"
    return "whose process is unknown"


def _temporary_name(name: str) -> str:
    return f"{_temporary_of(name)}{os.getpid()}.{uuid.uuid4().hex[:12]}.tmp"


def _temporary_of(name: str) -> str:
    """How names of temporary files of this host begin, up to the process."""
    return f".{name[:100]}.{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}-"


def _sweep(path: Path) -> None:
    """Remove temporary files that processes of this host left when they died."""
    start = _temporary_of(path.name)
    for entry in os.scandir(path.parent):
        if entry.name.startswith(start) and entry.name.endswith(".tmp"):
            pid = entry.name.removeprefix(start).split(".")[0]
            if pid.isdecimal() and not psutil.pid_exists(int(pid)):
                _remove(Path(entry.path))


def _remove(temporary: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def _unwritable(path: Path, cause: Exception) -> InputError:
    number = getattr(cause, "errno", None)
    reason = os.strerror(number) if number else str(cause)
    return InputError(
        f"Cannot write {path} ({reason}). The place is read-only, full or inside a file; what stood there before is "
        "unchanged. Choose another place for the output, make room, or change its permissions."
    )
