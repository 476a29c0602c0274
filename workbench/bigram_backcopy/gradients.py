"""Losses and gradients of stacked models, written out by hand.

It is what autograd would do with `stacked.logits`, in the same order and number formats and without a graph of its
own, so that a GPU can record a step once and replay it. The tests hold it to autograd.

1. Forward: each part keeps what its backward needs.
2. Cross-entropy: its gradient is softmax minus the right token.
3. Backward: the parts in reverse; the gradient of the stream collects what each part adds.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.bigram_backcopy import stacked
from workbench.bigram_backcopy.model import EPS
from workbench.bigram_backcopy.stacked import Weights
from workbench.bigram_backcopy.structures import Architecture

Back = Callable[[Tensor, Weights], Tensor]
"""Turns the gradient after a part into the one in front of it, and notes those of its weights."""


@torch.no_grad()
def gradients(
    weights: Weights, tokens: Int[Tensor, "seed batch pos"], architecture: Architecture, dtype: torch.dtype
) -> tuple[Float[Tensor, " seed"], Weights]:
    """Mean cross-entropy of the next token per seed, and its gradients by weight, with products in `dtype`."""
    a = architecture
    seeds, batch, length = tokens.shape[0], tokens.shape[1], tokens.shape[2] - 1
    inputs, targets = tokens[..., :-1].reshape(seeds, -1), tokens[..., 1:].reshape(seeds, -1, 1)
    cast = {name: value.to(dtype) for name, value in weights.items()}
    x = stacked.embedded(weights, tokens[..., :-1])
    masks = stacked.masks(length, a, x.device, dtype)
    backs: list[Back] = []
    for layer in range(a.n_layers):
        if a.has(layer, "attn"):
            x, back = _attention(weights, cast, f"blocks.{layer}", x, (seeds * batch, length), a, masks)
            backs.append(back)
        if a.has(layer, "mlp"):
            x, back = _mlp(weights, cast, f"blocks.{layer}", x, a)
            backs.append(back)
    y, norm_back = _normed(weights, "ln_final", x, a.norm)
    unembed = weights["unembed.W_U"]
    logits = torch.bmm(y, unembed)

    shares = logits.log_softmax(-1)
    losses = -shares.gather(-1, targets).squeeze(-1).mean(1)
    wrong = shares.exp_().scatter_add_(-1, targets, shares.new_full((), -1.0).expand(targets.shape))
    wrong = wrong.div_(batch * length)

    found: Weights = {}
    found["unembed.W_U"] = torch.bmm(y.transpose(1, 2), wrong)
    d = norm_back(torch.bmm(wrong, unembed.transpose(1, 2)), found)
    for back in reversed(backs):
        d = back(d, found)
    which = d.new_zeros(*inputs.shape, weights["embed.W_E"].shape[1]).scatter_(-1, inputs[..., None], 1.0)
    found["embed.W_E"] = torch.bmm(which.transpose(1, 2), d)
    positions = torch.zeros_like(weights["pos_embed.W_pos"])
    positions[:, :length] = d.view(seeds, batch, length, -1).sum(1)
    return losses, found | {"pos_embed.W_pos": positions}


def _normed(weights: Weights, name: str, x: Tensor, active: bool) -> tuple[Tensor, Back]:
    if not active:
        return x, lambda d, found: d
    gain, bias, width = weights[f"{name}.w"], weights[f"{name}.b"], x.shape[-1:]
    alone = x.shape[0] == 1
    pair = (gain.flatten(), bias.flatten()) if alone else (None, None)
    normal, mean, scale = torch.native_layer_norm(x, width, *pair, EPS)

    def back(d: Tensor, found: Weights) -> Tensor:
        wanted = [True, alone, alone]
        inner = d if alone else d * gain
        dx, dw, db = torch.ops.aten.native_layer_norm_backward(inner, x, width, mean, scale, *pair, wanted)
        found[f"{name}.w"] = dw.view_as(gain) if alone else (d * normal).sum(1, keepdim=True)
        found[f"{name}.b"] = db.view_as(bias) if alone else d.sum(1, keepdim=True)
        return dx

    return (normal if alone else torch.addcmul(bias, normal, gain)), back


def _mlp(weights: Weights, cast: Weights, block: str, x: Tensor, a: Architecture) -> tuple[Tensor, Back]:
    into, out = f"{block}.mlp.W_in", f"{block}.mlp.W_out"
    y, norm_back = _normed(weights, f"{block}.ln2", x, a.norm)
    y = y.to(cast[into].dtype)
    hidden = torch.bmm(y, cast[into]).relu_()

    def back(d: Tensor, found: Weights) -> Tensor:
        low = d.to(hidden.dtype)
        found[out] = torch.bmm(hidden.transpose(1, 2), low).to(x.dtype)
        inner = torch.bmm(low, cast[out].transpose(1, 2))
        inner = torch.ops.aten.threshold_backward.grad_input(inner, hidden, 0, grad_input=inner)
        found[into] = torch.bmm(y.transpose(1, 2), inner).to(x.dtype)
        return norm_back(torch.bmm(inner, cast[into].transpose(1, 2)).to(x.dtype), found).add_(d)

    return stacked.added(x, hidden, cast[out]), back


def _attention(
    weights: Weights,
    cast: Weights,
    block: str,
    x: Tensor,
    size: tuple[int, int],
    a: Architecture,
    masks: tuple[Tensor, Tensor | None],
) -> tuple[Tensor, Back]:
    into, out = f"{block}.attn.qkv", f"{block}.attn.W_O"
    y, norm_back = _normed(weights, f"{block}.ln1", x, a.norm)
    y = y.to(cast[into].dtype)
    qkv = torch.bmm(y, cast[into]).view(*size, -1)
    q, k, v = (stacked.heads(part, a) for part in qkv.split(a.d_model, -1))
    pattern = stacked.pattern(q, k, a, masks)
    low_pattern = pattern.to(v.dtype)
    z = stacked.joined(torch.bmm(low_pattern, v), a).reshape(*x.shape)

    def back(d: Tensor, found: Weights) -> Tensor:
        low = d.to(z.dtype)
        found[out] = torch.bmm(z.transpose(1, 2), low).to(x.dtype)
        dz = stacked.heads(torch.bmm(low, cast[out].transpose(1, 2)).view(*size, -1), a)
        dp = torch.bmm(dz, v.transpose(1, 2)).to(pattern.dtype)
        if masks[1] is None:
            ds = torch.ops.aten._softmax_backward_data(dp, pattern, -1, pattern.dtype)
        else:
            ds = (dp * masks[1]).masked_fill_(pattern <= 0, 0)
        ds = ds.mul_(a.d_head**-0.5).to(q.dtype)
        parts = torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q), torch.bmm(low_pattern.transpose(1, 2), dz)
        inner = torch.cat([stacked.joined(part, a) for part in parts], -1).view(*x.shape[:2], -1)
        found[into] = torch.bmm(y.transpose(1, 2), inner).to(x.dtype)
        return norm_back(torch.bmm(inner, cast[into].transpose(1, 2)).to(x.dtype), found).add_(d)

    return stacked.added(x, z, cast[out]), back
