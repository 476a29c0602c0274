"""Value-state drains: the norm of each token's value after each head's slice of W_O.

The norm is that of `v W_O^h`, the value pushed through the head's own slice of the output projection, and not of
the bare value (Guo et al. 2024, section 3): a value may be large where W_O maps it to little. Heads of one KV group
share the value and differ in their slice; the KV head's norm is the mean over them.
"""

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor


def value_norms(
    values: Float[Tensor, "batch pos kv_head d_head"], roots: Float[Tensor, "head d_head d_head"]
) -> Float[Tensor, "batch head pos"]:
    """Norm of each token's value through each query head's slice of W_O, of which `Grams.root` gives the roots."""
    kv_heads, width = values.shape[2:]
    by_kv_head = rearrange(
        roots, "(kv_head group_head) d_in d_out -> kv_head d_in (group_head d_out)", kv_head=kv_heads
    )
    through = rearrange(values, "batch pos kv_head d_head -> batch kv_head pos d_head").to(roots.dtype) @ by_kv_head
    norms = torch.linalg.vector_norm(through.unflatten(-1, (-1, width)), dim=-1)
    return rearrange(norms, "batch kv_head pos group_head -> batch (kv_head group_head) pos")


def by_kv_head(norms: Float[Tensor, "*row head pos"], n_kv_heads: int) -> Float[Tensor, "*row kv_head pos"]:
    """The mean over the query heads that read each KV head."""
    return reduce(norms, "... (kv_head group_head) pos -> ... kv_head pos", "mean", kv_head=n_kv_heads)
