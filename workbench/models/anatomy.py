"""The structure of a model (shape, blocks, unembedding), for every kind of TransformerLens model.

This file and `forward.py` are the only ones that know that a `TransformerBridge` (TransformerLens 3.9 and
4.x) and a `HookedTransformer` (3.9) differ. All other modules use `anatomy(model)` for the shape, and its
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
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.names import Backend
from workbench.protocol import HookedModel


@dataclass(frozen=True)
class Block:
    """The two branches that one layer adds to the residual stream, as functions of one token's vectors."""

    attn_out: Callable[[Tensor], Tensor]
    """z `[..., head, d_head]` to what attention adds to the stream `[..., d_model]`."""
    mlp_out: Callable[[Tensor], Tensor]
    """The stream in front of the MLP branch `[..., d_model]` to what the branch adds `[..., d_model]`."""
    w_o: Callable[[], Tensor]
    """The heads' slices of the output projection `[head, d_head, d_model]`, without its bias."""


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
        device: where the parameters lie, such as "cuda:0".
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
    blocks: tuple[Block, ...] = field(repr=False, compare=False)
    unembed: Callable[..., Tensor] = field(repr=False, compare=False)

    @property
    def group_size(self) -> int:
        """Query heads that read one KV head; query head h reads KV head `h // group_size`."""
        return self.n_heads // self.n_kv_heads

    @property
    def facts(self) -> dict[str, str | int]:
        """A result's attributes about its model: the shape of its heads, dtype and device."""
        names = ("architecture", "n_layers", "n_heads", "n_kv_heads", "group_size", "dtype", "device")
        return {name: getattr(self, name) for name in names}


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
        InputError: not such a model, or one whose blocks are not attention plus MLP added to one stream.
    """
    kind = kind_of(model)
    blocks, layout, norms = _bridge_blocks(model) if kind == "bridge" else _hooked_blocks(model)
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
        device=str(parameter.device),
        blocks=blocks,
        unembed=_bridge_unembed(model) if kind == "bridge" else _hooked_unembed(model),
    )


def _name(model: HookedModel, kind: Backend) -> str:
    given = getattr(model, "workbench_name", None)
    if given:
        return str(given)
    if kind == "bridge":
        path = getattr(model.original_model.config, "_name_or_path", "")
        return str(path or type(model.original_model).__name__)
    return str(getattr(model.cfg, "model_name", None) or "HookedTransformer")


# TransformerBridge: the parts are TransformerLens's components around the Hugging Face modules.


def _bridge_blocks(model: HookedModel) -> tuple[tuple[Block, ...], Any, Any]:
    name = type(model.original_model).__name__
    parts = [_block_parts(block) for block in model.blocks]
    for layer, part in enumerate(parts):
        missing = [word for word in ("attn", "mlp") if word not in part]
        if missing or "o" not in _parts(part["attn"]):
            raise InputError(
                f"{name}: layer {layer} has no {' and no '.join(missing) or 'attention output projection'}; "
                f"its parts are {sorted(part)}. Heads can be patched only in blocks made of attention and "
                "an MLP (state-space, convolution and latent-attention layers have no heads of that kind)."
            )
    first = parts[0]
    parallel = bool(getattr(model.cfg, "parallel_attn_mlp", False)) or any(
        cls.__name__ == "ParallelBlockBridge" for cls in type(model.blocks[0]).__mro__
    )
    behind = "ln1_post" in first or "ln2_post" in first
    before = "ln1" in first
    norms = "sandwich" if behind and before else "post" if behind else "pre"
    heads, d_head = int(model.cfg.n_heads), int(model.cfg.d_head)
    blocks = tuple(
        _bridge_block(block, part, parallel, heads, d_head) for block, part in zip(model.blocks, parts, strict=True)
    )
    return blocks, "parallel" if parallel else "sequential", norms


def _parts(component: Any) -> dict[str, Any]:
    return {name: child for name, child in component.named_children() if not name.startswith(("hook_", "_"))}


def _block_parts(block: Any) -> dict[str, Any]:
    """A block's parts, where TransformerLens 3.9 calls OLMo-2's norms after the branches `ln1` and `ln2`."""
    parts = _parts(block)
    if getattr(parts.get("ln2"), "name", None) == "post_feedforward_layernorm":
        parts["ln1_post"], parts["ln2_post"] = parts.pop("ln1"), parts.pop("ln2")
    return parts


def _bridge_block(block: Any, part: dict[str, Any], parallel: bool, heads: int, d_head: int) -> Block:
    scale = float(getattr(block, "residual_contribution_scale", 1.0))
    project = part["attn"].o.original_component
    mlp = part["mlp"]
    after_attention, after_mlp = part.get("ln1_post"), part.get("ln2_post")
    before_mlp = part.get("ln2", part.get("ln1") if parallel else None)

    def attn_out(z: Tensor) -> Tensor:
        out = project(rearrange(z, "... head d_head -> ... (head d_head)"))
        out = out if after_attention is None else after_attention(out)
        return out if scale == 1.0 else out * scale

    def mlp_out(resid: Tensor) -> Tensor:
        rows = resid.reshape(-1, 1, resid.shape[-1])
        out = mlp(rows if before_mlp is None else before_mlp(rows))
        out = out[0] if isinstance(out, tuple) else out
        out = out if after_mlp is None else after_mlp(out)
        return (out if scale == 1.0 else out * scale).reshape(resid.shape)

    def w_o() -> Tensor:
        parameter = next(p for p in project.parameters() if p.is_floating_point())
        unit = torch.eye(heads * d_head, device=parameter.device, dtype=parameter.dtype)
        rows = project(unit) - project(torch.zeros_like(unit[:1]))
        return rearrange(rows, "(head d_head) d_model -> head d_head d_model", head=heads)

    return Block(attn_out, mlp_out, w_o)


def _bridge_unembed(model: HookedModel) -> Callable[..., Tensor]:
    config = model.original_model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    soft_cap = getattr(config, "final_logit_softcapping", None)

    def unembed(resid: Float[Tensor, "*row d_model"], ids: Int[Tensor, "*read target"] | None = None) -> Tensor:
        head = model.unembed.original_component
        return project_to_logits(model.ln_final(resid), head.weight, head.bias, ids, scale, soft_cap)

    return unembed


# HookedTransformer: the parts are its own modules, with W_O kept per head.


def _hooked_blocks(model: HookedModel) -> tuple[tuple[Block, ...], Any, Any]:
    parallel = bool(getattr(model.cfg, "parallel_attn_mlp", False))
    behind = bool(getattr(model.cfg, "use_normalization_before_and_after", False))
    if getattr(model.cfg, "attn_only", False):
        raise InputError(
            f"{_name(model, 'hooked')} is attention-only; path patching recomputes MLPs and needs a model "
            "that has them."
        )
    blocks = tuple(_hooked_block(block, behind) for block in model.blocks)
    return blocks, "parallel" if parallel else "sequential", "sandwich" if behind else "pre"


def _hooked_block(block: Any, behind: bool) -> Block:
    def attn_out(z: Tensor) -> Tensor:
        # Not einops.einsum, which sums head and d_head in the other order and so changes the last bits.
        out = torch.einsum("...hd,hdm->...m", z, block.attn.W_O) + block.attn.b_O
        return block.ln1_post(out) if behind else out

    def mlp_out(resid: Tensor) -> Tensor:
        out = block.mlp(block.ln2(resid.reshape(-1, 1, resid.shape[-1])))
        return (block.ln2_post(out) if behind else out).reshape(resid.shape)

    return Block(attn_out, mlp_out, lambda: block.attn.W_O)


def _hooked_unembed(model: HookedModel) -> Callable[..., Tensor]:
    soft_cap = getattr(model.cfg, "output_logits_soft_cap", None)
    soft_cap = soft_cap if soft_cap and soft_cap > 0 else None

    def unembed(resid: Float[Tensor, "*row d_model"], ids: Int[Tensor, "*read target"] | None = None) -> Tensor:
        weight, bias = model.unembed.W_U.T, model.unembed.b_U
        return project_to_logits(model.ln_final(resid), weight, bias, ids, 1.0, soft_cap)

    return unembed


def project_to_logits(
    normed: Float[Tensor, "*row d_model"],
    weight: Float[Tensor, "d_vocab d_model"],
    bias: Float[Tensor, " d_vocab"] | None,
    ids: Int[Tensor, "*read target"] | None,
    scale: float,
    soft_cap: float | None,
) -> Tensor:
    """Logits of the asked ids (or of the whole vocabulary) from the normed stream, in float32 at least."""
    wide = torch.promote_types(normed.dtype, torch.float32)
    if ids is None:
        logits = torch.nn.functional.linear(normed.to(weight.dtype), weight, bias).to(wide)
    else:
        logits = einsum(normed.to(wide), weight[ids].to(wide), "... d_model, ... target d_model -> ... target")
        logits = logits if bias is None else logits + bias[ids].to(wide)
    logits = logits if scale == 1.0 else logits * scale
    return logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
