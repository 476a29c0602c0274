"""A model's recomputed parts against the model itself, on a few tokens.

The parts that `anatomy` offers are put together by the formula of the block layout and compared with the
stream that the model itself computes, layer by layer, and the logits with its logits. An architecture with
anything else in its blocks (a second stream, token mixing outside attention, another norm placement) fails
and is refused by `checks.require_exact`.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy, anatomy
from workbench.models.capture import capture
from workbench.models.devices import device_of
from workbench.models.original import original_logits
from workbench.models.state import left_hooks, without_hooks
from workbench.protocol import HookedModel

TOLERANCE = {"float64": 1e-5, "float32": 1e-3}
"""Largest relative error; other dtypes 0.1. A wrong formula errs by about 1; float64 models still take
softmax and rotary angles in float32 on several architectures."""

_same: weakref.WeakSet[Any] = weakref.WeakSet()


@dataclass(frozen=True)
class Agreement:
    """Relative errors of the recomputed parts, the worst over layers."""

    attention: float
    """attention branch from z, against the attention output added to the stream."""
    stream: float
    """whole block from z and the block's input, against the block's output."""
    logits: float
    """final norm, unembedding, scaling and soft cap, against the model's logits."""

    @property
    def worst(self) -> float:
        """The largest of the three; NaN counts as infinite."""
        values = torch.tensor([self.attention, self.stream, self.logits]).nan_to_num(float("inf"))
        return float(values.max())


@torch.no_grad()
def agreement(model: HookedModel) -> Agreement:
    """Compare the recomputed parts with the model on a few tokens."""
    parts = anatomy(model)
    if parts.whole_mixers:
        layer = parts.whole_mixers[0]
        raise InputError(f"Layer {layer} holds {' and '.join(parts.mixers[layer])}, of which only attention has heads.")
    tokens = [(7 * i + 3) % parts.d_vocab for i in range(8)]
    layers = range(parts.n_layers)
    words = ("attn.hook_z", "hook_attn_out", "hook_resid_pre", "hook_resid_post")
    names = [f"blocks.{layer}.{word}" for layer in layers for word in words]
    seen = capture(model, [tokens], dict.fromkeys(names, lambda activation: activation))
    attention = stream = 0.0
    for layer in layers:
        z, out, before, after = (seen[f"blocks.{layer}.{word}"] for word in words)
        added = parts.blocks[layer].attn_out(z)
        attention = max(attention, relative_error(added, out))
        stream = max(stream, relative_error(block_output(parts, layer, before, added), after))
    return Agreement(attention, stream, recomputed_logits(model))


@torch.no_grad()
def recomputed_logits(model: HookedModel) -> float:
    """Relative error of the logits, recomputed from the stream after the last block, on a few tokens."""
    parts = anatomy(model)
    tokens = [(7 * i + 3) % parts.d_vocab for i in range(8)]
    end = f"blocks.{parts.n_layers - 1}.hook_resid_post"
    stream = capture(model, [tokens], {end: lambda activation: activation})[end]
    return relative_error(parts.unembed(stream), model(torch.tensor([tokens], device=device_of(model))))


@torch.no_grad()
def require_original(model: HookedModel) -> None:
    """Refuse a bridge that computes other logits than its Hugging Face model, on a few tokens, once for each model.

    A model on which somebody left hooks of their own is meant as it is.

    Raises:
        InputError: it does, so that what is read and written at its hook points is not the model's.
    """
    if model in _same or left_hooks(model):
        return
    tokens = torch.tensor([[(7 * i + 3) % int(model.cfg.d_vocab) for i in range(8)]], device=device_of(model))
    with without_hooks(model):
        wanted = original_logits(model, tokens)
        apart = 0.0 if wanted is None else relative_error(model(tokens), wanted)
    if apart > TOLERANCE.get(anatomy(model).dtype, 0.1):
        raise InputError(
            f"TransformerLens computes other logits for {anatomy(model).architecture} than Hugging Face (relative "
            f"error {apart:.1e}), so its hook points show another model. Use another version of TransformerLens, or "
            "another model; path_patch can run the Hugging Face model itself where workbench.check says so."
        )
    _same.add(model)


def block_output(
    parts: Anatomy, layer: int, before: Float[Tensor, "*row d_model"], attn_out: Float[Tensor, "*row d_model"]
) -> Float[Tensor, "*row d_model"]:
    """The stream after a block, from the stream before it and what attention adds."""
    between = before + attn_out
    mlp_input = before if parts.layout == "parallel" else between
    return between + parts.blocks[layer].mlp_out(mlp_input.to(attn_out.dtype))


def relative_error(found: Float[Tensor, "*rest"], wanted: Float[Tensor, "*rest"]) -> float:
    """The norm of the difference over the norm of the expected values."""
    wanted = wanted.to(found.device).double()
    return float((found.double() - wanted).norm() / wanted.norm())
