"""The structure of a model (shape, blocks, unembedding), for every kind of TransformerLens model.

This file, `blocks.py` and `forward.py` are the only ones that know that a `TransformerBridge` (TransformerLens 3.9
and 4.x) and a `HookedTransformer` (3.9) differ. All other modules use `anatomy(model)` for the shape, and its
`blocks` and `unembed` for the parts that patching recomputes:

    sequential   r = x + attn_out(z);      y = r + mlp_out(r)
    parallel     y = x + attn_out(z) + mlp_out(x)

where `attn_out` holds W_O, its bias, a norm after it (Gemma-2, OLMo-2) and a residual multiplier (Granite),
and `mlp_out` the norm before the MLP, the MLP or mixture of experts, a norm after it and the multiplier.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
from einops import repeat
from jaxtyping import Bool
from torch import Tensor

from workbench.errors import InputError
from workbench.models.blocks import Block, bridge_blocks, bridge_unembed, hooked_blocks, hooked_unembed
from workbench.models.devices import devices_of
from workbench.names import Backend
from workbench.protocol import HookedModel


@dataclass(frozen=True)
class Anatomy:
    """Shape, block layout and recomputable parts of a decoder.

    Attributes:
        name: the model's name, as its configuration gives it.
        architecture: its Hugging Face class or TransformerLens family.
        kind: "bridge" (TransformerBridge) or "hooked" (HookedTransformer).
        n_layers: number of blocks.
        n_heads: query heads per layer.
        n_kv_heads: key/value heads per layer; equal to `n_heads` without grouped-query attention.
        d_head: width of one head's z.
        d_model: width of the residual stream.
        d_vocab: number of rows of the unembedding.
        layout: "sequential", or "parallel" where attention and MLP both read the block's input.
        norms: "pre", "post" (after the branches only) or "sandwich" (before and after).
        dtype: the parameters' dtype, such as "float32".
        device: where it computes, such as "cuda:0", or "cuda:0, cuda:1" where its layers are spread over several.
        mixers: for each layer, the parts that move information between tokens: ("attn",) in most models,
            ("linear_attn",), ("mixer",), ("conv",) or ("attn", "mamba") in hybrids; none in a layer of MLPs only.
        head_layers: the layers whose attention has heads with outputs of their own; the others are whole senders.
        blocks: one `Block` per layer.
        unembed: `(resid [..., d_model], ids [..., k] or None)` to logits `[..., k]` or `[..., d_vocab]`, with
            the final norm, logit scaling and soft cap applied.
    """

    name: str
    architecture: str
    kind: Backend
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    d_vocab: int
    layout: Literal["sequential", "parallel"]
    norms: Literal["pre", "post", "sandwich"]
    dtype: str
    device: str
    mixers: tuple[tuple[str, ...], ...]
    head_layers: tuple[int, ...]
    blocks: tuple[Block, ...] = field(repr=False, compare=False)
    unembed: Callable[..., Tensor] = field(repr=False, compare=False)

    @property
    def group_size(self) -> int:
        """Query heads that read one KV head; query head h reads KV head `h // group_size`."""
        return self.n_heads // self.n_kv_heads

    @property
    def headless(self) -> tuple[int, ...]:
        """The layers without attention heads that can be reached."""
        return tuple(layer for layer in range(self.n_layers) if layer not in self.head_layers)

    @property
    def whole_mixers(self) -> tuple[int, ...]:
        """The layers that hold a mixer without heads, such as linear attention, beside attention or instead of it."""
        return tuple(
            layer
            for layer, names in enumerate(self.mixers)
            if any(name != "attn" or layer in self.headless for name in names)
        )

    @property
    def facts(self) -> dict[str, Any]:
        """A result's attributes about its model: the shape of its heads, dtype, device and layers without heads."""
        names = ("architecture", "n_layers", "n_heads", "n_kv_heads", "group_size", "dtype", "device")
        facts = {name: getattr(self, name) for name in names}
        return facts | {"headless": list(self.headless)} if self.headless else facts


def kind_of(model: Any) -> Backend:
    """Which of the supported kinds of TransformerLens model this is.

    A model of another class that follows HookedTransformer's interface says so by an attribute `kind = "hooked"`.

    Raises:
        InputError: it is none of them.
    """
    if is_transformer_lens(model):
        return "bridge" if _is_a(model, "TransformerBridge") else "hooked"
    raise InputError(
        f"A {type(model).__name__} is not a TransformerLens model, and heads and groups can be read only "
        "from one. Pass it (or its name or folder) through workbench.load(...) first."
    )


def is_transformer_lens(model: Any) -> TypeGuard[HookedModel]:
    """Whether this is a model that `kind_of` knows."""
    ours = _is_a(model, "TransformerBridge") or _is_a(model, "HookedTransformer")
    return ours or (isinstance(model, torch.nn.Module) and getattr(model, "kind", None) == "hooked")


def _is_a(model: Any, name: str) -> bool:
    return any(cls.__name__ == name for cls in type(model).__mro__)


def heads_by_unit(n_units: int, n_heads: int) -> Bool[np.ndarray, "unit head"]:
    """Which query heads of a layer each of `n_units` units owns: head h belongs to unit `h // (n_heads // n_units)`."""
    return repeat(
        np.eye(n_units, dtype=bool), "unit kv_head -> unit (kv_head group_head)", group_head=n_heads // n_units
    )


def anatomy(model: HookedModel) -> Anatomy:
    """Describe a model and give access to the parts that patching recomputes.

    Args:
        model: what `workbench.load` returns: a TransformerBridge or a HookedTransformer.

    Raises:
        InputError: not such a model, or one whose layers TransformerLens wraps as a whole.
    """
    kind = kind_of(model)
    blocks, layout, norms = bridge_blocks(model) if kind == "bridge" else hooked_blocks(model)
    parameter = next(p for p in model.parameters() if p.is_floating_point())
    cfg = model.cfg
    n_heads = int(cfg.n_heads)
    architecture = getattr(cfg, "architecture", None) or getattr(cfg, "original_architecture", None)
    return Anatomy(
        name=_name(model, kind),
        architecture=str(architecture or type(model).__name__),
        kind=kind,
        n_layers=int(cfg.n_layers),
        n_heads=n_heads,
        n_kv_heads=int(getattr(cfg, "n_key_value_heads", None) or n_heads),
        d_head=int(cfg.d_head),
        d_model=int(cfg.d_model),
        d_vocab=int(cfg.d_vocab),
        layout=layout,
        norms=norms,
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=", ".join(map(str, devices_of(model))),
        mixers=tuple(block.mixers for block in blocks),
        head_layers=tuple(layer for layer, block in enumerate(blocks) if block.has_heads),
        blocks=blocks,
        unembed=bridge_unembed(model) if kind == "bridge" else hooked_unembed(model),
    )


def require_heads(model: HookedModel) -> Anatomy:
    """The anatomy of a model that has attention heads.

    Raises:
        InputError: no layer has heads that can be reached.
    """
    parts = anatomy(model)
    if not parts.head_layers:
        kinds = sorted({name for names in parts.mixers for name in names})
        raise InputError(
            f"{parts.architecture} has no attention heads that can be reached: its layers hold {', '.join(kinds)}. "
            "path_patch(unit='layer') measures layers as a whole; for heads use a model with attention layers."
        )
    return parts


def _name(model: HookedModel, kind: Backend) -> str:
    given = getattr(model, "workbench_name", None)
    if given:
        return str(given)
    if kind == "bridge":
        path = getattr(model.original_model.config, "_name_or_path", "")
        return str(path or type(model.original_model).__name__)
    return str(getattr(model.cfg, "model_name", None) or "HookedTransformer")
