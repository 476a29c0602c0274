"""Independent pieces of work in several processes of one thread each, which end with the process that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def workers(
    processes: int, set_up: Callable[..., object] = torch.set_num_threads, given: tuple = (1,)
) -> Generator[Executor]:
    """So many fresh processes, each of which first calls `set_up` with what is given; exceptions end them."""
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (set_up, given)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                if child not in others:
                    child.terminate()
            raise


def _begin(set_up: Callable[..., object], given: tuple) -> None:
    """Leave an interrupt to the process that started this one, and end when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_up(*given)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
