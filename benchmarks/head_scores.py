"""Speed and memory of head scores and of zeroing heads online; prints two tables.

    python benchmarks/head_scores.py                  # on the CPU: a Llama of 38 M parameters, 4 texts of 128 tokens
    python benchmarks/head_scores.py --device cuda    # Llama-3-8B shape, random bf16 weights, 4 texts of 2,048 tokens

First table: each run against a plain forward pass with logits of the same TransformerLens model. Second table: the
attention scores of one text in chunks of queries against the peer "materialised", which keeps each layer's pattern in a
TransformerLens hook while it computes the same two scores, at growing lengths; on the CPU in a small model, each in a
process of its own, whose peak resident memory is compared before and after.
"""

import argparse
import json
import resource
import subprocess
import sys
import warnings
from typing import get_args

import torch
from common import LLAMA_3_8B, LLAMA_38M, print_table, random_model, seconds

from workbench.errors import WorkbenchWarning
from workbench.inactive_heads import head_scores, inactive_head_thresholds, recording, zero_heads
from workbench.models.forward import hooked, run
from workbench.names import HeadScoreName

LONG = LLAMA_38M | {"vocab_size": 1024, "num_hidden_layers": 4, "max_position_embeddings": 32768}
GIB = 2**30
OF_ATTENTION: list[HeadScoreName] = ["AWFT", "AEQD"]


@torch.no_grad()
def ratios(shape: dict, device: str, dtype: torch.dtype, length: int, repeats: int) -> None:
    """The first table."""
    model = random_model(shape, device, dtype)
    tokens = torch.randint(10, shape["vocab_size"], (4, length), device=device)
    free: list[HeadScoreName] = [name for name in get_args(HeadScoreName) if not name.startswith(("AWFT", "AEQD"))]
    tau = inactive_head_thresholds(head_scores(model, tokens[:1], "AHON_LN", progress=False), [0.1])["tau"].item()

    def forward():
        return model(tokens)

    def recorded():
        with recording(model):
            return forward()

    def zeroed():
        with zero_heads(model, score="AHON_LN", tau=tau):
            return forward()

    works = {
        "plain forward pass with logits": forward,
        "the same, all fifteen scores recorded": recorded,
        "the same, zeroed online by AHON_LN": zeroed,
        "head_scores, all fifteen": lambda: head_scores(model, tokens, batch_size=4, progress=False),
        "head_scores, the eleven without attention": lambda: head_scores(
            model, tokens, free, batch_size=4, progress=False
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    memory = dict.fromkeys(works, "–")
    for _ in range(repeats):  # in turns, so that another process disturbs all of them alike
        for name, work in works.items():
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            times[name].append(seconds(work, 0, device)[0])
            if device == "cuda":
                memory[name] = f"{(torch.cuda.max_memory_allocated() - before) / GIB:.2f} GiB"
    best = {name: min(found) for name, found in times.items()}
    plain = best["plain forward pass with logits"]
    rows = [(name, f"{time:.3f} s", f"{time / plain:.2f}x", memory[name]) for name, time in best.items()]
    print_table((f"4 x {length} tokens", "shortest time", "of the forward pass", "memory beyond the weights"), rows)


@torch.no_grad()
def materialised(model, tokens: torch.Tensor) -> list[torch.Tensor]:
    """First-token weight and entropy from whole patterns in hooks."""
    found = []

    def keep(pattern):
        wide = pattern.float()
        found.append(torch.stack([wide[..., 0].mean(-1), torch.special.entr(wide).sum(-1).mean(-1)]))

    hooks = {f"blocks.{layer}.attn.hook_pattern": keep for layer in range(model.cfg.n_layers)}
    with hooked(model, hooks):
        run(model, tokens)
    return found


def one_length(way: str, length: int, device: str) -> dict:
    """Time, memory and scores of one text, in this process."""
    cuda = device == "cuda"
    shape = LLAMA_3_8B | {"max_position_embeddings": 32768, "num_hidden_layers": 4} if cuda else LONG
    model = random_model(shape, device, torch.bfloat16 if cuda else torch.float32)
    tokens = torch.randint(10, shape["vocab_size"], (1, length), device=device)
    ways = {
        "chunks": lambda t: head_scores(model, t, OF_ATTENTION, batch_size=1, progress=False),
        "materialised": lambda t: materialised(model, t),
    }
    ways[way](tokens[:, :64])
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    time, _ = seconds(lambda: ways[way](tokens), 0, device)
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"time": time, "memory": peak - before}


def long_texts(lengths: list[int], device: str) -> None:
    """The second table, a process per cell."""
    rows = []
    for length in lengths:
        cells = []
        for way in ("chunks", "materialised"):
            command = [sys.executable, __file__, "--device", device, "--one", way, str(length)]
            ran = subprocess.run(command, capture_output=True, text=True)
            if ran.returncode:
                cells += ["does not fit", "–"]
                continue
            told = json.loads(ran.stdout.splitlines()[-1])
            cells += [f"{told['time']:.2f} s", f"{told['memory'] / GIB:.2f} GiB"]
        rows.append((f"{length:,}", *cells))
    print_table(("tokens", "in chunks", "memory", "materialised", "memory"), rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="*")
    parser.add_argument("--one", nargs=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore", WorkbenchWarning)
    torch.manual_seed(0)
    cuda = options.device == "cuda"
    if options.one:
        print(json.dumps(one_length(options.one[0], int(options.one[1]), options.device)))
        return
    if cuda:
        ratios(LLAMA_3_8B, "cuda", torch.bfloat16, 2048, options.repeats)
    else:
        ratios(LLAMA_38M, "cpu", torch.float32, 128, options.repeats)
    print()
    default = [2048, 8192, 32768] if cuda else [2048, 8192]
    long_texts(default if options.lengths is None else options.lengths, options.device)


if __name__ == "__main__":
    main()
