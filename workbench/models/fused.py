"""Attention that is never materialised: z by a fused function, sums over queries by one more pass over the products.

The fused function is the one that PyTorch would choose, asked for the logsumexp of each query's logits; where there is
none (windows, soft caps, float32 on a GPU), the Triton kernels of `kernels.py`. With the logsumexp the weight of any
pair is `exp(logit - logsumexp)`, so what each key receives takes no pattern in memory. Logits are linear in queries
and in keys: sums of them are products with running sums, `S_n = q_n · Σ k_j`, and cost no pass at all. All of it takes
memory O(length).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention import SDPBackend

from workbench.models import kernels

_BUDGET = 2**19
"""Numbers in one block of weights on the CPU: what stays in its cache."""
_FAR = -1e4
"""A logarithm of a weight of zero whose product with that weight is zero too."""


class Sums(NamedTuple):
    """Sums over queries; what was not asked for is empty.

    Attributes:
        received: the attention that each key gets `[batch, head, pos]`.
        logits: each query's logits times its weight, per key, the key's own query left out `[batch, head, pos]`.
        entropy: the entropies of the queries `[batch, head]`.
    """

    received: Tensor
    logits: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class Attended:
    """The attention of one layer, by what it is made of.

    Attributes:
        layer: the layer.
        query: rotated queries.
        key: rotated keys; query head h reads KV head `h // group_size`.
        logsumexp: of each query's logits, a learned sink's included.
        scaling: of the products of queries and keys.
        softcap: `cap * tanh(logit / cap)` goes into the softmax.
        window: keys that a query sees, itself included; None: all up to itself.
        sums: of each query's logits of other keys, where they are not linear.
    """

    layer: int
    query: Float[Tensor, "batch head pos d_head"]
    key: Float[Tensor, "batch kv_head pos d_head"]
    logsumexp: Float[Tensor, "batch head pos"]
    scaling: float
    softcap: float | None = None
    window: int | None = None
    sums: Float[Tensor, "batch head pos"] | None = None

    @property
    def length(self) -> int:
        """Positions."""
        return self.query.shape[2]

    def over_queries(
        self,
        counted: Bool[Tensor, "batch pos"],
        logit_weights: Float[Tensor, "batch pos"] | None = None,
        entropy: bool = False,
    ) -> Sums:
        """Sums over the counted queries, of what they see.

        Args:
            counted: the queries.
            logit_weights: of each query in the sums of logits, which are asked for by them; zero where not counted.
            entropy: whether entropies are asked for.
        """
        normaliser = self.logsumexp.masked_fill(~counted[:, None], torch.inf)
        if kernels.usable(self.query):
            shape = (self.scaling, self.softcap, self.window)
            received, logits, terms = kernels.over_queries(
                self.query, self.key, normaliser, *shape, logit_weights, entropy
            )
            return Sums(received, logits, terms.sum(-1))
        received, terms = _in_blocks(self.query, self.key, normaliser.clamp(max=-_FAR), self.scaling, entropy)
        logits = received[:0] if logit_weights is None else self._weighted_logits(logit_weights)
        return Sums(received, logits, terms)

    def other_logits(self) -> Float[Tensor, "batch head pos"]:
        """The sum of each query's logits of the visible keys but its own."""
        if self.sums is not None:
            return self.sums
        wide = self.key.to(self.logsumexp.dtype)
        before = wide.cumsum(-2) - wide
        grouped = self.query.unflatten(1, (self.key.shape[1], -1))
        return (grouped * before[:, :, None]).sum(-1).flatten(1, 2) * self.scaling

    def visible(self) -> Float[Tensor, " pos"]:
        """How many keys each query sees."""
        numbers = torch.arange(1, self.length + 1, device=self.query.device, dtype=self.logsumexp.dtype)
        return numbers.clamp(max=self.window or self.length)

    def behind(self, per_query: Float[Tensor, "*row pos"]) -> Float[Tensor, "*row pos"]:
        """The sum over the queries that see each key, the key's own included."""
        sums = per_query.double().flip(-1).cumsum(-1).flip(-1)
        if self.window is not None:
            sums = sums - torch.nn.functional.pad(sums[..., self.window :], (0, self.window))
        return sums

    def _weighted_logits(self, weights: Tensor) -> Tensor:
        """Sum over later queries n of `weights_n l_nj`: the key times the sum of weighted queries, from the end."""
        weighted = self.query * weights[:, None, :, None]
        later = weighted.flip(-2).cumsum(-2).flip(-2) - weighted
        grouped = later.unflatten(1, (self.key.shape[1], -1))
        return (grouped * self.key[:, :, None]).sum(-1).flatten(1, 2) * self.scaling


def attend(
    query: Float[Tensor, "batch head pos d_head"],
    key: Float[Tensor, "batch kv_head pos d_head"],
    value: Float[Tensor, "batch kv_head pos d_value"],
    layer: int,
    given: dict[str, Any],
) -> tuple[Float[Tensor, "batch pos head d_value"], Attended] | None:
    """Causal attention of rotated queries and keys; None where it cannot be fused.

    `given` is what the model hands to its attention function: `scaling`, `softcap`, `sliding_window` and `s_aux`, the
    logit of a learned sink per head.
    """
    scaling = float(given.get("scaling") or query.shape[-1] ** -0.5)
    softcap, window, sinks = given.get("softcap"), given.get("sliding_window"), given.get("s_aux")
    window = window if window and window < query.shape[2] else None
    found = None if softcap or window else _library(query, key, value, scaling)
    sums = None
    if found is not None:
        z, logsumexp = found
        z = rearrange(z, "batch head pos d_value -> batch pos head d_value")
        if sinks is not None:
            sink = sinks.to(logsumexp.dtype)[:, None]
            share = rearrange((logsumexp - sink).sigmoid(), "batch head pos -> batch pos head 1")
            z, logsumexp = (z * share).to(z.dtype), torch.logaddexp(logsumexp, sink)
    elif kernels.usable(query):
        z, logsumexp, sums = kernels.attend(query, key, value, scaling, softcap, window, sinks)
    else:
        return None
    return z, Attended(layer, query, key, logsumexp, scaling, softcap, window, sums)


def _library(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> tuple[Tensor, Tensor] | None:
    """Outputs `[batch, head, pos, d_value]` and logsumexp by the fused function that PyTorch would choose."""
    grouped = key.shape[1] != query.shape[1]
    choice = torch._fused_sdp_choice(query, key, value, None, 0.0, True, scale=scaling, enable_gqa=grouped)
    aten, given = torch.ops.aten, (query, key, value)
    if query.device.type == "cpu" and choice == SDPBackend.FLASH_ATTENTION.value:
        z, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(*given, 0.0, True, scale=scaling)
    elif query.is_cuda and choice == SDPBackend.CUDNN_ATTENTION.value:
        z, logsumexp, *_ = aten._scaled_dot_product_cudnn_attention(*given, None, True, 0.0, True, scale=scaling)
    elif query.is_cuda and choice == SDPBackend.FLASH_ATTENTION.value and query.shape[-1] % 8 == 0:
        z, logsumexp, *_ = aten._scaled_dot_product_flash_attention(*given, 0.0, True, scale=scaling)
    else:
        return None
    return z, logsumexp.reshape(query.shape[:3])


def _in_blocks(query: Tensor, key: Tensor, logsumexp: Tensor, scaling: float, entropy: bool) -> tuple[Tensor, Tensor]:
    """What each key receives, and the entropy of each head's queries, from blocks of weights.

    The logsumexp is subtracted in the same product: it is one more coordinate of the queries, where keys hold one.
    """
    batch, heads, length, _ = query.shape
    kv_heads, dtype = key.shape[1], logsumexp.dtype
    queries = torch.cat([query.to(dtype) * scaling, -logsumexp[..., None]], -1)
    keys = torch.cat([key.to(dtype), key.new_ones(*key.shape[:3], 1, dtype=dtype)], -1).transpose(-1, -2)
    received = queries.new_zeros(batch, heads, length)
    terms = queries.new_zeros(batch, heads if entropy else 0)
    size = max(1, min(length, _BUDGET // (batch * heads * length)))
    for start in range(0, length, size):
        stop = min(start + size, length)
        rows = queries[:, :, start:stop].reshape(batch, kv_heads, -1, queries.shape[-1])
        logs = (rows @ keys[..., :stop]).view(batch, heads, stop - start, stop)
        later = torch.ones(stop - start, stop - start, dtype=torch.bool, device=query.device).triu_(1)
        logs[..., start:].masked_fill_(later, _FAR)
        pattern = logs.exp() if entropy else logs.exp_()
        received[..., :stop] += pattern.sum(-2)
        if entropy:
            terms -= logs.mul_(pattern).sum((-2, -1))
    return received, terms
