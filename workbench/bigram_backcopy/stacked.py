"""Many seeds of one architecture as one model: weights have a leading seed axis, and every product is batched.

This is the forward pass for training: no hooks, the gain and bias of each norm multiplied into the map after it,
queries, keys and values in one product, and plain views, as einops would make steps of small models a tenth slower. It
computes what `model.Toy` computes, which the tests hold it to; seeds never mix, so a band of seeds is the same runs as
one by one.

    x        [seed, batch * pos, d_model]
    W        [seed, d_in, d_out]
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from workbench.bigram_backcopy.model import EPS, Toy
from workbench.bigram_backcopy.structures import Architecture

Weights = dict[str, Tensor]


def stack(models: Sequence[Toy]) -> Weights:
    """The weights of several models of one architecture, with a leading seed axis."""
    parts = [_to_stacked(model) for model in models]
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def unstack(weights: Weights, seed: int, into: Toy) -> Toy:
    """Write the weights at one place of the seed axis into a model of the same architecture, and return it."""
    a = into.architecture
    state: dict[str, Tensor] = {}
    for name, all_seeds in weights.items():
        value = all_seeds[seed].detach()
        path, _, last = name.rpartition(".")
        if last == "qkv":
            for letter, part in zip("QKV", value.split(a.d_model, -1), strict=True):
                state[f"{path}.W_{letter}"] = rearrange(
                    part, "d_model (head d_head) -> head d_model d_head", head=a.n_heads
                )
        elif last == "W_O":
            state[name] = rearrange(value, "(head d_head) d_model -> head d_head d_model", head=a.n_heads)
        else:
            state[name] = value.reshape(-1) if last in ("w", "b") else value
    into.load_state_dict(state)
    return into


def used(name: str, architecture: Architecture) -> bool:
    """Whether weights take part in the forward pass: the norm in front of an absent part does not."""
    place, _, rest = name.removeprefix("blocks.").partition(".")
    if rest.startswith("ln1"):
        return architecture.has(int(place), "attn")
    return not rest.startswith("ln2") or architecture.has(int(place), "mlp")


def logits(
    weights: Weights, tokens: Int[Tensor, "seed batch pos"], architecture: Architecture, dtype: torch.dtype
) -> Float[Tensor, "row d_vocab"]:
    """Logits of every position of every sequence of every seed, in that order.

    Products are computed in `dtype`; the stream, norms, softmax, unembedding and losses stay in float32 (the gradients
    of logits add up to zero, and rounded ones do not: the same way at every occurrence of a token).
    """
    seeds, batch, length = tokens.shape
    x = embedded(weights, tokens)
    hidden = masks(length, architecture, x.device, dtype)
    for layer in range(architecture.n_layers):
        if architecture.has(layer, "attn"):
            qkv = _normed(weights, f"blocks.{layer}.ln1", x, f"blocks.{layer}.attn.qkv", architecture.norm, dtype)
            z = _attend(qkv.view(seeds * batch, length, -1), architecture, hidden)
            x = added(x, z.reshape(seeds, batch * length, -1), weights[f"blocks.{layer}.attn.W_O"])
        if architecture.has(layer, "mlp"):
            pre = _normed(weights, f"blocks.{layer}.ln2", x, f"blocks.{layer}.mlp.W_in", architecture.norm, dtype)
            x = added(x, pre.relu_(), weights[f"blocks.{layer}.mlp.W_out"])
    wide = torch.promote_types(dtype, torch.float32)
    return _normed(weights, "ln_final", x, "unembed.W_U", architecture.norm, wide).flatten(0, 1)


def embedded(weights: Weights, tokens: Int[Tensor, "seed batch pos"]) -> Float[Tensor, "seed row d_model"]:
    """The stream in front of the first block; rows are the positions of all sequences."""
    seeds, _, length = tokens.shape
    embed = weights["embed.W_E"]
    shift = torch.arange(seeds, device=tokens.device)[:, None, None] * embed.shape[1]
    x = F.embedding(tokens + shift, embed.flatten(0, 1)) + weights["pos_embed.W_pos"][:, None, :length]
    return x.view(seeds, -1, embed.shape[-1])


def _normed(weights: Weights, norm: str, x: Tensor, linear: str, active: bool, dtype: torch.dtype) -> Tensor:
    """Norm, then a linear map."""
    if active and x.shape[0] == 1:
        gain, bias = weights[f"{norm}.w"], weights[f"{norm}.b"]
        x = F.layer_norm(x, x.shape[-1:], gain.flatten(), bias.flatten(), EPS)
    elif active:
        x = torch.addcmul(weights[f"{norm}.b"], F.layer_norm(x, x.shape[-1:], eps=EPS), weights[f"{norm}.w"])
    return torch.bmm(x.to(dtype), weights[linear].to(dtype))


def added(
    x: Float[Tensor, "seed row d_model"],
    branch: Float[Tensor, "seed row width"],
    matrix: Float[Tensor, "seed width d_model"],
) -> Float[Tensor, "seed row d_model"]:
    """The stream plus what a part adds to it."""
    if branch.dtype == x.dtype:
        return torch.baddbmm(x, branch, matrix)
    return x + torch.bmm(branch, matrix.to(branch.dtype))


def _attend(qkv: Tensor, a: Architecture, hidden: tuple[Tensor, Tensor | None]) -> Tensor:
    """Attention within `[row, pos, 3 * d_model]`."""
    q, k, v = (heads(part, a) for part in qkv.split(a.d_model, -1))
    return joined(torch.bmm(pattern(q, k, a, hidden).to(v.dtype), v), a)


def pattern(
    q: Float[Tensor, "row query d_head"],
    k: Float[Tensor, "row key d_head"],
    a: Architecture,
    hidden: tuple[Tensor, Tensor | None],
) -> Float[Tensor, "row query key"]:
    """Attention weights, never narrower than float32: rounded ones do not add up to 1."""
    scores = torch.baddbmm(hidden[0], q, k.transpose(1, 2), alpha=1 / math.sqrt(a.d_head))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores.softmax(-1) if hidden[1] is None else scores.relu() * hidden[1]


def heads(part: Tensor, a: Architecture) -> Tensor:
    """`[row, pos, d_model]` with each head as a row of its own."""
    rows, length, _ = part.shape
    return part if a.n_heads == 1 else part.view(rows, length, a.n_heads, -1).transpose(1, 2).flatten(0, 1)


def joined(part: Tensor, a: Architecture) -> Tensor:
    """The inverse of `heads`."""
    if a.n_heads == 1:
        return part
    return part.view(-1, a.n_heads, *part.shape[1:]).transpose(1, 2).flatten(2)


def masks(length: int, a: Architecture, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """What is added to scores, and for ReLU attention each query's share 1 / visible keys."""
    hidden = torch.full((length, length), -torch.inf, device=device, dtype=dtype).triu(1)
    if a.attention == "softmax":
        return hidden, None
    visible = torch.arange(1, length + 1, device=device, dtype=torch.float64)[:, None]
    return hidden, (1 / visible).to(torch.promote_types(dtype, torch.float32))


def _to_stacked(model: Toy) -> Weights:
    state = {name: value.detach() for name, value in model.named_parameters()}
    found: Weights = {}
    for name, value in state.items():
        path, _, last = name.rpartition(".")
        if last == "W_Q":
            parts = [state[f"{path}.W_{letter}"] for letter in "QKV"]
            found[f"{path}.qkv"] = rearrange(parts, "qkv head d_model d_head -> d_model (qkv head d_head)")
        elif last == "W_O":
            found[name] = rearrange(value, "head d_head d_model -> (head d_head) d_model")
        elif last not in ("W_K", "W_V"):
            found[name] = value[None] if last in ("w", "b") else value
    return found
