"""One training loop for one process or several, through accelerate.

1. Under torchrun every process holds the whole model, and the gradients of what is trained are averaged (DDP). Under
   `accelerate launch --use_fsdp --fsdp_version 2` every process holds a shard of each parameter (FSDP). Without a
   launcher there is one process, and nothing is wrapped or moved.
2. The forward passes of a batch are dealt out. A process that has fewer makes empty ones, since all pass together.
3. What is kept of a run are whole tensors, so that it may go on with another number of processes. They share one file
   system.

Precision is not left to accelerate, which fixes one for all models of a session.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, GradientAccumulationPlugin
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from workbench.errors import InputError

Cut = TypeVar("Cut")


class Processes:
    """A model and its optimizer, ready for a training that one or several processes share.

    Attributes:
        model: what to call instead of the Hugging Face model, which FSDP shards in place.
        optimizer: what to step instead of the given one.
        count: how many processes there are.
        first: whether this is the one that writes and shows.
    """

    def __init__(self, hf: Any, optimizer: torch.optim.Optimizer):
        once = GradientAccumulationPlugin(num_steps=1)
        self.accelerator = Accelerator(device_placement=False, gradient_accumulation_plugin=once, cpu=_on_cpu())
        if self.accelerator.distributed_type == DistributedType.FSDP and not self.accelerator.is_fsdp2:
            raise InputError(
                "Training is sharded by FSDP's second version, which keeps every parameter as a tensor of its own. "
                "Launch with --fsdp_version 2."
            )
        self.count, self.first = self.accelerator.num_processes, self.accelerator.is_main_process
        self.model, self.optimizer = self.accelerator.prepare(hf, optimizer, device_placement=[self.count > 1, False])
        self._hf = hf

    def share(self, cuts: Sequence[Cut], idle: Cut) -> list[Cut]:
        """This process's forward passes, as many as every other's: filled up with `idle`, which adds no loss."""
        passes = -(-len(cuts) // self.count)
        own = list(cuts[self.accelerator.process_index :: self.count])
        return own + [idle] * (passes - len(own))

    def passes(self, cuts: Sequence[Cut], idle: Cut) -> Iterator[Cut]:
        """The same, one after the other; only the backward pass of the last one exchanges gradients."""
        own = self.share(cuts, idle)
        for cut in own[:-1]:
            with self.accelerator.no_sync(self.model):
                yield cut
        yield own[-1]

    def backward(self, part: Tensor) -> None:
        """Add the gradients of a part of the loss, which is the sum of all parts in all processes."""
        self.accelerator.backward(part * self.count)

    def summed(self, value: float) -> float:
        """The sum of every process's value."""
        if self.count == 1:
            return value
        total = self.accelerator.reduce(torch.tensor(value, dtype=torch.float64, device=self.accelerator.device))
        return float(total)

    def clip(self, parameters: Sequence[Tensor], most: float) -> float:
        """Cut the gradients to a norm, and return the one that they had."""
        return float(whole(self.accelerator.clip_grad_norm_(parameters, most)))

    def release(self) -> None:
        """Leave the model without accelerate's mark, by which another run would take it for wrapped."""
        self._hf.__dict__.pop("_is_accelerate_prepared", None)


def process_state() -> PartialState:
    """The processes that work together, as accelerate knows them, and this one's place among them."""
    return PartialState(cpu=_on_cpu())


def _on_cpu() -> bool:
    """Where there is no accelerator; unless it is told, accelerate then takes every process for the only one."""
    return not torch.accelerator.is_available()


def whole(tensor: Tensor) -> Tensor:
    """A tensor in full, from the shards of all processes if it has any; all must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Any], keep: bool = True) -> dict[str, Tensor]:
    """Tensors in full, on the CPU where they are sharded; all processes must ask, those without `keep` get none."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(torch.as_tensor(tensor).detach())
        if keep:
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return found


def shard_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A full tensor, cut as a parameter is."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value
