"""The child of `sandbox`: confines itself, runs the program, and says how that ended. Not to be imported."""

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
        *(0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20, 21, 23, 24, 25, 28, 32, 35, 39, 60, 63),
        *(72, 79, 89, 96, 97, 98, 99, 100, 102, 104, 107, 108, 131, 158, 186, 201, 202, 204, 217, 219, 228, 229, 230),
        *(231, 262, 267, 269, 270, 271, 273, 318, 332, 334, 439),
    ),
    "aarch64": (
        *(17, 23, 25, 29, 48, 57, 61, 62, 63, 64, 65, 66, 67, 72, 73, 78, 79, 80, 93, 94, 98, 99, 101, 113, 114, 115),
        *(123, 124, 128, 132, 134, 135, 139, 153, 160, 163, 165, 169, 172, 174, 175, 176, 177, 178, 214, 215, 216),
        *(222, 226, 233, 278, 291, 293, 439),
    ),
}
# Opening files is allowed where no flag asks to write: call number and the position of the flags.
OPENING = {"x86_64": ((2, 1), (257, 2)), "aarch64": ((56, 2),)}
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | (os.O_TMPFILE & ~os.O_DIRECTORY)

LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
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
    for call in ALLOWED[machine]:
        made += [instruction(EQUAL, call, 0, 1), instruction(RETURN, ALLOW)]
    return b"".join([*made, instruction(RETURN, REFUSE)])


def confine() -> None:
    """Give up new privileges for good, and install the filter."""
    code = filter_program(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.create_string_buffer(program, len(program)), 0, 0):
        raise OSError(ctypes.get_errno(), "the filter of system calls was refused")


def main() -> None:
    """Read the order, confine, run, tell."""
    speak = int(sys.argv[1])
    order = json.loads(sys.stdin.buffer.read())
    token = order["token"]
    try:
        limit(order["seconds"], order["memory"])
        confine()
    except (OSError, ValueError) as error:
        os.write(speak, f"failed could not be confined: {error}".encode())
        return
    try:
        exec(compile(order["source"], "program", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        os.write(speak, f"failed {text}".encode(errors="replace"))
    else:
        os.write(speak, f"passed {token}".encode())


if __name__ == "__main__":
    main()
