"""The child of `sandbox`: confines itself, runs the program, and says how that ended. Run from its source, alone."""

import ctypes
import errno
import json
import os
import platform
import resource
import struct
import sys

# Numbers of the system calls that a computation needs, by architecture; everything else fails with EPERM.
ALLOWED = {
    "x86_64": (
        *(0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 20, 21, 23, 24, 25, 28, 32, 35, 39, 60, 63),
        *(79, 89, 96, 97, 98, 99, 100, 102, 104, 107, 108, 131, 158, 186, 201, 202, 204, 217, 219, 228, 229, 230),
        *(231, 262, 267, 269, 270, 271, 273, 318, 332, 334, 439),
    ),
    "aarch64": (
        *(17, 23, 48, 57, 61, 62, 63, 64, 65, 66, 67, 72, 73, 78, 79, 80, 93, 94, 98, 99, 101, 113, 114, 115),
        *(123, 124, 128, 132, 134, 135, 139, 153, 160, 163, 165, 169, 172, 174, 175, 176, 177, 178, 214, 215, 216),
        *(222, 226, 233, 278, 291, 293, 439),
    ),
}
# Opening files is allowed where no flag asks to write: call number and the position of the flags.
OPENING = {"x86_64": ((2, 1), (257, 2)), "aarch64": ((56, 2),)}
# Descriptors may be duplicated and asked for their flags, and nothing else (no owner, no signals): F_DUPFD, F_GETFD,
# F_SETFD, F_GETFL and F_DUPFD_CLOEXEC of fcntl.
FCNTL, HARMLESS = {"x86_64": 72, "aarch64": 25}, (0, 1, 2, 3, 1030)
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | (os.O_TMPFILE & ~os.O_DIRECTORY)

LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000


def limit(seconds: float, memory: int) -> None:
    """Bounds that the kernel keeps: memory, processor time, no file contents, no processes, no core."""
    whole = int(seconds) + 1
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, whole),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def filter_program(machine: str) -> bytes:
    """The filter in the kernel's instructions: architecture, openings without writing, the list, refusal."""

    def instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    made = [instruction(LOAD, 4), instruction(EQUAL, ARCHITECTURE[machine], 1, 0), instruction(RETURN, KILL)]
    made.append(instruction(LOAD, 0))
    for call, position in OPENING[machine]:
        made += [
            instruction(EQUAL, call, 0, 4),
            instruction(LOAD, 16 + 8 * position),
            instruction(ANY_BIT, WRITING, 0, 1),
            instruction(RETURN, REFUSE),
            instruction(RETURN, ALLOW),
        ]
    made += [instruction(EQUAL, FCNTL[machine], 0, 2 + 2 * len(HARMLESS)), instruction(LOAD, 24)]
    for what in HARMLESS:
        made += [instruction(EQUAL, what, 0, 1), instruction(RETURN, ALLOW)]
    made.append(instruction(RETURN, REFUSE))
    for call in ALLOWED[machine]:
        made += [instruction(EQUAL, call, 0, 1), instruction(RETURN, ALLOW)]
    return b"".join([*made, instruction(RETURN, REFUSE)])


def readable() -> list[str]:
    """What the program may read: the standard library, shared libraries and time zones."""
    libraries = os.path.dirname(os.path.dirname(os.path.realpath(os.__file__)))
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache")
    return [path for path in dict.fromkeys((libraries, *map(os.path.realpath, system))) if os.path.exists(path)]


def read_only(libc: ctypes.CDLL) -> None:
    """Hide all files but the readable ones (Landlock); the C library keeps the error number."""

    def call(number: int, *given: object) -> int:
        result = libc.syscall(number, *given)
        if result < 0:
            raise OSError(ctypes.get_errno(), "files could not be hidden")
        return result

    version = call(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    rules = call(LANDLOCK_CREATE, struct.pack("Q", (1 << rights) - 1), ctypes.c_size_t(8), 0)
    for path in readable():
        place = os.open(path, os.O_PATH)
        allowed = READ_FILE | READ_FOLDER if os.path.isdir(path) else READ_FILE
        call(LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed, place), 0)
        os.close(place)
    call(LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def confine() -> None:
    """For good: no new privileges, none of root's, no files but the readable ones, and the filter of system calls."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = filter_program(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    none = struct.pack("6I", *[0] * 6)
    if libc.prctl(38, 1, 0, 0, 0) or libc.capset(struct.pack("Ii", 0x20080522, 0), none):
        raise OSError(ctypes.get_errno(), "privileges could not be given up")
    read_only(libc)
    if libc.prctl(22, 2, ctypes.create_string_buffer(program, len(program)), 0, 0):
        raise OSError(ctypes.get_errno(), "the filter of system calls was refused")


def main() -> None:
    """Read the order, confine, run, tell."""
    speak = int(sys.argv[1])
    order = json.loads(sys.stdin.buffer.read())
    os.close(0)
    token = order["token"]
    try:
        limit(order["seconds"], order["memory"])
        confine()
    except (OSError, ValueError) as error:
        os.write(speak, f"unconfined {error.strerror if isinstance(error, OSError) else error}".encode())
        return
    os.write(speak, b"confined\n")
    try:
        exec(compile(order["source"], "program", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        kind = next(base.__name__ for base in type(error).__mro__ if base.__module__ == "builtins")
        os.write(speak, f"failed {kind}".encode())
    else:
        os.write(speak, f"passed {token}".encode())


if __name__ == "__main__":
    main()
