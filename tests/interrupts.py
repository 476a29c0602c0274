"""Runs that are killed in the middle, at the public calls by which they keep or take a step."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from workbench.runs.run import Run


class Killed(BaseException):
    """A kill, which no handler of errors may swallow."""


@contextmanager
def watched(
    owner: Any,
    name: str,
    at: int | None = None,
    instead: Callable | None = None,
    counts: Callable[[Any], bool] = lambda self: True,
) -> Iterator[list[tuple]]:
    """The arguments of every call of a public method, of which number `at` (from 0) dies or does something else.

    Args:
        owner: the class.
        name: the method.
        at: the call; None leaves all as they are.
        instead: called with the method's arguments; None raises `Killed`.
        counts: whether calls on an object count; others are left as they are.
    """
    own, calls = getattr(owner, name), []

    def method(*given, **options):
        if not counts(given[0]):
            return own(*given, **options)
        calls.append(given)
        if len(calls) - 1 != at:
            return own(*given, **options)
        if instead is None:
            raise Killed
        return instead(*given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, method)
        yield calls


def on_disk(run: Run) -> bool:
    """Whether a run keeps its pieces; one within another may only remember them."""
    return run.parts is not None


@contextmanager
def killed_before_piece(number: int) -> Iterator[None]:
    """A run dies when it is about to keep its piece of this number, from 0."""
    with watched(Run, "add", number, counts=on_disk), pytest.raises(Killed):
        yield


@contextmanager
def killed_before_update(number: int) -> Iterator[None]:
    """A training dies before its update of this number, from 0."""
    with watched(torch.optim.AdamW, "step", number), pytest.raises(Killed):
        yield


@contextmanager
def pieces(counts: Callable[[Run], bool] = on_disk) -> Iterator[list[str]]:
    """The keys of the pieces that are computed and kept, and not read from disk."""
    keys: list[str] = []
    with watched(Run, "add", counts=counts) as calls:
        yield keys
    keys.extend(key for _, key, _ in calls)


def spoiled(_run: Any, loss: torch.Tensor) -> None:
    """In place of a backward pass: the loss becomes NaN."""
    loss.detach().fill_(math.nan)


@contextmanager
def room_for(model: Any, rows: int) -> Iterator[None]:
    """A machine on which a bridge runs out of memory above so many rows of a batch."""

    def small_machine(_module: Any, given: tuple) -> None:
        if len(given[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    small_machine.__module__ = "accelerate"  # No hook that somebody forgot.
    hook = model.blocks[0].register_forward_pre_hook(small_machine)
    try:
        yield
    finally:
        hook.remove()
