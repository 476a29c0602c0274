"""Residual-state peaks: the norm of the stream at each token, and which coordinates carry it.

The norm is that of the block's output, before any final norm (Guo et al. 2024, section 3). Where it peaks, a few
coordinates carry nearly all of it (Sun et al. 2024, "massive activations"), so of each layer the token
of largest norm is kept with its largest coordinates.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError


class Peak(NamedTuple):
    """The token of largest norm in each sequence after one layer, and the coordinates that carry it.

    Attributes:
        position: the token.
        coordinate: its largest coordinates, the largest first.
        value: their values.
        share: their shares of the squared norm.
    """

    position: Int[Tensor, " batch"]
    coordinate: Int[Tensor, "batch rank"]
    value: Float[Tensor, "batch rank"]
    share: Float[Tensor, "batch rank"]


def norms(resid: Float[Tensor, "batch pos d_model"], real: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
    """The stream's norm at each token, in float32 at least; NaN on padding."""
    length = torch.linalg.vector_norm(resid, dim=-1, dtype=torch.promote_types(resid.dtype, torch.float32))
    return torch.where(real, length, torch.nan)


def require_finite(
    embed: Float[Tensor, "batch pos"],
    after: Float[Tensor, "batch layer pos"],
    real: Bool[Tensor, "batch pos"],
    dtype: str,
) -> None:
    """Refuse norms that are not finite, in front of the first layer or after one."""
    streams = torch.cat([embed[:, None], after], 1)
    bad = (~streams.isfinite() & real[:, None]).any(2).any(0).nonzero().flatten().tolist()
    if bad:
        where = f"after layer {bad[0] - 1}" if bad[0] else "in front of the first layer"
        raise InputError(
            f"The residual stream is not finite {where} ({dtype}). Either the weights hold NaN or the dtype is too "
            "narrow for this model's peaks: load it with dtype='bfloat16' or 'float32'."
        )


def peak(resid: Float[Tensor, "batch pos d_model"], length: Float[Tensor, "batch pos"], ranks: int) -> Peak:
    """The token of largest norm in each sequence and its largest coordinates.

    Args:
        resid: the stream.
        length: its norms, NaN on padding.
        ranks: how many coordinates.
    """
    position = length.nan_to_num(-1).argmax(-1)
    vector = resid[torch.arange(len(resid), device=resid.device), position].to(length.dtype)
    coordinate = vector.abs().topk(min(ranks, vector.shape[-1]), dim=-1).indices
    value = vector.gather(-1, coordinate)
    return Peak(position, coordinate, value, value.square() / vector.square().sum(-1, keepdim=True))
