"""Examples in batches that fit: the first example is run alone and its memory measured, the rest follow from it.

Where memory runs out all the same, the batch is halved, and a warning says which size was used.
"""

import contextlib
import gc
import resource
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from tqdm.auto import tqdm

from workbench.errors import InputError, WorkbenchWarning

BatchSize = int | Literal["auto"]
LARGEST = 64
SHARE = 0.5
"""The part of free memory that a batch may fill."""


def in_batches(
    examples: Sequence[int],
    work: Callable[[list[int]], Any],
    *,
    device: torch.device,
    batch_size: BatchSize = "auto",
    progress: bool = True,
    label: str = "",
) -> Iterator[tuple[list[int], Any]]:
    """Apply `work` to the examples in batches; yields each batch's indices with its result.

    Args:
        examples: indices to work through.
        work: takes a list of indices.
        device: where it allocates.
        batch_size: examples at a time; "auto" measures what one example needs.
        progress: show a bar.
        label: what the bar says.

    Raises:
        InputError: a batch size below 1, or a single example that does not fit.
    """
    if batch_size != "auto" and (isinstance(batch_size, str) or batch_size < 1):
        raise InputError(f"batch_size={batch_size!r} must be a positive number or 'auto'.")
    left = list(examples)
    size = 1 if batch_size == "auto" else batch_size
    measured = batch_size != "auto"
    with tqdm(total=len(left), desc=label, unit="example", disable=not progress, leave=False) as bar:
        while left:
            batch = left[:size]
            before = _mark(device)
            try:
                result = work(batch)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                size = _smaller(len(batch), device)
                continue
            if not measured:
                size, measured = _affordable(_peak(device) - before, device), True
            left = left[len(batch) :]
            bar.update(len(batch))
            yield batch, result


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that an allocation failed, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _smaller(size: int, device: torch.device) -> int:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if size == 1:
        raise InputError(
            f"Out of memory on {device} with a single example. Use a shorter prompt, a smaller dtype (dtype='bfloat16' "
            "in workbench.load), fewer units at a time (units=…), or a device with more memory."
        )
    half = size // 2
    warnings.warn(
        f"Out of memory on {device} with batches of {size} examples; going on with batches of {half}.",
        WorkbenchWarning,
        stacklevel=4,
    )
    return half


def _mark(device: torch.device) -> int:
    """Bytes in use now; the high-water mark starts again from here where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def _peak(device: torch.device) -> int:
    """The high-water mark in bytes, of the device or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _affordable(needed: int, device: torch.device) -> int:
    """Examples that fit into the allowed share of what is free, when one needed that much."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    return int(min(LARGEST, max(1, SHARE * free // max(needed, 1))))
