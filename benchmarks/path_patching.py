"""Speed of patching against named peers, on the same model and inputs in the same run; prints a table.

    python benchmarks/path_patching.py            # on the CPU: 8 layers x 16 heads, 128 tokens, 4 examples
    python benchmarks/path_patching.py --device cuda   # Llama-3-8B shape, random bf16 weights, 8 examples of 200 tokens

The peers are the frozen-forward way of path patching (a whole forward pass per sender in which every head is frozen by
a hook) and TransformerLens's own activation sweep (a forward pass per cell). On the GPU the frozen-forward peer is
timed on a few senders and multiplied up, which the table says.
"""

import argparse
import warnings

import torch
import transformer_lens.patching as tl_patching
from common import LLAMA_3_8B, print_table, random_model, seconds

import workbench as wb
from workbench.errors import WorkbenchWarning
from workbench.models.anatomy import Anatomy
from workbench.names import Unit

A, B = 5, 9
SMALL = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}


def random_pairs(n: int, length: int, shared: int, vocab: int) -> wb.PromptPairs:
    generator = torch.Generator().manual_seed(1)
    base = torch.randint(10, vocab, (n, length), generator=generator)
    source = torch.randint(10, vocab, (n, length), generator=generator)
    source[:, :shared] = base[:, :shared]
    return wb.PromptPairs(base, source, (A, B))


@torch.no_grad()
def frozen_forward(model, shape: Anatomy, pairs: wb.PromptPairs, senders: list[tuple[int, list[int]]]) -> torch.Tensor:
    """Logit difference per sender and example: everything run again with every head's z held by a hook."""
    base, source = (torch.tensor(s, device=shape.device) for s in (pairs.base, pairs.source))
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(shape.n_layers)]
    _, frozen = model.run_with_cache(base, names_filter=names)
    _, other = model.run_with_cache(source, names_filter=names)
    found = []
    for layer, heads in senders:
        hooks = []
        for index, name in enumerate(names):
            z = frozen[name]
            if index == layer:
                z = z.clone()
                z[:, -1, heads] = other[name][:, -1, heads]
            hooks.append((name, lambda _t, hook, z=z: z.clone()))
        with model.hooks(fwd_hooks=hooks):
            logits = model(base)[:, -1].float()
        found.append(logits[:, A] - logits[:, B])
    return torch.stack(found)


def tl_sweep(model, pairs: wb.PromptPairs) -> torch.Tensor:
    """TransformerLens's sweep over heads at all positions, one forward pass per cell."""
    base, source = torch.tensor(pairs.base), torch.tensor(pairs.source)
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
        return tl_patching.get_act_patch_attn_head_out_all_pos(
            model, base, cache, lambda logits: (logits[:, -1, A] - logits[:, -1, B]).mean()
        )


def cpu_table(repeats: int) -> list[tuple[str, ...]]:
    model = random_model(SMALL, "cpu", torch.float32)
    shape = wb.anatomy(model)
    rows = []
    pairs = random_pairs(4, 128, 0, SMALL["vocab_size"])
    every = [(layer, [head]) for layer in range(shape.n_layers) for head in range(shape.n_heads)]
    ours, result = seconds(lambda: wb.path_patch(model, pairs, unit="head", progress=False), repeats, "cpu")
    theirs, found = seconds(lambda: frozen_forward(model, shape, pairs, every), 0, "cpu")
    patched = torch.tensor(result["patched"].sel(metric="logit_diff").values).flatten(0, 1)
    rows.append(row("path patching, 128 heads", "frozen forward", ours, theirs, float((patched - found).abs().max())))
    for shared in (0, 96, 112):
        pairs = random_pairs(4, 128, shared, SMALL["vocab_size"])
        ours, result = seconds(
            lambda p=pairs: wb.activation_patch(model, p, hook="z", unit="head", progress=False),
            repeats,
            "cpu",
        )
        theirs, found = seconds(lambda p=pairs: tl_sweep(model, p), 0, "cpu")
        mean = torch.tensor(result["patched"].sel(metric="logit_diff").mean("example").values)
        what = f"activation patching of z, 128 heads, {shared} of 128 tokens shared"
        rows.append(row(what, "TransformerLens sweep", ours, theirs, float((mean - found).abs().max())))
    return rows


def row(what: str, peer: str, ours: float, theirs: float, difference: float) -> tuple[str, ...]:
    return what, peer, f"{ours:.3f} s", f"{theirs:.2f} s", f"{theirs / ours:.1f}x", f"{difference:.0e}"


def flops(shape: Anatomy, config: dict, pairs: wb.PromptPairs, shared: int, units_per_layer: int) -> float:
    """Operations of path patching: both forward passes without unembedding, and the replay."""
    d, m = config["hidden_size"], config["intermediate_size"]
    kv = shape.n_kv_heads * shape.d_head
    lengths = [len(s) for s in pairs.base + pairs.source]
    tokens = sum(lengths) - shared * len(pairs)
    attention = 2 * d * (sum(n**2 for n in lengths) - shared**2 * len(pairs))
    forward = shape.n_layers * (tokens * (2 * d * d + 2 * d * kv + 3 * d * m) + attention)
    mlps = sum((1 + units_per_layer * (layer + 1)) * len(pairs) for layer in range(shape.n_layers))
    projections = shape.n_layers * (1 + units_per_layer) * len(pairs)
    return 2.0 * (forward + mlps * 3 * d * m + projections * d * d)


def matrix_rate() -> float:
    """FLOP/s of a dense 8192^3 bf16 product on random data."""
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    elapsed, _ = seconds(lambda: [x @ y for _ in range(10)], 5, "cuda")
    return 10 * 2 * 8192**3 / elapsed


def gpu_table(repeats: int) -> list[tuple[str, ...]]:
    rate = matrix_rate()
    model = random_model(LLAMA_3_8B, "cuda", torch.bfloat16)
    shape = wb.anatomy(model)
    rows = [("dense 8192^3 bf16 product", "", f"{rate / 1e12:.0f} TFLOP/s", "", "", "")]
    for shared in (0, 160):
        pairs = random_pairs(8, 200, shared, LLAMA_3_8B["vocab_size"])
        for unit, units in (("kv_group", shape.n_kv_heads), ("head", shape.n_heads)):
            rows.append(gpu_row(model, shape, pairs, shared, unit, units, rate, repeats))
    return rows


def gpu_row(model, shape: Anatomy, pairs, shared: int, unit: Unit, units: int, rate: float, repeats: int) -> tuple:
    def work():
        return wb.path_patch(model, pairs, unit=unit, batch_size=len(pairs), progress=False)

    work()
    torch.cuda.reset_peak_memory_stats()
    weights = torch.cuda.memory_allocated()
    ours, _ = seconds(work, repeats, "cuda")
    extra = torch.cuda.max_memory_allocated() - weights
    size = shape.n_heads // units
    sample = [(layer, list(range(size))) for layer in range(0, shape.n_layers, 8)]
    theirs, _ = seconds(lambda: frozen_forward(model, shape, pairs, sample), 1, "cuda")
    total = theirs / len(sample) * units * shape.n_layers
    share = flops(shape, LLAMA_3_8B, pairs, shared, units) / ours / rate
    return (
        f"path patching, all {units * shape.n_layers} {unit}s, {shared} of 200 tokens shared",
        f"frozen forward ({len(sample)} senders, multiplied up)",
        f"{ours:.3f} s",
        f"{total:.0f} s",
        f"{total / ours:.0f}x",
        f"{100 * share:.0f} % of the matrix rate, {extra / 2**30:.2f} GiB beyond the weights",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", WorkbenchWarning)
    rows = cpu_table(arguments.repeats) if arguments.device == "cpu" else gpu_table(arguments.repeats)
    head = (
        "what",
        "peer",
        "workbench",
        "peer's time",
        "ratio",
        "largest difference" if arguments.device == "cpu" else "",
    )
    print_table(head, rows)


if __name__ == "__main__":
    main()
