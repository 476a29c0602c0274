"""Time and memory of the detectors against a plain forward pass, and the exactness of kernels.

    python benchmarks/detectors.py --out DIR        # one GPU: Llama-3-8B shape, random bf16 weights, to 32,768 tokens
    python benchmarks/detectors.py --cpu --out DIR  # SmolLM2-135M shape, float32, 4 x 512 and 1 x 4,096 tokens

The peer of every row is the Hugging Face model's own forward pass with logits and scaled-dot-product attention. All
run in turns in one process, and the shortest time is shown: seconds on a GPU, on a CPU those of its cores together, so
that other processes disturb them little. Kernels are compared with materialised attention in float64. Writes
`detectors.json` and `detectors.md`.
"""

import argparse
import importlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from common import LLAMA_3_8B, SMOLLM2_135M, random_model, table
from einops import repeat
from torch.nn.functional import scaled_dot_product_attention

import workbench as wb
from workbench.errors import InputError, WorkbenchWarning
from workbench.inactive_heads import inactive_head_thresholds, recording, zero_heads
from workbench.models import fused, kernels
from workbench.models.original import unwrapped

GIB = 2**30
KINDS: dict[str, dict[str, Any]] = {
    "causal": {},
    "grouped heads": {"kv_heads": 2},
    "window of 37": {"window": 37, "kv_heads": 2},
    "soft cap of 5": {"softcap": 5.0},
    "learned sinks": {"sinks": True},
    "window, cap and sinks": {"window": 150, "softcap": 3.0, "sinks": True, "kv_heads": 1},
    "heads of 80": {"width": 80},
    "heads of 192, values of 128": {"width": 192, "value_width": 128},
    "heads of 256": {"width": 256},
}


def plain(model: Any, tokens: torch.Tensor, logits: bool = True) -> None:
    """The Hugging Face model's own pass."""
    with torch.no_grad(), unwrapped(model) as hf:
        before = hf.config._attn_implementation
        hf.set_attn_implementation("sdpa")
        try:
            (hf if logits else hf.base_model)(input_ids=tokens, use_cache=False)
        finally:
            hf.set_attn_implementation(before)


def works(model: Any, tokens: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """What is measured, by name; the first is the peer."""
    few = tokens[:1, :64]
    tau = inactive_head_thresholds(wb.head_scores(model, few, "AHON_LN", progress=False), [0.1])["tau"].item()
    free: list[Any] = [name for name in wb.inactive_heads.FIFTEEN if not name.startswith(("AWFT", "AEQD"))]
    options: dict[str, Any] = {"batch_size": len(tokens), "progress": False}

    def bridge() -> None:
        with torch.no_grad():
            model(tokens)

    def zeroed() -> None:
        with zero_heads(model, score="AHON_LN", tau=tau):
            bridge()

    def recorded(scores: Any) -> None:
        with recording(model, scores):
            bridge()

    return {
        "plain forward pass, sdpa, with logits": lambda: plain(model, tokens),
        "the same without logits": lambda: plain(model, tokens, logits=False),
        "extreme_tokens": lambda: wb.extreme_tokens(model, tokens, **options),
        "head_scores, all fifteen": lambda: wb.head_scores(model, tokens, **options),
        "head_scores, the eleven without attention": lambda: wb.head_scores(model, tokens, free, **options),
        "zero_heads online by AHON_LN, with logits": zeroed,
        "recording AHON_LN, with logits": lambda: recorded("AHON_LN"),
        "recording all fifteen, with logits": lambda: recorded(None),
        "plain forward pass, TransformerBridge": bridge,
    }


def measure(model: Any, tokens: torch.Tensor, repeats: int) -> list[dict[str, Any]]:
    """Shortest time and peak memory beyond what was in use, of each work."""
    cuda = tokens.is_cuda
    rows: dict[str, dict[str, Any]] = {
        name: {"work": name, "tokens": f"{len(tokens)} x {tokens.shape[1]:,}"} for name in works(model, tokens)
    }
    for turn in range(repeats + 1):
        for name, work in works(model, tokens).items():
            if "failed" in rows[name]:
                continue
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                torch.cuda.synchronize()
            start = time.perf_counter() if cuda else time.process_time()
            try:
                work()
            except (torch.OutOfMemoryError, InputError) as error:
                rows[name]["failed"] = type(error).__name__
                continue
            if cuda:
                torch.cuda.synchronize()
                rows[name]["gib"] = (torch.cuda.max_memory_allocated() - before) / GIB
            took = (time.perf_counter() if cuda else time.process_time()) - start
            rows[name]["first_seconds" if turn == 0 else "seconds"] = (
                took if turn == 0 else min(took, rows[name].get("seconds", took))
            )
    peer = next(iter(rows.values()))["seconds"]
    return [row | ({"ratio": row["seconds"] / peer} if "seconds" in row else {}) for row in rows.values()]


def materialised(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kind: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Everything that fused attention tells, from a whole pattern in float64."""
    group, length = q.shape[1] // k.shape[1], q.shape[2]
    q, k, v = (x.double() for x in (q, *(repeat(x, "b kv n d -> b (kv g) n d", g=group) for x in (k, v))))
    logits = q @ k.transpose(-1, -2) * kind["scaling"]
    if cap := kind.get("softcap"):
        logits = cap * torch.tanh(logits / cap)
    visible = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    visible = visible.triu(1 - kind["sliding_window"]) if kind.get("sliding_window") else visible
    masked = logits.masked_fill(~visible, -torch.inf)
    if kind.get("s_aux") is not None:
        column = kind["s_aux"].double()[None, :, None, None].expand(*q.shape[:3], 1)
        masked = torch.cat([masked, column], -1)
    pattern = masked.softmax(-1)[..., :length]
    others = logits.masked_fill(~visible.tril(-1), 0)
    return {
        "z": (pattern @ v).transpose(1, 2),
        "received": pattern.sum(-2),
        "logits": others.sum(-2),
        "entropy": torch.special.entr(pattern).sum((-1, -2)),
        "sums of logits": others.sum(-1),
    }


def exactness(device: str, dtype: torch.dtype, length: int = 700) -> list[dict[str, Any]]:
    """Largest relative errors of fused attention on every kind."""
    rows = []
    for name, kind in KINDS.items():
        heads, width = 4, kind.get("width", 64)
        generator = torch.Generator(device).manual_seed(0)

        def draw(n: int, size: int, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(2, n, length, size, generator=generator, device=device).to(dtype)

        kv_heads = kind.get("kv_heads", heads)
        q, k, v = draw(heads, width), draw(kv_heads, width), draw(kv_heads, kind.get("value_width", width))
        sinks = torch.randn(heads, generator=generator, device=device) if kind.get("sinks") else None
        given = {"scaling": 1.5 * width**-0.5, "softcap": kind.get("softcap"), "sliding_window": kind.get("window")}
        given["s_aux"] = sinks
        found = fused.attend(q, k, v, 0, given)
        if found is None:
            rows.append({"kind": name, "dtype": str(dtype), "by": "in chunks"})
            continue
        counted = torch.ones(2, length, dtype=torch.bool, device=device)
        sums = found[1].over_queries(counted, counted.float(), entropy=True)
        ours = {"z": found[0], "sums of logits": found[1].other_logits()} | sums._asdict()
        wanted = materialised(q, k, v, given)
        errors = {what: float((x.double() - wanted[what]).norm() / wanted[what].norm()) for what, x in ours.items()}
        rows.append(
            {"kind": name, "dtype": str(dtype), "by": "kernel" if found[1].sums is not None else "library"} | errors
        )
    return rows


def kernel_times(lengths: list[int]) -> list[dict[str, Any]]:
    """Milliseconds per layer of attention and of what detectors add to it, at Llama-3-8B shape."""
    do_bench = importlib.import_module("triton.testing").do_bench

    rows = []
    for length in lengths:
        q, k, v = (torch.randn(1, n, length, 128, device="cuda", dtype=torch.bfloat16) for n in (32, 8, 8))
        found = fused.attend(q, k, v, 0, {})
        assert found is not None
        seen = found[1]
        real = torch.ones(1, length, dtype=torch.bool, device="cuda")
        weights = real.float()
        timed = {
            "sdpa": lambda q=q, k=k, v=v: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
            "with logsumexp": lambda q=q, k=k, v=v: fused.attend(q, k, v, 0, {}),
            "attention kernel": lambda q=q, k=k, v=v: kernels.attend(q, k, v, 128**-0.5),
            "received": lambda seen=seen, real=real: seen.over_queries(real),
            "received, logits": lambda seen=seen, real=real, weights=weights: seen.over_queries(real, weights),
            "received, entropy": lambda seen=seen, real=real: seen.over_queries(real, entropy=True),
            "sums of logits": seen.other_logits,
        }
        rows.append({"tokens": length} | {name: do_bench(work, return_mode="median") for name, work in timed.items()})
    return rows


def shown(rows: list[dict[str, Any]]) -> str:
    """A Markdown table with a column for every key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return table(columns, [[_cell(row.get(column, "")) for column in columns] for row in rows])


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768], help="on the GPU")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", WorkbenchWarning)
    device, dtype = ("cpu", torch.float32) if options.cpu else ("cuda", torch.bfloat16)
    tables = {"exactness": [row for dtype in {torch.float32, dtype} for row in exactness(device, dtype)]}
    print(shown(tables["exactness"]), flush=True)
    if not options.cpu:
        tables["milliseconds per layer"] = kernel_times(options.lengths)
        print(shown(tables["milliseconds per layer"]), flush=True)
    shape = SMOLLM2_135M if options.cpu else LLAMA_3_8B | {"max_position_embeddings": 32768}
    model = random_model(shape, device, dtype)
    tables["detectors"] = []
    for size in [(4, 512), (1, 4096)] if options.cpu else [(1, length) for length in options.lengths]:
        tokens = torch.randint(10, shape["vocab_size"], size, device=device)
        tables["detectors"] += measure(model, tokens, options.repeats)
        print(shown(tables["detectors"][-9:]), flush=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "detectors.json").write_text(json.dumps(tables, indent=1))
        (options.out / "detectors.md").write_text("\n\n".join(shown(rows) for rows in tables.values()) + "\n")


if __name__ == "__main__":
    main()
