"""What the heads' slices of the output projection do to lengths, `|x W_O|² = x W_O W_Oᵀ xᵀ`, kept per model."""

import weakref
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.models.anatomy import Anatomy
from workbench.protocol import HookedModel


class Grams:
    """`W_O W_Oᵀ` of every head and a square root of it, in float32 at least, computed when a layer is first asked for.

    Args:
        parts: the model's.
        known: both by layer, from earlier.
    """

    def __init__(self, parts: Anatomy, known: dict[int, tuple[Tensor, Tensor]] | None = None):
        self.parts = parts
        self.known = {} if known is None else known

    def gram(self, layer: int) -> Float[Tensor, "head d_head d_head"]:
        """`W_O W_Oᵀ` of a layer's heads."""
        return self._both(layer)[0]

    def root(self, layer: int) -> Float[Tensor, "head d_head d_head"]:
        """A square matrix R per head with `|v W_O| = |v R|` for every v."""
        return self._both(layer)[1]

    def _both(self, layer: int) -> tuple[Tensor, Tensor]:
        if layer not in self.known:
            w_o = self.parts.blocks[layer].w_o()
            wide = torch.promote_types(w_o.dtype, torch.float32)
            gram = w_o.double() @ w_o.double().transpose(-1, -2)
            self.known[layer] = (gram.to(wide), _root(gram).to(wide))
        return self.known[layer]


def _root(gram: Tensor) -> Tensor:
    """Cholesky factors, or by eigenvalues where some head does not use its whole width."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not bool(failed.any()):
        return factor
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp_min(0).sqrt()[:, None]


_kept: weakref.WeakKeyDictionary[Any, tuple[str, dict[int, tuple[Tensor, Tensor]]]] = weakref.WeakKeyDictionary()


def grams(model: HookedModel, parts: Anatomy, weights: str) -> Grams:
    """Those of a model, kept for as long as its weights have this fingerprint."""
    if model not in _kept or _kept[model][0] != weights:
        _kept[model] = (weights, {})
    return Grams(parts, _kept[model][1])
