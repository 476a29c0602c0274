"""Work in batches covers every item once, in order, and shrinks where memory runs out."""

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import InputError, WorkbenchWarning
from workbench.runs import batching
from workbench.runs.batching import Batches, is_out_of_memory

CPU = torch.device("cpu")


def seen(batches, items, work=sum):
    return [(batch, result) for batch, result in batches.over(items, work)]


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 7))
def test_every_item_is_done_once_in_order(items, size):
    found = seen(Batches(CPU, size), items)
    assert [item for batch, _ in found for item in batch] == items
    assert all(len(batch) == size for batch, _ in found[:-1]) and all(sum(b) == r for b, r in found)


def test_auto_runs_one_and_then_what_fits(monkeypatch):
    monkeypatch.setattr(batching, "memory_in_use", lambda device: 100)
    monkeypatch.setattr(batching, "peak_memory", lambda device: 110)
    monkeypatch.setattr(batching.psutil, "virtual_memory", lambda: type("V", (), {"available": 60})())
    sizes = [len(batch) for batch, _ in seen(Batches(CPU), list(range(8)))]
    assert sizes == [1, 3, 3, 1], "half of 60 free bytes, at 10 bytes an item"
    sizes = [len(batch) for batch, _ in seen(Batches(CPU, trial=2), list(range(9)))]
    assert sizes == [2, 6, 1], "the same, at 10 bytes for two items"


def test_auto_keeps_to_the_largest_and_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(batching, "peak_memory", lambda device: 0)
    batches = Batches(CPU, "auto", largest=4)
    assert [len(b) for b, _ in seen(batches, list(range(6)))] == [1, 4, 1]
    assert [len(b) for b, _ in seen(batches, list(range(6)))] == [4, 2]


def test_too_little_memory_still_runs_one(monkeypatch):
    monkeypatch.setattr(batching.psutil, "virtual_memory", lambda: type("V", (), {"available": 0})())
    assert [len(b) for b, _ in seen(Batches(CPU), [1, 2, 3])] == [1, 1, 1]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory")],
    ids=["cuda", "python", "torch on the cpu"],
)
def test_out_of_memory_halves_the_batch_and_says_so(error):
    def work(batch):
        if len(batch) > 2:
            raise error
        return sum(batch)

    message = "Out of memory on cpu with batches of 8; going on with batches of 4"
    with pytest.warns(WorkbenchWarning) as told:
        found = seen(Batches(CPU, 8), list(range(9)), work)
    assert [len(batch) for batch, _ in found] == [2, 2, 2, 2, 1]
    assert str(told[0].message).startswith(message) and "batches of 2." in str(told[1].message)


def test_one_item_that_does_not_fit_is_an_error():
    def work(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InputError, match=r"with a batch of one\. Use a shorter prompt"):
        seen(Batches(CPU), [1, 2], work)


def test_other_errors_pass():
    def work(batch):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        seen(Batches(CPU, 2), [1], work)
    assert not is_out_of_memory(ValueError("allocate memory"))


@pytest.mark.parametrize("size", [0, -2])
def test_sizes_below_one_are_refused(size):
    with pytest.raises(InputError, match=f"batch_size={size} must be a positive number or 'auto'"):
        Batches(CPU, size)


def test_memory_is_measured_whatever_waits_to_be_collected(monkeypatch):
    monkeypatch.setattr(batching.psutil, "virtual_memory", lambda: type("V", (), {"available": 1_600_000_000})())

    def work(items):
        lists = [[] for _ in range(100_000)]  # so many that the collector would run by itself
        return len(torch.ones(20_000_000)) + len(lists)

    gc.collect()
    waiting = [torch.ones(40_000_000)]
    waiting.append(waiting)
    del waiting
    batches = Batches(CPU, largest=1000)
    seen(batches, [1], work)
    assert 5 < batches.size <= 13, "half of 1.6 GB, at 80 MB an item"
    assert gc.isenabled()
