"""Independent pieces of work in several processes of one thread each."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from typing import Any

import torch


def workers(processes: int, set_up: Callable[..., object] = torch.set_num_threads, given: tuple = (1,)) -> Executor:
    """So many fresh processes, each of which first calls `set_up` with what is given."""
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), set_up, given)


def finished(
    pool: Executor, work: Callable[..., Any], calls: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each call's arguments and result, as it is done; a failure is raised when everything else is done."""
    running = {pool.submit(work, *call): call for call in calls}
    failed = []
    for future in as_completed(running):
        if error := future.exception():
            failed.append(error)
        else:
            yield running[future], future.result()
    if failed:
        raise failed[0]
