"""Trains many organisms over the GPUs of one machine: one process per GPU, one folder per run.

A run that fails is logged and the others go on; runs that are already finished are skipped.
`DIR/<kind>/seed-<n>` is the layout.
"""

import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workbench.organisms.recipe import FULL_RECIPE, KINDS, SMALL_RECIPE
from workbench.organisms.train import train_organism

Job = tuple[int, int]


def seed_folder(out: Path, kv_heads: int, seed: int) -> Path:
    """Where the run of one seed lies."""
    return out / KINDS.get(kv_heads, f"organism-kv{kv_heads}") / f"seed-{seed}"


def plan(jobs: Sequence[Job], workers: int) -> list[list[Job]]:
    """Jobs for each worker: about equal in number and of few kinds, since a kind compiles once."""
    ordered = sorted(jobs)
    size, rest = divmod(len(ordered), workers)
    shares, start = [], 0
    for worker in range(workers):
        stop = start + size + (worker < rest)
        shares.append(ordered[start:stop])
        start = stop
    return [share for share in shares if share]


def sweep(
    jobs: Sequence[Job], out: Path, *, gpus: int, per_gpu: int = 1, data: Path, tokens: int | None = None
) -> list[Path]:
    """Runs `(kv_heads, seed)` jobs side by side and returns the folders that were finished."""
    out.mkdir(parents=True, exist_ok=True)
    processes = []
    for index, share in enumerate(plan(jobs, max(gpus, 1) * per_gpu)):
        words = [sys.executable, "-m", __name__, str(out), str(data), str(tokens or 0)]
        words += [f"{kv_heads}:{seed}" for kv_heads, seed in share]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(index % gpus)
        with (out / f"worker-{index}.log").open("w") as log:
            processes.append(subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment))
    for process in processes:
        process.wait()
    folders = [seed_folder(out, *job) for job in jobs]
    return [folder for folder in folders if (folder / "record.json").is_file()]


def run_share(out: Path, data: Path, tokens: int, jobs: Sequence[Job]) -> None:
    """What one worker does: its jobs in turn."""
    recipe = FULL_RECIPE if os.environ.get("CUDA_VISIBLE_DEVICES") else SMALL_RECIPE
    recipe = replace(recipe, tokens=tokens or recipe.tokens)
    for kv_heads, seed in jobs:
        folder = seed_folder(out, kv_heads, seed)
        try:
            train_organism(kv_heads, folder, seed=seed, data=data, recipe=recipe, report=_log)
        except Exception:
            _log(f"{folder} failed\n{traceback.format_exc()}")


def _log(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _job(word: str) -> Job:
    kv_heads, seed = word.split(":")
    return int(kv_heads), int(seed)


def main(words: Sequence[str]) -> None:
    """`python -m workbench.organisms.sweep OUT DATA TOKENS KV:SEED ...`, one worker."""
    out, data, tokens, *jobs = words
    run_share(Path(out), Path(data), int(tokens), [_job(job) for job in jobs])


if __name__ == "__main__":
    main(sys.argv[1:])
