"""Commands are killed at random moments, alone and two at a time, and given again; nothing is lost or counted twice.

    python -m benchmarks.kill --kills 3 --seed 0

1. A command runs undisturbed. Its files are what the others are compared with.
2. It is started again in another folder and killed (SIGKILL) at a random moment, again and again, then run to its end;
   likewise with two processes of it at once, of which one must be refused.
3. The same files must be there, with the same numbers: exactly, or to rounding where batches were cut otherwise.

Processes are forked from one that has loaded the models, so that a kill costs no start.
"""

import argparse
import functools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from safetensors.torch import load_file

import workbench as wb
from benchmarks.common import print_table
from workbench.cli.app import main as workbench
from workbench.papers import cache
from workbench.runs import open_result

COMMANDS = {
    "patch": "patch organism-gqa --n 8 --resume --out {}/patch.nc",
    "dormant": "dormant organism-mqa --n 12 --scores AHON_LN --shares 0.1 0.2 --resume --out {}/dormant.nc",
    "extreme tokens": "extreme tokens organism-gqa --resume --out {}/tokens.nc",
    "extreme domains": "extreme domains organism-mqa --n 4 --layers 1 --resume --out {}/domains.nc",
    "sycophancy": "sycophancy organism-gqa --n 12 --resume --out {}/sycophancy.nc",
    "eval": "eval organism-gqa --limit 24 --resume --out {}/eval.nc",
    "leaf find": "leaf find --student organism-mqa --teacher organism-gqa --n 24 --draws 2 --resume --out {}/found.nc",
    "leaf check": "leaf check --student organism-mqa --teacher organism-gqa --n 24 --draws 2 --scores random --resume "
    "--out {}/check.nc",
    "tune": "tune organism-mqa --n 8 --dialogues 16 --steps 6 --measure 6 --out {}/tuned",
    "report": "report organism-mqa --n 4 --out {}/report",
}
"""What is killed, with what of its size is small enough to be done many times."""
VARYING = ("date", "duration_s", "command", "figure_config")
Job = Callable[[Path], int]


def command(words: str) -> Job:
    """A command line as a function of the folder to which it writes."""
    return lambda folder: workbench([word.format(folder) for word in words.split()])


def organism(folder: Path) -> int:
    """`workbench organism train` of a model that takes seconds."""
    from workbench.organisms.corpus import build_streams, save_streams
    from workbench.organisms.recipe import OrganismRecipe
    from workbench.organisms.tokenizer import load_tokenizer
    from workbench.organisms.train import train_organism

    streams = Path(tempfile.gettempdir()) / f"streams-{os.getppid()}.npz"
    if not streams.exists():
        amounts = {"prose": 0, "code": 0, "facts": 300, "dialogues": 300, "abilities": 200}
        save_streams(build_streams(load_tokenizer(), None, amounts), streams)
    recipe = OrganismRecipe(d_model=32, layers=2, d_mlp=64, tokens=60_000, batch=8, learning_rate=1e-2, evaluation=8)
    try:
        train_organism(2, folder / "organism", recipe=recipe, data=streams, device="cpu")
    except wb.InputError as refusal:
        sys.stderr.write(f"workbench: {refusal}\n")
        return 2
    return 0


JOBS: dict[str, Job] = {name: command(words) for name, words in COMMANDS.items()} | {"organism train": organism}


def started(job: Job, folder: Path, log: Path) -> int:
    """The process id of a fork that does the job."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = job(folder)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(pid: int, wait: bool = True) -> int | None:
    """How a process ended: its exit code, minus the number of a signal, or None if it runs."""
    found, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def attack(job: Job, here: Path, kills: int, processes: int, rng: random.Random, seconds: float) -> tuple[int, int]:
    """Kill a job so often, in as many folders as that takes; how many kills there were, and how many were refused."""
    done = refused = n = 0
    held = "is being written by another run"
    while done < kills:
        folder, log = here / f"{processes}-{n}", here / f"{processes}-{n}.log"
        folder.mkdir()
        n += 1
        codes: list[int | None] = []
        while done < kills and 0 not in codes:
            running = [started(job, folder, log) for _ in range(processes)]
            time.sleep(seconds * rng.uniform(0.02, 0.6))
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            codes = [ended(pid) for pid in running]
            done += codes.count(-signal.SIGKILL)
        if 0 not in codes and (code := ended(started(job, folder, log))):
            raise AssertionError(f"The last run ended with {code}: {log.read_text()[-3000:]}")
        told = log.read_text()
        refused += told.count(held)
        if "Traceback" in told or "Exception ignored" in told:
            raise AssertionError(f"What was said: {told[-3000:]}")
        refuse_difference(here / "whole", folder)
    return done, refused


def refuse_difference(whole: Path, other: Path) -> None:
    """Raise where two folders differ in files or in numbers."""
    names = [sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) for folder in (whole, other)]
    if names[0] != names[1]:
        raise AssertionError(f"Files differ: {set(names[0]) ^ set(names[1])}")
    for name in names[0]:
        if name.endswith(".nc"):
            compare(*(open_result(folder / name) for folder in (whole, other)), name)
        elif name.endswith((".safetensors", ".state")):
            first, second = (load_file(folder / name) for folder in (whole, other))
            for key, values in first.items():
                if not torch.allclose(values.double(), second[key].double(), rtol=0, atol=0, equal_nan=True):
                    raise AssertionError(f"{name}: {key} differs")


def compare(whole: xr.Dataset, other: xr.Dataset, name: str) -> None:
    """Raise where two results differ by more than rounding; whole numbers and texts must be equal."""
    xr.testing.assert_allclose(whole, other, rtol=1e-4, atol=1e-6)
    for key in (whole.attrs.keys() | other.attrs.keys()) - set(VARYING):
        first, second = whole.attrs.get(key, ""), other.attrs.get(key, "")
        close = isinstance(first, float) and np.isclose(first, second, rtol=1e-4, equal_nan=True)
        if not close and first != second:
            raise AssertionError(f"{name}: {key} is {first} and {second}")


def campaign(names: Sequence[str], kills: int, seed: int) -> list[tuple[str, ...]]:
    """Attack each job with one process and with two; a row of numbers for each."""
    rng, rows = random.Random(seed), []
    for name in names:
        with tempfile.TemporaryDirectory() as path:
            here = Path(path)
            (here / "whole").mkdir()
            began = time.perf_counter()
            if code := ended(started(JOBS[name], here / "whole", here / "whole.log")):
                raise AssertionError(f"{name} ended with {code}: {(here / 'whole.log').read_text()[-3000:]}")
            seconds = time.perf_counter() - began
            one, _ = attack(JOBS[name], here, kills, 1, rng, seconds)
            two, refused = attack(JOBS[name], here, kills, 2, rng, seconds)
            rows.append((name, f"{seconds:.1f}", str(one), str(two), str(refused)))
            print(" ".join(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Attack the jobs asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(JOBS), default=list(JOBS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    vars(cache)["quiet_load"] = functools.cache(cache.quiet_load)
    for model in ("organism-gqa", "organism-mqa"):
        cache.quiet_load(model)
    rows = campaign(asked.only, asked.kills, asked.seed)
    print_table(("command", "seconds undisturbed", "kills, one process", "kills, two processes", "refused"), rows)
    print(f"{sum(int(row[2]) + int(row[3]) for row in rows)} kills, all results equal")


if __name__ == "__main__":
    main()
