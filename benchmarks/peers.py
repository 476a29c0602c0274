"""One table of peers: the same cells with the same numbers, each peer in a process of its own, in interleaved rounds.

    python benchmarks/peers.py --python nnsight=PYTHON --python pyvene=PYTHON    # SmolLM2 on the CPU
    python benchmarks/peers.py --device cuda --shape llama-3-8b

`--python` names the interpreter of an environment in which a peer is installed; by default it is this one. A peer that
is not installed is left out, which the table says. Ours measures all cells. Peers run a whole forward pass for each, so
they are timed on some cells, spread over the layers, and multiplied up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from common import print_table, seconds
from peer_sweeps import SHAPES

SWEEPS = str(Path(__file__).with_name("peer_sweeps.py"))
ROOT = str(Path(__file__).parent.parent)


class Peer:
    """A peer's process."""

    def __init__(self, name: str, python: str, task: dict[str, Any], threads: int):
        paths = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
        self.name, self.rounds = name, []
        self.process = subprocess.Popen(
            [python, SWEEPS, name, json.dumps(task), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.ready = self._line("ready") is not None

    def _line(self, start: str) -> str | None:
        """The next line that begins so; None where the process ended."""
        for line in cast("Any", self.process.stdout):
            if line.startswith(start):
                return line.removeprefix(start)
        return None

    def measure(self) -> None:
        """One round."""
        stdin = cast("Any", self.process.stdin)
        stdin.write("run\n")
        stdin.flush()
        line = self._line("found ")
        if line is None:
            raise SystemExit(f"{self.name} stopped: {cast('Any', self.process.stderr).read()[-2000:]}")
        self.rounds.append(json.loads(line))

    def seconds(self, n_cells: int, clock: int = 0) -> float:
        """Seconds for all cells (`clock` 1: of processor time), median over rounds, the cells' part multiplied up."""
        return statistics.median(
            fixed[clock] + cells[clock] * n_cells / len(values) for fixed, cells, values, _ in self.counted
        )

    @property
    def counted(self) -> list[Any]:
        """All rounds but the first, in which kernels are chosen, where there are several."""
        return self.rounds[1:] or self.rounds

    @property
    def values(self) -> np.ndarray:
        """What the last round found."""
        return np.array(self.rounds[-1][2])

    def close(self) -> None:
        """End the process."""
        cast("Any", self.process.stdin).close()
        self.process.wait()


def table(names: Sequence[str], pythons: dict[str, str], task: dict[str, Any], n_cells: int, arguments: Any) -> None:
    """Measure peers on a task, and print what they took."""
    peers = [Peer(name, pythons.get(name, sys.executable), task, arguments.threads) for name in names]
    running = [peer for peer in peers if peer.ready]
    for _ in range(arguments.rounds + 1):
        for peer in running:
            peer.measure()
    ours = running[0]
    title = f"{task['what']} patching, all {n_cells} {task['unit']}s, {task['examples']} x {task['length']} tokens"
    print(f"\n{title}, {task['shared']} shared\n")
    rows = []
    for peer in peers:
        if not peer.ready:
            rows.append((peer.name, "did not start: " + last_line(peer), "", "", "", ""))
            continue
        took, processor = (peer.seconds(n_cells, clock) / ours.seconds(n_cells, clock) for clock in (0, 1))
        off = np.abs(peer.values - ours.values).max()
        effects = np.abs(ours.values - np.median(ours.values)).max()
        memory = f"{peer.rounds[-1][3] / 2**30:.2f} GiB" if task["device"] == "cuda" else ""
        rows.append(
            (
                peer.name,
                f"{peer.seconds(n_cells):.2f} s" + ("" if peer is ours else f" (from {len(peer.values)} cells)"),
                f"{took:.1f}x",
                f"{processor:.1f}x" if task["device"] == "cpu" else memory,
                f"{off:.0e}",
                f"{effects:.2g}",
            )
        )
    if task["device"] == "cuda":
        flops, rate = operations(task, shape_of(task["model"])), matrix_rate()
        share = flops / ours.seconds(n_cells) / rate
        print(
            f"Ours: {flops / 1e12:.1f} TFLOP, {100 * share:.0f} % of the {rate / 1e12:.0f} TFLOP/s of a dense product\n"
        )
    fourth = "processor time" if task["device"] == "cpu" else "memory beyond the weights"
    print_table(("peer", "time", "of ours", fourth, "largest difference", "largest effect"), rows)
    for peer in peers:
        peer.close()


def operations(task: dict[str, Any], shape: dict[str, int]) -> float:
    """Floating-point operations of ours, without the answers' logits."""
    d, m, layers, heads, kv_heads = shape["hidden_size"], shape["intermediate_size"], *list(shape.values())[:3]
    kv, units = kv_heads * d // heads, heads if task["unit"] == "head" else kv_heads
    examples, length, shared = task["examples"], task["length"], task["shared"]
    mlp, projections, pairs = 3 * d * m, 2 * d * d + 2 * d * kv, 2 * d * (length**2 - shared**2) / 2
    tokens = length - shared
    runs = 2 * layers * ((tokens + shared / 2) * (projections + mlp) + pairs + d * shared**2 / 2)
    if task["what"] == "path":
        cells = sum((1 + units * (layer + 1)) * mlp + (1 + units) * d * d for layer in range(layers))
    else:
        above = tokens * (projections + mlp) + pairs
        own, end = tokens * (mlp + d * d), tokens * 2 * d * kv
        cells = units * sum(own + (layers - 2 - layer) * above + end for layer in range(layers - 1))
    return 2.0 * examples * (runs + cells)


def matrix_rate() -> float:
    """FLOP/s of a dense 8192^3 bf16 product on random data."""
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    elapsed, _ = seconds(lambda: [x @ y for _ in range(10)], 5, "cuda")
    return 10 * 2 * 8192**3 / elapsed


def last_line(peer: Peer) -> str:
    """Why a process did not start."""
    return cast("Any", peer.process.stderr).read().strip().splitlines()[-1][:80]


def shape_of(model: str) -> dict[str, int]:
    """Layers, heads, KV heads and widths."""
    config = SHAPES.get(model) or json.loads((Path(model) / "config.json").read_text())
    names = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size", "intermediate_size")
    return {name: config[name] for name in names}


def spread(layers: int, units: int, n: int) -> list[tuple[int, int]]:
    """About `n` cells: the first units of some layers, which are spread evenly."""
    per_layer = min(units, n)
    chosen = np.linspace(0, layers - 1, max(1, n // per_layer)).round().astype(int).tolist()
    return [(layer, unit) for layer in sorted(set(chosen)) for unit in range(per_layer)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--shape", default="smollm2", help=f"smollm2 (fetched, or from its folder), or {', '.join(SHAPES)}"
    )
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PYTHON")
    parser.add_argument("--peers", default="transformer_lens,nnsight,pyvene")
    parser.add_argument("--what", choices=("activation", "path", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", type=int, default=18, help="cells on which peers are timed")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    pythons = dict(one.split("=", 1) for one in arguments.python)
    model, cuda = arguments.shape, arguments.device == "cuda"
    if model == "smollm2":
        from workbench.models.fetch import fetch

        model = str(fetch("smollm2-135m-instruct"))
    shape = shape_of(model)
    layers, heads, groups, *_ = shape.values()
    task: dict[str, Any] = {"model": model, "device": arguments.device}
    peers = arguments.peers.split(",")
    if arguments.what != "path":
        length, shared, examples = (200, 160, 8) if cuda else (128, 64, 1)
        cells = spread(layers, heads, arguments.cells)
        more = {"what": "activation", "unit": "head", "examples": examples, "length": length, "shared": shared}
        table(["workbench", *peers], pythons, task | more | {"cells": cells}, layers * heads, arguments)
    if arguments.what != "activation":
        for unit, units in (("kv_group", groups), ("head", heads)):
            more = {
                "what": "path",
                "unit": unit,
                "examples": 8 if cuda else 4,
                "length": 200 if cuda else 128,
                "shared": 0,
            }
            own = {"cells": spread(layers, units, 4)}
            table(["workbench", "transformer_lens"], pythons, task | more | own, layers * units, arguments)


if __name__ == "__main__":
    main()
