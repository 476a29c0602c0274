"""One optimizer step for several stacked models: all weights as one vector, so that one kernel updates them.

Gradients are written out by hand (`gradients`); on a GPU the whole of it is recorded as one graph. In large runs,
where kernels take longer than their launches, torch.compile fuses more of the forward and backward pass instead.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.bigram_backcopy import stacked
from workbench.bigram_backcopy.gradients import gradients
from workbench.bigram_backcopy.model import Toy
from workbench.names import Optimizer, Precision


class Engine:
    """Models of one architecture in training, one per seed; the given ones are copied.

    Attributes:
        weights: stacked weights, all that the models have; those that are trained are views of one vector.
        optimizer: torch's, on that vector.
    """

    def __init__(
        self,
        models: Sequence[Toy],
        optimizer: Optimizer,
        lr: float,
        precision: Precision,
        compiled: bool,
        device: torch.device,
    ):
        self.architecture = models[0].architecture
        self.precision = precision
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        every = {name: value.to(device) for name, value in stacked.stack(models).items()}
        self.shapes = {name: every[name].shape for name in every if stacked.used(name, self.architecture)}
        self.vector = nn.Parameter(torch.cat([every[name].flatten() for name in self.shapes]))
        self.vector.grad = torch.zeros_like(self.vector)
        self.weights = every | self._parts(self.vector.detach())
        self.optimizer = _optimizer(optimizer, self.vector, lr)
        self.compiled = torch.compile(self._losses) if compiled else None
        self.recorded: Callable[[Tensor], Tensor] | None = None

    def step(self, tokens: Int[Tensor, "seed batch pos"]) -> Float[Tensor, " seed"]:
        """Take one step, and return the loss of each seed in front of it; the last tokens are only predicted."""
        with _tf32(self.precision == "tf32"):
            losses = self._backward(tokens)
        self.optimizer.step()
        return losses

    def _backward(self, tokens: Tensor) -> Tensor:
        """Losses; the vector's gradient is filled."""
        if self.compiled is not None:
            self.vector.grad = None
            losses = self.compiled(self.vector, tokens)
            losses.sum().backward()
            return losses.detach()
        if not tokens.is_cuda:
            return self._by_hand(tokens)
        if self.recorded is None:
            self.recorded = _record(self._by_hand, tokens)
        return self.recorded(tokens).clone()

    def _by_hand(self, tokens: Tensor) -> Tensor:
        """All seeds at once on a GPU; one after the other on a CPU, whose caches hold one seed and not many."""
        seeds = tokens.shape[0]
        groups = [slice(0, seeds)] if tokens.is_cuda else [slice(i, i + 1) for i in range(seeds)]
        assert self.vector.grad is not None
        into = self._parts(self.vector.grad)
        losses = []
        for group in groups:
            weights = {name: value[group] for name, value in self.weights.items()}
            loss, found = gradients(weights, tokens[group], self.architecture, self.dtype)
            for name, gradient in found.items():
                into[name][group].copy_(gradient)
            losses.append(loss)
        return torch.cat(losses)

    def _losses(self, vector: Tensor, tokens: Tensor) -> Tensor:
        """Mean cross-entropy per seed, for autograd."""
        logits = stacked.logits(self._parts(vector), tokens[..., :-1], self.architecture, self.dtype)
        losses = F.cross_entropy(logits, tokens[..., 1:].flatten(), reduction="none")
        return losses.view(tokens.shape[0], -1).mean(1)

    def _parts(self, vector: Tensor) -> stacked.Weights:
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


def _optimizer(name: str, vector: Tensor, lr: float) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW([vector], lr=lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    return torch.optim.SGD([vector], lr=lr, momentum=0.9, weight_decay=1e-4, fused=True)


def _record(work: Callable[[Tensor], Tensor], tokens: Tensor) -> Callable[[Tensor], Tensor]:
    """Work on a GPU as one graph of kernels; what it returns is overwritten by the next call."""
    place = tokens.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work(place)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work(place)

    def replay(fresh: Tensor) -> Tensor:
        place.copy_(fresh)
        graph.replay()
        return found

    return replay


@contextmanager
def _tf32(wanted: bool) -> Generator[None]:
    """Let the GPU's float32 products use 10-bit mantissas, for the length of a block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
