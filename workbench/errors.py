"""Errors for input that cannot be used, and warnings about results that need a second look.

An error names what was wrong with the given values, the likely cause, and what to do next.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The caller's input cannot be used; the text says why and what to do."""


class HeldError(InputError):
    """Another run is writing the same file; nothing is wrong with the input."""


class WorkbenchWarning(UserWarning):
    """The result stands, but something about it deserves a second look."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def suggest(word: object, known: Iterable[str]) -> str:
    """The tail of a message about an unknown word: the nearest known one, then all of them."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(word), known, n=1)
    return (f"did you mean '{near[0]}'? " if near else "") + f"Known: {', '.join(known)}."


def check_known(name: str, value: object, known: Iterable[str], also: str = "") -> None:
    """Refuse a value of the argument `name` that is none of the known words; `also` says what else may be given."""
    if value not in known:
        raise InputError(f"{name}={value!r} is unknown; {suggest(value, known)} {also}".rstrip())
