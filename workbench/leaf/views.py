"""Losses, gradients and attention of one model on a batch of examples, computed when a score first needs them.

All numbers come per token of the context, (example, position), in float64 on the CPU. Where the teacher has a tokenizer
of its own, what it shows of its tokens is carried over to the student's: each character of the text takes the value of
the teacher's token on it, and each of the student's tokens the mean over its characters.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.leaf.examples import Example
from workbench.leaf.passes import Rows, gradient, losses, rows_of, target_rows, token_losses
from workbench.models.anatomy import Anatomy
from workbench.models.attention import Chunk, observe
from workbench.models.devices import device_of
from workbench.protocol import HookedModel

PerToken = Float[Tensor, "example pos"]


class View:
    """One model's view of a batch in its tokens, given for the tokens of `onto` where those are others."""

    def __init__(
        self, model: HookedModel, parts: Anatomy, examples: Sequence[Example], onto: Sequence[Example] | None = None
    ):
        self.model, self.parts, self.examples = model, parts, list(examples)
        self.width = max(len(e.context) for e in self.examples)
        self.prunable = prunable_mask(self.examples)
        self._onto = None if onto is None else [_carry(own, to) for own, to in zip(self.examples, onto, strict=True)]

    @cached_property
    def loss(self) -> Float[Tensor, " example"]:
        """Mean -log p of the gold response."""
        if "_slopes" in self.__dict__:
            return self._slopes[0].double().cpu()
        with torch.no_grad():
            return losses(self.model, self.parts, self._rows).double().cpu()

    @cached_property
    def gradient(self) -> PerToken:
        """L2 norm of the loss's gradient with respect to each token's embedding."""
        _, slope, _ = self._slopes
        return self._given(torch.linalg.vector_norm(slope, dim=-1))

    @cached_property
    def gradient_x_input(self) -> PerToken:
        """The gradient along the embedding: what the loss loses, to first order, when the embedding becomes zero."""
        _, slope, embedded = self._slopes
        return self._given((slope * embedded.to(slope.dtype)).sum(-1))

    def integrated_gradients(self, steps: int) -> PerToken:
        """`gradient_x_input` averaged over points between zero and the embeddings of all prunable tokens.

        The sum over an example is the loss minus the loss with all of them zero (arXiv 1703.01365).
        """
        mask = _padded(self.prunable, self._rows.tokens.shape[1]).to(self._rows.tokens.device)[..., None]
        total: Tensor = torch.zeros(())
        for k in range(steps):
            share = (k + 0.5) / steps

            def shrink(embedded: Tensor, share: float = share) -> Tensor:
                return torch.where(mask, embedded * share, embedded)

            _, slope, moved = gradient(self.model, self.parts, self._rows, shrink)
            total = total + (slope * moved.to(slope.dtype)).sum(-1) / (share * steps)
        return self._given(total)

    @cached_property
    def occlusion(self) -> PerToken:
        """What the loss loses when the token is deleted; 0 where it may not be, or where nothing would be left."""
        cells = [(row, p) for row, e in enumerate(self.examples) if len(e.context) > 1 for p in e.positions]
        found = torch.zeros(len(self.examples), self.width, dtype=torch.float64)
        size = max(16, len(self.examples))
        for k in range(0, len(cells), size):
            some = cells[k : k + size]
            shorter = [(*self.examples[row].tokens[:p], *self.examples[row].tokens[p + 1 :]) for row, p in some]
            starts = [len(self.examples[row].context) - 1 for row, _ in some]
            with torch.no_grad():
                rows = rows_of(shorter, starts, self._rows.tokens.device)
                after = losses(self.model, self.parts, rows).double().cpu()
            for (row, p), loss in zip(some, after, strict=True):
                found[row, p] = self.loss[row] - loss
        return self._given(found)

    @cached_property
    def attention(self) -> PerToken:
        """Share of attention on each prunable token: mean over scored positions, heads and layers, summing to 1."""
        rows, width = self._rows, self._rows.tokens.shape[1]
        asks = torch.zeros(rows.tokens.shape, dtype=torch.float32, device=rows.tokens.device)
        asks[rows.row, rows.position] = 1.0
        total = torch.zeros(rows.tokens.shape, dtype=torch.float64)

        def add(chunk: Chunk) -> None:
            pattern = chunk.pattern
            asking = asks[:, chunk.start : chunk.start + pattern.shape[2]].to(pattern)
            read = einsum(pattern, asking, "batch head query key, batch query -> batch key").double().cpu()
            total[:, : read.shape[1]] += read

        observe(self.model, rows.tokens, attention=add)
        kept = torch.where(_padded(self.prunable, width), total, 0.0)
        return self._given(kept / kept.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny))

    @cached_property
    def surprise(self) -> PerToken:
        """-log p of each context token given those before it; 0 for the first, which nothing predicts."""
        contexts = [e.context for e in self.examples]
        found = torch.zeros(len(contexts), self.width, dtype=torch.float64)
        if self.width > 1:
            rows = rows_of(contexts, [1] * len(contexts), self._rows.tokens.device)
            with torch.no_grad():
                each = token_losses(self.model, self.parts, rows).double().cpu()
            found[rows.row.cpu(), rows.position.cpu() + 1] = each
        return self._given(found)

    @cached_property
    def _rows(self) -> Rows:
        return target_rows(self.examples, device_of(self.model))

    @cached_property
    def _slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        return gradient(self.model, self.parts, self._rows)

    def _given(self, values: Float[Tensor, "example width"]) -> PerToken:
        own = values.double().cpu()[:, : self.width]
        if self._onto is None:
            return own
        carried = [matrix @ row[: matrix.shape[1]] for matrix, row in zip(self._onto, own, strict=True)]
        return torch.nn.utils.rnn.pad_sequence(carried, batch_first=True)


def prunable_mask(examples: Sequence[Example]) -> Bool[Tensor, "example pos"]:
    """Which positions of a padded batch may be pruned."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(e.prunable) for e in examples], batch_first=True)


def _padded(mask: Bool[Tensor, "example pos"], width: int) -> Bool[Tensor, "example width"]:
    return torch.nn.functional.pad(mask, (0, width - mask.shape[1]))


def _carry(own: Example, to: Example) -> Float[Tensor, "pos source_pos"]:
    """For each token of one tokenization, the shares of its characters that tokens of another one cover."""
    if own.wording is None or to.wording is None:
        raise ValueError("aligned examples have text")
    covers = {c: i for i, span in enumerate(own.wording.offsets) for c in range(*span)}
    matrix = torch.zeros(len(to.context), len(own.context), dtype=torch.float64)
    for row, (a, b) in enumerate(to.wording.offsets):
        on = [covers[c] for c in range(a, b) if c in covers]
        for i in on:
            matrix[row, i] += 1 / len(on)
    return matrix
