"""One tuning by several processes: is it the tuning of one, and what does each GPU hold? Prints a row per model.

    python benchmarks/sharded_tuning.py
    torchrun --nproc-per-node 2 benchmarks/sharded_tuning.py
    accelerate launch --num_processes 2 --mixed_precision no --use_fsdp --fsdp_version 2 \\
        --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP benchmarks/sharded_tuning.py

organism-gqa in float32, and some layers of the Llama-3-8B shape with random bf16 weights, which reads the organism's
dialogues; 4 heads each. What a process holds is measured at the first update, beside the model that it was given.
"""

import argparse
import os
from typing import Any

import torch
from common import LLAMA_3_8B, LLAMA_38M, random_llama

import workbench as wb
from workbench.tuning import TuningRecipe, training, training_dialogues

GIB = 2**30


def watch(held: dict[str, float]) -> None:
    """Note the bytes of this process's parameters and moments when an update has been made."""
    update = training._update

    def watched(task: Any, run: Any, rate: float) -> None:
        update(task, run, rate)
        moments = [m for s in run.optimizer.state.values() for key, m in s.items() if key != "step"]
        for name, tensors in (("parameters", task.hf.parameters()), ("moments", moments)):
            own = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
            held[name] = sum(t.numel() * t.element_size() for t in own)

    training._update = watched  # ty: ignore[invalid-assignment]


def row(name: str, model, units, recipe: TuningRecipe, held: dict[str, float]) -> None:
    record = wb.pinpoint_tune(model, training_dialogues(256), units, recipe=recipe, progress=False).record
    if int(os.environ.get("RANK", 0)) == 0:
        losses = record["loss"].values[[0, recipe.steps // 2, recipe.steps - 1]]
        cells = (
            name,
            str(record.attrs["processes"]),
            f"{held['parameters'] / GIB:.3f} GiB",
            f"{held['moments'] / 2**20:.2f} MiB",
            *(f"{loss:.6f}" for loss in losses),
        )
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    held: dict[str, float] = {}
    watch(held)
    if int(os.environ.get("RANK", 0)) == 0:
        print("| model | processes | parameters held | moments held | first loss | in the middle | last |")
        print("|" + "---|" * 7, flush=True)
    organism = wb.load("organism-gqa")
    recipe = TuningRecipe(steps=arguments.steps, batch=64, learning_rate=1e-3)
    row("organism-gqa", organism, [(6, head) for head in range(4)], recipe, held)
    cuda = torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu"
    shape = (LLAMA_3_8B if cuda else LLAMA_38M) | {"num_hidden_layers": arguments.layers}
    llama = wb.load(random_llama(shape, device, torch.bfloat16), tokenizer=organism.tokenizer)
    units = [(arguments.layers - 1, head) for head in range(4)]
    row(
        f"{arguments.layers} layers",
        llama,
        units,
        TuningRecipe(steps=arguments.steps, batch=64, learning_rate=1e-4),
        held,
    )


if __name__ == "__main__":
    main()
