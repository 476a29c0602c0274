"""What `test_processes` runs in two processes: python -m tests.tuning.several FOLDER, with torchrun's variables."""

import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from tests.tuning.chat import chat_model, dialogues
from workbench.models.original import unwrapped
from workbench.runs.results import save_result
from workbench.tuning import save_pretrained, training
from workbench.tuning.pinpoint import pinpoint_tune
from workbench.tuning.recipe import TuningRecipe

UNITS = [(0, 1), (2, 3)]
RUNS = {
    "llama": ("llama", torch.float64, UNITS, {}),
    "gpt2": ("gpt2", torch.float64, UNITS, {}),
    "gpt_neox": ("gpt_neox", torch.float64, UNITS, {}),
    "leak": ("llama", torch.float64, UNITS, {"leak": True}),
    "attention": ("llama", torch.float64, "attention", {}),
    "bf16": ("llama", torch.bfloat16, UNITS, {}),
}
"""Family, dtype, units and settings. Three passes a batch: two processes share them unevenly."""
QUICK = {"steps": 4, "batch": 5, "micro_batch": 2, "learning_rate": 1e-2}


class Killed(Exception):
    pass


def shard_next():
    """What `accelerate launch --use_fsdp --fsdp_version 2` sets, which accelerate itself keeps from CPUs.

    It takes the layers to shard from the first model that it sees, so every model gets a plugin of its own.
    """
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True
    )
    PartialState().distributed_type = DistributedType.FSDP
    AcceleratorState().fsdp_plugin = plugin


def tune(name, **options):
    family, dtype, units, settings = RUNS[name]
    recipe = TuningRecipe(**QUICK | settings)
    arguments = {"validation": dialogues(3), "every": 2, "progress": False} | options
    return pinpoint_tune(chat_model(family, dtype), dialogues(), units, recipe=recipe, **arguments)


def weights(model):
    with unwrapped(model) as hf:
        return {name: p.detach().clone() for name, p in hf.named_parameters()}


def killed_and_resumed(name, file):
    """The same run, stopped in its fourth update and called again."""
    accumulate, calls = training._accumulate, iter(range(100))

    def dying(*arguments):
        if next(calls) == 3:
            raise Killed
        return accumulate(*arguments)

    training._accumulate = dying
    try:
        tune(name, resume=file)
    except Killed:
        training._accumulate = accumulate
    return tune(name, resume=file)


def sizes(seen):
    """Watch how many numbers this process holds of the moments and of all parameters."""
    update = training._update

    def watched(task, run, rate):
        update(task, run, rate)
        moments = [m for state in run.optimizer.state.values() for key, m in state.items() if key != "step"]
        for key, tensors in (("moments", moments), ("parameters", list(task.hf.parameters()))):
            own = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
            seen[key] = torch.tensor([sum(t.numel() for t in own), sum(t.numel() for t in tensors)])

    training._update = watched


def keep(folder, name, tuned):
    rank = os.environ["RANK"]
    save_result(tuned.record, folder / f"{name}-{rank}.nc")
    save_file(weights(tuned.model), folder / f"{name}-{rank}.safetensors")


def main(folder):
    seen = {}
    sizes(seen)
    for mode, names in (("ddp", ("llama", "leak")), ("fsdp", RUNS)):
        for name in names:
            if mode == "fsdp":
                shard_next()
            keep(folder, f"{mode}-{name}", tune(name))
            save_file(seen, folder / f"{mode}-{name}-{os.environ['RANK']}.sizes")
        if mode == "fsdp":
            shard_next()
        keep(folder, f"{mode}-resumed", killed_and_resumed("leak", folder / f"{mode}.state"))
    tuned = tune("llama")
    save_pretrained(tuned.model, folder / "exported")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
