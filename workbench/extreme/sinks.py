"""Attention sinks: the attention that each token receives, and its logit relative to the other keys.

`sink_weight` of key j is the mean of the attention it gets over the queries that can see it, itself included
(Guo et al. 2024, section 3; Gu et al. 2025, eq. 7). `sink_logit` is the paper's Δ-logit for any key: its logit
minus the mean logit of the other keys, the query's own left out, averaged over queries after it. Both are sums
over queries, so they are exact however the queries are cut into chunks. Padding is no query and no key.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models.attention import Chunk
from workbench.models.fused import Attended


class Received:
    """Sums over queries of what each key of a batch receives, layer by layer.

    Args:
        lengths: real tokens of each sequence.
        n_layers: layers of the model.
        n_heads: query heads.
        length: positions of the padded batch.
        dtype: of the sums; float32 or wider.
    """

    def __init__(self, lengths: Int[Tensor, " batch"], n_layers: int, n_heads: int, length: int, dtype: torch.dtype):
        self.lengths = lengths
        batch = len(lengths)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(n_layers, batch, *shape, device=lengths.device, dtype=dtype)

        self._weight, self._logit = zeros(n_heads, length), zeros(n_heads, length)
        self._queries, self._pairs = zeros(length), zeros(length)
        self._mass = zeros(n_heads)

    def add(self, chunk: Chunk) -> None:
        """Take in the attention of some queries of a layer."""
        n_queries, n_keys = chunk.visible.shape
        positions = torch.arange(chunk.start, chunk.start + n_queries, device=chunk.pattern.device)
        real = (positions < self.lengths[:, None].to(positions.device)).to(chunk.pattern.dtype)
        visible = chunk.visible.to(chunk.pattern.dtype)
        rows = real[:, None, None]
        received = (rows @ chunk.pattern)[:, :, 0]
        home = self.lengths.device
        self._weight[chunk.layer, :, :, :n_keys] += received.to(home)
        self._mass[chunk.layer] += received.sum(-1).to(home)
        self._queries[chunk.layer, :, :n_keys] += (real @ visible).to(home)
        self._add_logits(chunk, real, visible, positions)

    def _add_logits(self, chunk: Chunk, real: Tensor, visible: Tensor, positions: Tensor) -> None:
        """Add, for each key j and query n after it, `l_nj - mean of the others' l`, in two matrix products.

        With S_n the sum over visible keys, l_nn the query's own logit and c_n the number of other keys, the term is
        `l_nj (1 + 1/c_n) - (S_n - l_nn) / c_n`; the query's own key, which every sum holds, is taken out again.
        """
        n_keys = visible.shape[1]
        logits = chunk.logits.masked_fill(~chunk.visible, 0)
        own = logits[..., torch.arange(len(positions), device=positions.device), positions]
        others = visible.sum(-1) - 2
        counts = (others >= 1) * real
        others = others.clamp_min(1)
        scale = (counts * (1 + 1 / others))[:, None]
        mean = counts[:, None] * (logits.sum(-1) - own) / others
        total = (scale[:, :, None] @ logits - mean[:, :, None] @ visible)[:, :, 0]
        total[..., positions] -= scale * own - mean
        pairs = counts @ visible
        pairs[:, positions] -= counts
        self._logit[chunk.layer, :, :, :n_keys] += total.to(self.lengths.device)
        self._pairs[chunk.layer, :, :n_keys] += pairs.to(self.lengths.device)

    def add_attended(self, seen: Attended) -> None:
        """Take in a layer whose attention is never materialised; the same sums as of one chunk with all its queries."""
        home, there = self.lengths.device, seen.query.device
        real = torch.arange(seen.length, device=there) < self.lengths[:, None].to(there)
        others = seen.visible() - 2
        counts = ((others >= 1) & real).to(self._pairs.dtype)
        others = others.clamp_min(1)
        sums = seen.over_queries(real, counts * (1 + 1 / others))
        mean = counts[:, None] * seen.other_logits() / others
        self._weight[seen.layer] += sums.received.to(home)
        self._mass[seen.layer] += sums.received.sum(-1).to(home)
        self._queries[seen.layer] += seen.behind(real.to(counts.dtype)).to(home)
        self._logit[seen.layer] += (sums.logits - (seen.behind(mean) - mean)).to(home)
        self._pairs[seen.layer] += (seen.behind(counts) - counts).to(home)

    def weight(self) -> Float[Tensor, "batch layer head pos"]:
        """Attention received per key, the mean over the queries that see it; NaN on padding."""
        return self._mean(self._weight, self._queries)

    def logit(self) -> Float[Tensor, "batch layer head pos"]:
        """Sink logit per key; NaN on padding and where no later query sees a third key."""
        return self._mean(self._logit, self._pairs)

    def unattended(self) -> Float[Tensor, "batch layer head"]:
        """Attention that goes to no token, the mean over queries: what a learned sink takes; NaN without heads."""
        attended = self._queries.sum(-1)[..., None] > 0
        unattended = torch.where(attended, 1 - self._mass / self.lengths[:, None], torch.nan)
        return rearrange(unattended, "layer batch head -> batch layer head")

    def queries(self) -> Float[Tensor, "batch layer pos"]:
        """How many real queries see each key."""
        return rearrange(self._queries, "layer batch key -> batch layer key")

    def _mean(self, total: Tensor, count: Tensor) -> Tensor:
        mean = torch.where(count[:, :, None] > 0, total / count[:, :, None], torch.nan)
        return rearrange(mean, "layer batch head key -> batch layer head key")
