"""Speed and memory of pinpoint tuning against attention tuning, full fine-tuning and LoRA; prints a table.

    python benchmarks/pinpoint.py                  # on the CPU: a Llama of 38 M parameters, batches of 4 x 128 tokens
    python benchmarks/pinpoint.py --device cuda    # Llama-3-8B shape, random bf16 weights, batches of 4 x 512 tokens
    python benchmarks/pinpoint.py --organism       # a whole tuning of 4 % of organism-gqa's heads by the paper's recipe

Every way trains a fresh model on the same rows with AdamW (fused on a GPU), the loss on all tokens, and the shortest of
some updates counts. LoRA (rank 16 on q, k, v and o) needs `pip install peft` and is left out without it. Groups and
heads are spread over the layers from the top, 4 % of the heads. Optimizer state is compared with two float32 moments of
every parameter, which is what full fine-tuning holds; on a GPU the row of all parameters has bf16 weights, gradients
and moments, the least that full tuning can do with. `--layers` makes the 8B shape less deep.
"""

import argparse
import gc
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from common import LLAMA_3_8B, LLAMA_38M, random_llama, seconds

import workbench as wb
from workbench.tuning import TuningRecipe, training_dialogues
from workbench.tuning.deltas import Tunable
from workbench.tuning.slices import slices_of
from workbench.tuning.tokens import Row
from workbench.tuning.training import summed_loss
from workbench.tuning.units import units_of

GIB = 2**30
COLUMNS = ("tokens per second", "trained", "optimizer state", "of full tuning's", "peak memory, weights included")


def counts(shape: dict[str, int]) -> Any:
    """What the slices of a Llama need to know of it, without a model that would take room."""
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    return SimpleNamespace(
        n_layers=shape["num_hidden_layers"],
        n_heads=heads,
        n_kv_heads=kv_heads,
        group_size=heads // kv_heads,
        d_head=shape["hidden_size"] // heads,
    )


def with_lora(hf: Any) -> list[Any]:
    from peft import LoraConfig, get_peft_model  # ty: ignore[import-not-found]

    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    wrapped = get_peft_model(hf, LoraConfig(r=16, lora_alpha=32, target_modules=names))
    return [p for p in wrapped.parameters() if p.requires_grad]


def ways(parts: Any) -> dict[str, Callable[[Any], list[Any]]]:
    """What each way trains of a model."""
    k = max(1, round(0.04 * parts.n_layers * parts.n_kv_heads))
    spread = [(parts.n_layers - 1 - i % parts.n_layers, i // parts.n_layers) for i in range(k)]
    groups = [(layer, g * parts.group_size + i) for layer, g in spread for i in range(parts.group_size)]
    n = len(groups)
    heads = [(parts.n_layers - 1 - i % parts.n_layers, i // parts.n_layers) for i in range(n)]

    def slices(units: Any, kv: bool | None = None) -> Callable[[Any], list[Any]]:
        def attach(hf: Any) -> list[Any]:
            return list(Tunable(hf, slices_of(hf, parts, units_of(parts, units, kv))).parameters.values())

        return attach

    return {
        f"{k} KV groups ({n} heads)": slices(groups),
        f"{k} KV groups with keys and values": slices(groups, True),
        f"{n} heads": slices(heads),
        "LoRA, rank 16 (peft)": with_lora,
        "all attention": slices("attention"),
        "all parameters": slices("all"),
    }


def measured(
    hf: Any, attach: Callable[[Any], list[Any]], rows: list[Row], repeats: int
) -> tuple[float, int, int, float]:
    """Shortest time of an update, trained numbers, bytes of optimizer state, and peak memory in GiB."""
    device = hf.device.type
    hf.set_attn_implementation("sdpa")
    hf.requires_grad_(False)
    parameters = attach(hf)
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=device == "cuda")

    def step() -> None:
        with torch.enable_grad():
            summed_loss(hf, rows).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    shortest = min(seconds(step, 0, device)[0] for _ in range(repeats))
    state = sum(m.numel() * m.element_size() for s in optimizer.state.values() for k, m in s.items() if k != "step")
    peak = torch.cuda.max_memory_allocated() / GIB if device == "cuda" else float("nan")
    return shortest, sum(p.numel() for p in parameters), state, peak


def compare(device: str, layers: int | None, repeats: int) -> None:
    cuda = device == "cuda"
    shape, length = (LLAMA_3_8B, 512) if cuda else (LLAMA_38M, 128)
    shape = shape | {"num_hidden_layers": layers or shape["num_hidden_layers"]}
    dtype = torch.bfloat16 if cuda else torch.float32
    parts = counts(shape)
    full = 8 * sum(p.numel() for p in random_llama(shape, "meta", dtype).parameters())
    generator = torch.Generator().manual_seed(0)
    rows = [
        Row(tuple(torch.randint(10, shape["vocab_size"], (length,), generator=generator).tolist()), 1) for _ in range(4)
    ]
    print(f"| {shape['num_hidden_layers']} layers, 4 x {length} tokens | " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * (len(COLUMNS) + 1))
    for name, attach in ways(parts).items():
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
        try:
            time_, count, state, peak = measured(random_llama(shape, device, dtype), attach, rows, repeats)
        except ImportError:
            continue
        except torch.OutOfMemoryError:
            print(f"| {name} | does not fit |" + " |" * (len(COLUMNS) - 1), flush=True)
            continue
        memory = f"{peak:.1f} GiB" if cuda else "–"
        cells = (f"{4 * length / time_:,.0f}", f"{count:,}", f"{state / 2**20:,.1f} MiB", f"{state / full:.2%}", memory)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def tune_organism(steps: int) -> None:
    """Select by path patching, then a whole call of `pinpoint_tune`: its time, and what held-out dialogues show."""
    model = wb.load("organism-gqa", device="cpu")
    pairs = wb.sycophancy.pairs(model, n=50, split="train")
    chosen = wb.select_units(wb.path_patch(model, pairs, progress=False), 0.04, "kv_group", metric="logit_diff")
    dialogues, held = training_dialogues(3840), training_dialogues(64, split="test")
    recipe = TuningRecipe(steps=steps, learning_rate=1e-3)
    began = time.perf_counter()
    record = wb.pinpoint_tune(model, dialogues, chosen, recipe=recipe, validation=held, progress=False).record
    duration = time.perf_counter() - began
    print("| units | updates x dialogues | processors | time | validation loss before | after |\n" + "|---" * 6 + "|")
    before, after = (float(record["validation"][i]) for i in (0, -1))
    layers = sorted({layer for layer, _ in chosen.heads})
    print(
        f"| {record.attrs['units']} in layer {', '.join(map(str, layers))} | {steps} x {recipe.batch} | "
        f"{torch.get_num_threads()} | {duration:.0f} s | {before:.3f} | {after:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--layers", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--organism", action="store_true")
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    if arguments.organism:
        tune_organism(arguments.steps)
    else:
        compare(arguments.device, arguments.layers, arguments.repeats)


if __name__ == "__main__":
    main()
