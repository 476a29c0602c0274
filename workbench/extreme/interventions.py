"""Interventions on sinks, drains and peaks, as context managers on hook points.

Inside `with zero_outputs(model, mlp=[0, 1]):` every run of the model misses those outputs; when the block ends,
also by an exception, nothing remains. They can be nested: the outer one acts first. Layers, heads and positions are
checked before anything runs, and on leaving it is proved that every run reached every edited hook point.

Attention is edited after the softmax, which is exact: adding b to a key's logit is to multiply its weight by exp(b)
and to divide the row by its new sum. Where a model shows its pattern but does not read it back (GPT-J), that is
refused. Positions count in each row of tokens, which are padded on the right.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.extreme.editing import (
    at_keys,
    editing,
    editing_attention,
    queries,
    require_inside,
    reweigh,
    rows,
    sees_keys,
    suspended,
)
from workbench.models.anatomy import Anatomy, anatomy
from workbench.models.capture import capture
from workbench.models.forward import HookFn
from workbench.protocol import HookedModel

Heads = Iterable[Any]
"""Pairs `(layer, head)`."""
Positions = int | Sequence[int] | Tensor
"""One position for all sequences, or one for each row of the batch that is run."""


# Whole branches and tokens.


def zero_outputs(
    model: HookedModel, *, attention: int | Iterable[int] = (), mlp: int | Iterable[int] = ()
) -> AbstractContextManager[None]:
    """Zero what attention or the MLP of chosen layers adds to the residual stream, at all positions.

    Args:
        model: a model from `workbench.load`.
        attention: layers whose attention adds nothing.
        mlp: layers whose MLP adds nothing.

    Raises:
        InputError: a layer that the model does not have, or no layer at all.
    """
    n_layers = anatomy(model).n_layers
    names = [f"blocks.{layer}.hook_attn_out" for layer in _layers(attention, n_layers, "attention")]
    names += [f"blocks.{layer}.hook_mlp_out" for layer in _layers(mlp, n_layers, "mlp")]
    if not names:
        raise InputError("Nothing to zero: give layers, such as zero_outputs(model, mlp=[0, 1]).")
    return editing(model, dict.fromkeys(names, torch.zeros_like))


def zero_neurons(model: HookedModel, layer: int, positions: int | Iterable[int] = 0) -> AbstractContextManager[None]:
    """Zero all neurons of one layer's MLP at some positions of every sequence, so that no peak is made there.

    Args:
        model: a model from `workbench.load`.
        layer: whose MLP.
        positions: of the tokens, the first by default.

    Raises:
        InputError: a layer that the model does not have, or a position beyond the end of the tokens run.
    """
    _layers(layer, anatomy(model).n_layers, "mlp")
    where = torch.tensor([positions] if isinstance(positions, int) else [int(p) for p in positions])

    def silence(neurons: Float[Tensor, "batch pos d_mlp"]) -> Tensor:
        require_inside(where.max(), neurons.shape[1])
        changed = neurons.clone()
        changed[:, where] = 0
        return changed

    return editing(model, {f"blocks.{layer}.mlp.hook_post": silence})


@torch.no_grad()
def swap_token(model: HookedModel, token: int, position: int = 0) -> AbstractContextManager[None]:
    """Replace the token at a position, the first by default, by replacing its embedding.

    Args:
        model: a model from `workbench.load`.
        token: the id of the token that is to stand there.
        position: where.

    Raises:
        InputError: a token that the model does not know, or a position beyond the end of the tokens run.
    """
    vocab = anatomy(model).d_vocab
    if not 0 <= token < vocab:
        raise InputError(f"Token id {token} does not exist: the model knows the ids 0 to {vocab - 1}.")
    where = int(_positions(position))
    with suspended(model):
        row = capture(model, [[int(token)]], {"hook_embed": lambda embedding: embedding})["hook_embed"][0, 0]

    def swap(embedding: Float[Tensor, "batch pos d_model"]) -> Tensor:
        require_inside(torch.tensor(where), embedding.shape[1])
        changed = embedding.clone()
        changed[:, where] = row.to(changed.dtype)
        return changed

    return editing(model, {"hook_embed": swap})


def without_first(sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """The sequences without their first token, which is what removes a sink altogether.

    Raises:
        InputError: a sequence of one token, of which nothing would be left.
    """
    short = [i for i, tokens in enumerate(sequences) if len(tokens) < 2]
    if short:
        raise InputError(
            f"Sequence {short[0]} has {len(sequences[short[0]])} tokens and would be empty without its first one; "
            "leave it out or give a longer text."
        )
    return [[int(t) for t in tokens][1:] for tokens in sequences]


def replace_first(sequences: Sequence[Sequence[int]], token: int) -> list[list[int]]:
    """The sequences with another first token, for instance an ordinary word in place of BOS."""
    return [[int(token), *(int(t) for t in tokens[1:])] for tokens in sequences]


# Attention.


def force_attention(model: HookedModel, heads: Heads, key: Positions = 0) -> AbstractContextManager[None]:
    """Force all attention of some heads onto one key, for all queries at or after it.

    Queries in front of the key cannot see it and keep their attention. A sliding window does not stop it.

    Args:
        model: a model from `workbench.load`.
        heads: `(layer, head)` pairs.
        key: its position, or one for each row of the batch.

    Raises:
        InputError: a head that the model does not have, or a position beyond the end of the tokens run.
    """
    keys = _positions(key)

    def change(layer: int, heads: Tensor, pattern: Tensor) -> Tensor:
        at_key = at_keys(keys, pattern)
        return torch.where(sees_keys(keys, pattern), at_key.to(pattern.dtype), pattern)

    return editing_attention(model, _by_layer(model, heads), change, softmax=False)


def mask_key(model: HookedModel, key: Positions = 0, heads: Heads | None = None) -> AbstractContextManager[None]:
    """Take a key out of attention and share its weight among the others in proportion, as its absence would.

    A query that sees nothing else, such as the first token itself, keeps its attention.

    Args:
        model: a model from `workbench.load`.
        key: the position of the sink, or one for each row of the batch.
        heads: `(layer, head)` pairs; by default all.

    Raises:
        InputError: a head that the model does not have, a position beyond the end of the tokens run, or attention
            that is no softmax over the keys.
    """
    return sink_bias(model, -torch.inf, key, heads)


def sink_bias(
    model: HookedModel, bias: float | int | np.ndarray | Tensor, key: Positions = 0, heads: Heads | None = None
) -> AbstractContextManager[None]:
    """Add a bias to the logit with which every query attends to the sink (after a soft cap, where there is one).

    Args:
        model: a model from `workbench.load`.
        bias: one number, or one per layer and head, `[layer, head]`. Negative discourages, -inf removes the sink.
        key: the position of the sink, or one for each row of the batch.
        heads: `(layer, head)` pairs; by default all.

    Raises:
        InputError: a head that the model does not have, biases of another shape or NaN, a position beyond the end of
            the tokens run, or attention that is no softmax over the keys.
    """
    parts, keys = anatomy(model), _positions(key)
    biases = _biases(bias, parts)

    def change(layer: int, heads: Tensor, pattern: Tensor) -> Tensor:
        at_key = at_keys(keys, pattern)
        added = rearrange(biases.to(pattern.device)[layer, heads.to(pattern.device)], "head -> head 1 1")
        return reweigh(pattern, torch.where(at_key, added, 0.0))

    return editing_attention(model, _by_layer(model, heads), change, softmax=True)


def sliding_window(
    model: HookedModel, size: int, keep_first: int = 0, heads: Heads | None = None
) -> AbstractContextManager[None]:
    """Let queries see only the last `size` keys, their own included, and the first `keep_first` ones.

    Without the first tokens a model loses its sinks, and its loss often rises sharply; one kept token avoids that.

    Args:
        model: a model from `workbench.load`.
        size: how many keys each query sees.
        keep_first: how many of the first keys all queries see besides.
        heads: `(layer, head)` pairs; by default all.

    Raises:
        InputError: a window below 1, a head that the model does not have, or attention that is no softmax.
    """
    if size < 1 or keep_first < 0:
        raise InputError(
            f"A window of {size} keys that keeps {keep_first} first ones; give size >= 1, keep_first >= 0."
        )

    def change(layer: int, heads: Tensor, pattern: Tensor) -> Tensor:
        key = torch.arange(pattern.shape[-1], device=pattern.device)
        kept = (queries(pattern)[:, None] - key < size) | (key < keep_first)
        return reweigh(pattern, torch.where(kept, 0.0, -torch.inf))

    return editing_attention(model, _by_layer(model, heads), change, softmax=True)


def clamp_values(
    model: HookedModel, key: Positions = 0, scale: float | int = 0.0, kv_heads: Heads | None = None
) -> AbstractContextManager[None]:
    """Scale the values at the sink, to zero by default: what attention to it then adds.

    Args:
        model: a model from `workbench.load`.
        key: the position of the sink, or one for each row of the batch.
        scale: what its values are multiplied by.
        kv_heads: `(layer, KV head)` pairs; by default all.

    Raises:
        InputError: a KV head that the model does not have, or a position beyond the end of the tokens run.
    """
    keys, chosen = _positions(key), _by_layer(model, kv_heads, kv=True)

    def clamp(heads: Tensor) -> HookFn:
        def hook(values: Float[Tensor, "batch pos kv_head d_head"]) -> Tensor:
            row, where = rows(keys, values.shape[0], values.shape[1], values.device)
            at = (row[:, None], where[:, None], heads.to(values.device)[None])
            changed = values.clone()
            changed[at] = changed[at] * scale
            return changed

        return hook

    return editing(model, {f"blocks.{layer}.attn.hook_v": clamp(heads) for layer, heads in chosen.items()})


# Checking what is asked for.


def _positions(key: Positions) -> Int[Tensor, " batch"]:
    keys = torch.as_tensor(key).reshape(-1).cpu()
    if not len(keys) or keys.is_floating_point() or int(keys.min()) < 0:
        raise InputError(f"Positions count from 0 at the first token of each sequence; got {str(key)[:60]}.")
    return keys.long()


def _layers(layers: int | Iterable[int], n_layers: int, name: str) -> list[int]:
    wanted = [layers] if isinstance(layers, int | np.integer) else list(layers)
    wrong = [layer for layer in wanted if not 0 <= int(layer) < n_layers]
    if wrong:
        raise InputError(f"{name}: layer {wrong[0]} does not exist; the model has the layers 0 to {n_layers - 1}.")
    return sorted({int(layer) for layer in wanted})


def _by_layer(model: HookedModel, heads: Heads | None, kv: bool = False) -> dict[int, Int[Tensor, " head"]]:
    """Chosen heads by layer, all of them for None."""
    parts = anatomy(model)
    count, word = (parts.n_kv_heads, "KV head") if kv else (parts.n_heads, "head")
    if heads is None:
        return {layer: torch.arange(count) for layer in range(parts.n_layers)}
    try:
        pairs = sorted({(int(layer), int(head)) for layer, head in heads})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"heads={str(heads)[:60]} are no (layer, {word}) pairs; give a list such as [(3, 0)]."
        ) from error
    wrong = [pair for pair in pairs if not (0 <= pair[0] < parts.n_layers and 0 <= pair[1] < count)]
    if wrong or not pairs:
        raise InputError(
            (f"Layer {wrong[0][0]}, {word} {wrong[0][1]} does not exist" if wrong else f"No {word} was given")
            + f": the model has the layers 0 to {parts.n_layers - 1} with the {word}s 0 to {count - 1} each."
        )
    return {
        layer: torch.tensor([head for at, head in pairs if at == layer]) for layer in sorted({at for at, _ in pairs})
    }


def _biases(bias: float | int | np.ndarray | Tensor, parts: Anatomy) -> Float[Tensor, "layer head"]:
    biases = torch.as_tensor(bias, dtype=torch.float32)
    shape = (parts.n_layers, parts.n_heads)
    if biases.dim() and tuple(biases.shape) != shape:
        raise InputError(f"Biases of shape {tuple(biases.shape)}; give one number, or one per layer and head {shape}.")
    if biases.isnan().any() or (biases == torch.inf).any():
        raise InputError("A bias is NaN or +inf; give finite numbers, or -inf to remove the sink.")
    return biases.expand(shape)
