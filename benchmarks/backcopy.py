"""The toy models' speed: training against TransformerLens's own classes, sampling, and full size on a GPU.

    python benchmarks/backcopy.py speed --threads 2        # small setting S on a CPU, turn by turn with its peer
    python benchmarks/backcopy.py speed --device cuda      # the same on a GPU
    python benchmarks/backcopy.py sampling --threads 2     # tokens drawn per second (also with --device cuda)
    python benchmarks/backcopy.py full                     # paper size on a GPU: ms per step, share of the ceiling

The peer is a HookedTransformer where TransformerLens 3.9 is installed, else the native TransformerBridge of 4.x. Its
plain loop draws its sequences step by step from the same task and steps torch's AdamW. Each loop takes its turn in
every round, the median counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import print_table, seconds

from workbench import bigram_backcopy as toys
from workbench.bigram_backcopy import training
from workbench.names import Precision

TASK = toys.Task()
Loop = Callable[[int], object]


def peer(device: str) -> tuple[str, torch.nn.Module]:
    """A one-layer model of setting S in TransformerLens's own classes."""
    sizes = {"n_layers": 1, "d_model": 64, "d_head": 64, "n_heads": 1, "d_mlp": 256, "d_vocab": TASK.d_vocab}
    common: dict[str, Any] = sizes | {
        "n_ctx": 64,
        "act_fn": "relu",
        "normalization_type": "LN",
        "seed": 0,
        "device": device,
    }
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        return "HookedTransformer", HookedTransformer(HookedTransformerConfig(**common))
    except ImportError:
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge.sources.native import boot

        config = TransformerBridgeConfig(**common, architecture="TransformerLensNative")
        return "native TransformerBridge", boot(config).to(device)


def plain_loop(device: str) -> tuple[str, Loop]:
    name, model = peer(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    place = iter(range(10**9))

    def steps(n: int) -> None:
        for _ in range(n):
            tokens = TASK.sample(32, 65, seed=next(place), device=device)
            loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return name, steps


def our_loop(precision: Precision, seeds: int = 1, device: str = "cpu", **sizes) -> Loop:
    shape = sizes.pop("shape", toys.architecture("1xTF"))
    batch, length, compiled = sizes.get("batch", 32), sizes.get("length", 64), sizes.get("compiled", False)
    place = torch.device(device)
    plan = training._Plan(
        *(TASK, shape, "adamw", 3e-3, 10**9, batch, length, tuple(range(seeds)), 128, place, precision, compiled)
    )
    run = training._Run(plan)
    return lambda n: run.advance(run.step + n)


def operations(shape: toys.Architecture, tokens: int, length: int) -> float:
    """Multiplications and additions of one step: three products of the forward pass's size."""
    weights = shape.n_layers * (4 * shape.d_model**2 + 2 * shape.d_model * shape.d_mlp) + shape.d_model * TASK.d_vocab
    return 6 * tokens * (weights + shape.n_layers * 2 * length * shape.d_model)


def ceiling(device: str, dtype: torch.dtype, size: int) -> float:
    """Operations per second of one large dense product."""
    one = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / seconds(lambda: one @ one, 5, device)[0]


def speed(arguments: argparse.Namespace) -> None:
    device = arguments.device
    torch.set_num_threads(arguments.threads)
    crowd = 4 if device == "cpu" else 32
    name, theirs = plain_loop(device)
    loops = {(name, 1): theirs}
    for precision in ("float32", "bfloat16"):
        for seeds in (1, crowd):
            loops[f"workbench, {precision}", seeds] = our_loop(precision, seeds, device)
    times: dict[tuple[str, int], list[float]] = {loop: [] for loop in loops}
    for turn in range(arguments.repeats + 1):
        for loop, steps in loops.items():
            taken, _ = seconds(lambda run=steps: run(arguments.steps), 0, device)
            if turn:
                times[loop].append(taken / arguments.steps / loop[1])
    base = statistics.median(times[name, 1])
    work = operations(toys.architecture("1xTF"), 2048, 64)
    top = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    most = {name: ceiling(device, dtype, 2048 if device == "cpu" else 8192) for name, dtype in top.items()}
    rows = []
    for (loop, seeds), values in times.items():
        middle = statistics.median(values)
        spread = f"{1e3 * min(values):.2f} to {1e3 * max(values):.2f}"
        share = work / middle / most["bfloat16" if "bfloat16" in loop else "float32"]
        label = loop if seeds == 1 else f"{loop}, {seeds} seeds in one run, per seed"
        rate = f"{2048 / middle / 1e3:,.0f}k"
        rows.append((label, f"{1e3 * middle:.2f}", spread, rate, f"{share:.0%}", f"{base / middle:.1f}x"))
    print(f"{where(arguments)}; median of {arguments.repeats} turns of {arguments.steps} steps")
    print_table(("training loop", "ms per step", "range", "tokens per second", "of the ceiling", "ratio"), rows)
    if device == "cpu":
        to_acceptance()


def to_acceptance() -> None:
    """Setting S to the acceptance values, measurements included."""
    for precision in ("float32", "bfloat16"):
        start = time.perf_counter()
        last = toys.train(TASK, "1xTF", precision=precision, device="cpu", progress=False).record.isel(step=-1, seed=0)
        taken, one = time.perf_counter() - start, last.isel(layer=0, head=0)
        print(
            f"1,200 steps in {precision} with all measurements: {taken:.1f} s; backcopy {float(last['backcopy']):.4f}, "
            f"bigram excess {float(last['bigram_excess']):.3f}, accuracy {float(last['accuracy']):.3f}, sink "
            f"{float(one['sink']):.2f}, value norm {float(one['value_bos'] / one['value_others']):.2f} of the others', "
            f"sink logit {float(one['sink_logit']):.1f}"
        )


def sampling(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    rows = []
    for batch, length in ((2048, 64), (16384, 64), (512, 256), (32768, 256)):
        if arguments.device == "cpu" and batch * length > 2**20:
            continue
        taken, _ = seconds(
            lambda b=batch, n=length: TASK.sample(b, n, device=arguments.device), arguments.repeats, arguments.device
        )
        rows.append((f"{batch:,} x {length}", f"{1e3 * taken:.2f}", f"{batch * length / taken / 1e6:,.1f} M"))
    print(where(arguments))
    print_table(("sequences x tokens", "ms", "tokens per second"), rows)


def full(arguments: argparse.Namespace) -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {arguments.steps} steps after 20")
    rows, tokens = [], 512 * 256
    for name, precision in (("1xTF", "bfloat16"), ("3xTF", "bfloat16"), ("1xTF", "tf32"), ("3xTF", "tf32")):
        shape = toys.architecture(name, d_model=256, n_ctx=256)
        steps = our_loop(precision, 1, "cuda", shape=shape, batch=512, length=256, compiled=True)
        steps(20)
        taken = seconds(lambda run=steps: run(arguments.steps), 0, "cuda")[0] / arguments.steps
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        torch.set_float32_matmul_precision("high")
        share = operations(shape, tokens, 256) / taken / ceiling("cuda", dtype, 8192)
        torch.set_float32_matmul_precision("highest")
        minutes = f"{1e4 * taken / 60:.1f} min"
        rows.append((name, precision, f"{1e3 * taken:.2f}", f"{tokens / taken / 1e6:.1f} M", f"{share:.0%}", minutes))
    print_table(("model", "products", "ms per step", "tokens per second", "of the ceiling", "10,000 steps"), rows)


def where(arguments: argparse.Namespace) -> str:
    if arguments.device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{model}, {arguments.threads} thread(s), torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, work, steps in (("speed", speed, 40), ("sampling", sampling, 0), ("full", full, 200)):
        command = commands.add_parser(name)
        command.set_defaults(work=work)
        command.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--steps", type=int, default=steps)
        command.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    arguments.work(arguments)


if __name__ == "__main__":
    main()
