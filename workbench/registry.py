"""Lookup of objects that are given by their registered name or directly, such as built-in and user-defined scores."""

from collections.abc import Mapping
from typing import Any

from workbench.errors import InputError, suggest


def named(wanted: Any, known: Mapping[str, Any], kind: type) -> list[Any]:
    """The requested objects of `kind`, each once and in the order given: one or several of them, or their names.

    Raises:
        InputError: an unknown name, none at all, or one twice.
    """
    found = []
    for one in [wanted] if isinstance(wanted, (str, kind)) else wanted:
        if isinstance(one, kind):
            found.append(one)
        elif one in known:
            found.append(known[one])
        else:
            raise InputError(f"There is no score {one!r}: {suggest(one, known)}")
    labels = [one.name for one in found]
    if not found or len(set(labels)) < len(labels):
        raise InputError(f"Give at least one score and each of them once; got {labels}.")
    return found
