"""Batches that fit into memory: the size follows from the measured memory of the first items.

Where memory runs out all the same, the batch is halved, and a warning says which size was used.
"""

import gc
import resource
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Literal, TypeVar

import psutil
import torch

from workbench.errors import InputError, WorkbenchWarning

BatchSize = int | Literal["auto"]
Item = TypeVar("Item")
Result = TypeVar("Result")
SHARE = 0.5
"""The part of free memory that a batch may fill."""


class Batches:
    """Applies work to items in batches, and remembers from call to call how many fit.

    Args:
        devices: where the work allocates: one, or those over which a model is spread.
        batch_size: items at a time; "auto" runs the first and measures what they need.
        largest: never more than this, however much memory is free.
        trial: with "auto", how many items that is; more than one where a batch costs about as much as a single item.

    Raises:
        InputError: a batch size below 1.
    """

    def __init__(
        self,
        devices: torch.device | Sequence[torch.device],
        batch_size: BatchSize = "auto",
        largest: int = 64,
        trial: int = 1,
    ):
        if batch_size != "auto" and (isinstance(batch_size, str) or batch_size < 1):
            raise InputError(f"batch_size={batch_size!r} must be a positive number or 'auto'.")
        self.devices = [devices] if isinstance(devices, torch.device) else list(devices)
        self.measured = batch_size != "auto"
        self.size = trial if batch_size == "auto" else batch_size
        self.largest = largest

    def over(self, items: Sequence[Item], work: Callable[[list[Item]], Result]) -> Iterator[tuple[list[Item], Result]]:
        """Yield each batch of items with the result of `work` on it."""
        left = list(items)
        while left:
            batch = left[: self.size]
            before = [] if self.measured else [memory_in_use(device) for device in self.devices]
            try:
                with nullcontext() if self.measured else _uncollected():
                    result = work(batch)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self.size = _smaller(len(batch), self.devices)
                continue
            if not self.measured:
                needed = [(peak_memory(d) - was) // len(batch) for d, was in zip(self.devices, before, strict=True)]
                fitting = map(_affordable, needed, self.devices)
                self.size, self.measured = min(self.largest, *fitting), True
            left = left[len(batch) :]
            yield batch, result


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that an allocation failed, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _smaller(size: int, devices: Sequence[torch.device]) -> int:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    where = ", ".join(map(str, devices))
    if size == 1:
        raise InputError(
            f"Out of memory on {where} with a batch of one. Use a shorter prompt, a smaller dtype "
            "(dtype='bfloat16' in workbench.load), fewer units at a time (units=…), or a device with more "
            "memory."
        )
    half = size // 2
    warnings.warn(
        f"Out of memory on {where} with batches of {size}; going on with batches of {half}.",
        WorkbenchWarning,
        stacklevel=4,
    )
    return half


@contextmanager
def _uncollected() -> Generator[None]:
    """Garbage that waits to be collected stays, or what it frees would hide what the work needs.

    Collecting it beforehand instead takes longer than most work: a tenth of a second and more beside a model.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def memory_in_use(device: torch.device) -> int:
    """Bytes in use now; the high-water mark starts again from here where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def peak_memory(device: torch.device) -> int:
    """The high-water mark in bytes, of the device or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _affordable(needed: int, device: torch.device) -> int:
    """Items that fit into the allowed share of what is free, when one needed that much."""
    cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if cuda else psutil.virtual_memory().available
    return int(max(1, SHARE * free // max(needed, 1)))
