"""Value-state drains: the norm of each token's value after each head's slice of W_O.

The norm is that of `v W_O^h`, the value pushed through the head's own slice of the output projection, and not of
the bare value (Guo et al. 2024, section 3): a value may be large where W_O maps it to little. Heads of one KV group
share the value and differ in their slice; the KV head's norm is the mean over them.
"""

import torch
from einops import reduce, repeat
from jaxtyping import Float
from torch import Tensor


def root(w_o: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, "head d_head d_head"]:
    """A square matrix R per head with `|v W_O| = |v R|` for every v, so that norms are cheap.

    W_Oᵀ = Q Rᵀ by a QR decomposition, and Q changes no norm.
    """
    wide = w_o.to(torch.promote_types(w_o.dtype, torch.float32))
    return torch.linalg.qr(wide.transpose(-1, -2), mode="r").R.transpose(-1, -2)


def value_norms(
    values: Float[Tensor, "batch pos kv_head d_head"], roots: Float[Tensor, "head d_head d_head"]
) -> Float[Tensor, "batch head pos"]:
    """Norm of each token's value through each query head's slice of W_O, of which `roots` are the `root`."""
    size = len(roots) // values.shape[2]
    axes = "batch pos kv_head d_head -> batch (kv_head group_head) pos d_head"
    heads = repeat(values.to(roots.dtype), axes, group_head=size)
    return torch.linalg.vector_norm(heads @ roots, dim=-1)


def by_kv_head(norms: Float[Tensor, "*row head pos"], n_kv_heads: int) -> Float[Tensor, "*row kv_head pos"]:
    """The mean over the query heads that read each KV head."""
    return reduce(norms, "... (kv_head group_head) pos -> ... kv_head pos", "mean", kv_head=n_kv_heads)
