"""Speed and memory of `extreme_tokens` against a plain forward pass and against materialised patterns; prints a table.

    python benchmarks/extreme_tokens.py                  # on the CPU: a Llama of 38 M parameters, 4 texts of 512 tokens
    python benchmarks/extreme_tokens.py --device cuda    # Llama-3-8B shape, random bf16 weights, up to 32,768 tokens

The peer "plain forward" is the model's own forward pass with logits, through TransformerLens and through Hugging Face's
scaled-dot-product attention. The peer "materialised" keeps each layer's pattern, values and stream in a
TransformerLens hook and reduces them to the same measures, without the sink logit.
"""

import argparse
import warnings
from typing import Any

import torch
from common import LLAMA_3_8B, LLAMA_38M, print_table, random_model, seconds

import workbench as wb
from workbench.errors import WorkbenchWarning
from workbench.models.forward import hooked, run
from workbench.models.original import unwrapped

GIB = 2**30


@torch.no_grad()
def materialised(model, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Attention received, value norms through W_O and stream norms, from whole patterns in hooks."""
    parts, found = wb.anatomy(model), {}
    queries = torch.arange(tokens.shape[1], 0, -1, device=tokens.device)

    def received(layer):
        return lambda p: found.__setitem__(f"weight {layer}", p.sum(-2, dtype=torch.float32) / queries)

    def values(layer):
        def reduce(v):
            w_o, group = parts.blocks[layer].w_o(), parts.group_size
            norms = [(v[:, :, h // group] @ w_o[h]).float().norm(dim=-1) for h in range(parts.n_heads)]
            found[f"value {layer}"] = torch.stack(norms)

        return reduce

    def stream(layer):
        return lambda r: found.__setitem__(f"stream {layer}", r.float().norm(dim=-1))

    hooks = {}
    for layer in range(parts.n_layers):
        at = f"blocks.{layer}."
        hooks[at + "attn.hook_pattern"], hooks[at + "attn.hook_v"] = received(layer), values(layer)
        hooks[at + "hook_resid_post"] = stream(layer)
    with hooked(model, hooks):
        run(model, tokens)
    return found


@torch.no_grad()
def hugging_face(model, tokens: torch.Tensor) -> torch.Tensor:
    with unwrapped(model) as hf:
        before = hf.config._attn_implementation
        hf.set_attn_implementation("sdpa")
        try:
            return hf(input_ids=tokens, use_cache=False, logits_to_keep=tokens.shape[1]).logits
        finally:
            hf.set_attn_implementation(before)


def detect(model, tokens: torch.Tensor):
    return wb.extreme_tokens(model, tokens, batch_size=len(tokens), progress=False)


def difference(result, found: dict[str, torch.Tensor]) -> float:
    """Largest difference in attention received."""
    layers = range(result.sizes["layer"])
    return max(
        float((torch.tensor(result["sink_weight"][:, i].values) - found[f"weight {i}"].cpu()).abs().max())
        for i in layers
    )


def cpu_table(repeats: int) -> list[tuple[str, ...]]:
    model = random_model(LLAMA_38M, "cpu", torch.float32)
    tokens = torch.randint(10, LLAMA_38M["vocab_size"], (4, 512), generator=torch.Generator().manual_seed(1))
    plain = torch.no_grad()(model)
    ours, result = seconds(lambda: detect(model, tokens), repeats, "cpu")
    rows = []
    for name, work in (
        ("plain forward, TransformerBridge", lambda: plain(tokens)),
        ("plain forward, Hugging Face sdpa", lambda: hugging_face(model, tokens)),
        ("materialised", lambda: materialised(model, tokens)),
    ):
        theirs, found = seconds(work, repeats, "cpu")
        exact = f"{difference(result, found):.0e}" if name == "materialised" else ""
        rows.append(("4 x 512 tokens", name, f"{ours:.2f} s", f"{theirs:.2f} s", f"{ours / theirs:.2f}", exact))
    return rows


def gpu_table(repeats: int, lengths: list[int]) -> list[tuple[str, ...]]:
    model = random_model(LLAMA_3_8B, "cuda", torch.bfloat16)
    rows = []
    for length in lengths:
        tokens = torch.randint(10, LLAMA_3_8B["vocab_size"], (1, length), device="cuda")
        ours, extra, result = measured(lambda t=tokens: detect(model, t), repeats)
        mine = f"{ours:.2f} s, {extra / GIB:.1f} GiB"
        try:
            theirs, more, found = measured(lambda t=tokens: materialised(model, t), repeats)
        except torch.OutOfMemoryError:
            rows.append((f"1 x {length:,} tokens", "materialised", mine, "out of memory", "", ""))
        else:
            peer = f"{theirs:.2f} s, {more / GIB:.1f} GiB"
            exact = f"{difference(result, found):.0e}"
            rows.append((f"1 x {length:,} tokens", "materialised", mine, peer, f"{ours / theirs:.2f}", exact))
        torch.cuda.empty_cache()
        theirs, more, _ = measured(lambda t=tokens: hugging_face(model, t), repeats)
        peer = f"{theirs:.2f} s, {more / GIB:.1f} GiB"
        rows.append((f"1 x {length:,} tokens", "plain forward, sdpa", mine, peer, f"{ours / theirs:.2f}", ""))
    return rows


def measured(work: Any, repeats: int) -> tuple[float, int, Any]:
    """Median seconds, peak bytes beyond the weights, and the result."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    weights = torch.cuda.memory_allocated()
    time, result = seconds(work, repeats, "cuda")
    return time, torch.cuda.max_memory_allocated() - weights, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", WorkbenchWarning)
    cpu = arguments.device == "cpu"
    rows = cpu_table(arguments.repeats) if cpu else gpu_table(arguments.repeats, arguments.lengths)
    print_table(("what", "peer", "workbench", "peer's time", "time relative to peer", "largest difference"), rows)


if __name__ == "__main__":
    main()
