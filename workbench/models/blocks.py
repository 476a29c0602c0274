"""The parts of each layer, and how its branches and the logits are recomputed.

One half of this file knows `TransformerBridge`, whose parts are TransformerLens's components around the Hugging Face
modules, the other `HookedTransformer`, whose parts are its own modules.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.models.devices import brought, device_of, follows, present
from workbench.protocol import HookedModel

MIXERS = ("attn", "linear_attn", "mamba", "mixer", "conv", "ssm", "time_mix")
"""What TransformerLens calls the parts of a block that move information between tokens."""
OPAQUE_MIXERS = {"RecurrentGemmaDecoderLayer": ("temporal_block",)}
"""Modules that do so in blocks which TransformerLens wraps as a whole, by the block's Hugging Face class."""


@dataclass(frozen=True)
class Block:
    """What one layer is made of, and the two branches that it adds to the residual stream.

    The branches are functions of one token's vectors, on any device; they compute on that of the layer.
    """

    attn_out: Callable[[Tensor], Tensor]
    """z `[..., head, d_head]` to what attention adds to the stream `[..., d_model]`."""
    mlp_out: Callable[[Tensor], Tensor]
    """The stream in front of the MLP branch `[..., d_model]` to what the branch adds `[..., d_model]`."""
    w_o: Callable[[], Tensor]
    """The heads' slices of the output projection `[head, d_head, d_model]`, without its bias."""
    mixers: tuple[str, ...] = ("attn",)
    """The parts that move information between tokens, such as ("attn", "mamba"); none in a layer of MLPs only."""
    has_heads: bool = True
    """Whether attention's output projection can be reached, so that the output of each head is known."""


# TransformerBridge: the parts are TransformerLens's components around the Hugging Face modules.


def bridge_blocks(model: HookedModel) -> tuple[tuple[Block, ...], Any, Any]:
    """The layers of a bridge, their layout and where their norms stand.

    Raises:
        InputError: blocks in which no part is known that attends or mixes tokens otherwise.
    """
    name = type(model.original_model).__name__
    parts = [_block_parts(block) for block in getattr(model, "blocks", ())]
    mixers = [_mixers(block, part) for block, part in zip(model.blocks, parts, strict=True)] if parts else []
    if not any(mixers) or None in mixers:
        raise InputError(
            f"{name} cannot be looked into: TransformerLens wraps its layers as a whole and shows no part of them that "
            "attends or mixes tokens otherwise. Use a model whose layers are attention, linear attention or a "
            "state-space mixer and an MLP; docs/architectures.md lists which work."
        )
    heads = int(model.cfg.n_heads)
    first = next((part for part in parts if "attn" in part), parts[0])
    parallel = bool(getattr(model.cfg, "parallel_attn_mlp", False)) or any(
        cls.__name__ == "ParallelBlockBridge" for cls in type(model.blocks[0]).__mro__
    )
    behind = "ln1_post" in first or "ln2_post" in first
    before = "ln1" in first
    norms = "sandwich" if behind and before else "post" if behind else "pre"
    blocks = tuple(
        _bridge_block(block, part, parallel, heads, own or ())
        for block, part, own in zip(model.blocks, parts, mixers, strict=True)
    )
    return blocks, "parallel" if parallel else "sequential", norms


def mixer_module(model: HookedModel, layer: int, name: str) -> Any:
    """The module of a mixer, whose output is what the branch adds to the stream, possibly first in a tuple."""
    block = model.blocks[layer]
    return getattr(block, name) if name in MIXERS else block.original_component.get_submodule(name)


def _parts(component: Any) -> dict[str, Any]:
    return {name: child for name, child in component.named_children() if not name.startswith(("hook_", "_"))}


def _block_parts(block: Any) -> dict[str, Any]:
    """A block's parts, where TransformerLens 3.9 calls OLMo-2's norms after the branches `ln1` and `ln2`."""
    parts = _parts(block)
    if getattr(parts.get("ln2"), "name", None) == "post_feedforward_layernorm":
        parts["ln1_post"], parts["ln2_post"] = parts.pop("ln1"), parts.pop("ln2")
    return parts


def _mixers(block: Any, part: dict[str, Any]) -> tuple[str, ...] | None:
    """The names of a block's mixers; None where TransformerLens does not show what is in the block."""
    inner = block.original_component
    if getattr(inner, "block_type", None) in ("mlp", "moe"):
        return ()
    return tuple(name for name in MIXERS if name in part) or OPAQUE_MIXERS.get(type(inner).__name__)


def _bridge_block(block: Any, part: dict[str, Any], parallel: bool, heads: int, mixers: tuple[str, ...]) -> Block:
    if "attn" not in part or "o" not in _parts(part["attn"]) or _norms_heads_together(part["attn"]):
        return _unknown_block(mixers)
    scale = float(getattr(block, "residual_contribution_scale", 1.0))
    project = part["attn"].o.original_component
    mlp = part.get("mlp")
    after_attention, after_mlp = part.get("ln1_post"), part.get("ln2_post")
    before_mlp = part.get("ln2", part.get("ln1") if parallel else None)

    def attn_out(z: Tensor) -> Tensor:
        out = project(rearrange(z, "... head d_head -> ... (head d_head)"))
        out = out if after_attention is None else after_attention(out)
        return out if scale == 1.0 else out * scale

    def mlp_out(resid: Tensor) -> Tensor:
        if mlp is None:
            raise InputError("Its layers have no MLP that TransformerLens shows.")
        rows = resid.reshape(-1, 1, resid.shape[-1])
        out = mlp(rows if before_mlp is None else before_mlp(rows))
        out = out[0] if isinstance(out, tuple) else out
        out = out if after_mlp is None else after_mlp(out)
        return (out if scale == 1.0 else out * scale).reshape(resid.shape)

    def w_o() -> Tensor:
        wide = (p for part in (project, block) for p in part.parameters() if p.is_floating_point() and p.itemsize > 1)
        width = getattr(project, "in_features", None) or project.weight.shape[0]
        unit = torch.eye(width, device=device_of(project), dtype=next(wide).dtype)
        rows = project.forward(unit) - project.forward(torch.zeros_like(unit[:1]))  # Hooks are for z.
        return rearrange(rows, "(head d_head) d_model -> head d_head d_model", head=heads)

    return Block(follows(attn_out, project), follows(mlp_out, mlp or block), w_o, mixers)


def _norms_heads_together(attention: Any) -> bool:
    """Whether the outputs of all heads pass a norm on their way to the output projection, as in BitNet.

    No head's output is then its own.
    """
    return hasattr(attention.original_component, "attn_sub_norm")


def _unknown_block(mixers: tuple[str, ...]) -> Block:
    """A layer without heads, which is only ever run as a whole."""

    def refuse(*_: Any) -> Tensor:
        raise InputError(f"A layer of {' and '.join(mixers) or 'MLPs only'} has no heads to be recomputed from.")

    return Block(refuse, refuse, refuse, mixers, has_heads=False)


def bridge_unembed(model: HookedModel) -> Callable[..., Tensor]:
    """Final norm, unembedding, logit scaling and soft cap of a bridge, as `Anatomy.unembed`."""
    hf = model.original_model
    config = hf.config.get_text_config() if hasattr(hf.config, "get_text_config") else hf.config
    factors = (getattr(config, name, None) or 1.0 for name in ("logit_scale", "lm_head_multiplier"))
    scale = math.prod(map(float, factors)) / float(getattr(config, "logits_scaling", None) or 1.0)
    soft_cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    between = getattr(model, "prediction_head", None)  # ModernBERT's layer between final norm and unembedding

    def unembed(resid: Float[Tensor, "*row d_model"], ids: Int[Tensor, "*read target"] | None = None) -> Tensor:
        head, normed = model.unembed.original_component, model.ln_final(brought(resid, model.ln_final))
        normed = normed if between is None else between(normed)
        with present(head):
            return project_to_logits(normed, head.weight, head.bias, ids, scale, soft_cap).to(resid.device)

    return unembed


# HookedTransformer: the parts are its own modules, with W_O kept per head.


def hooked_blocks(model: HookedModel) -> tuple[tuple[Block, ...], Any, Any]:
    """The layers of a HookedTransformer, their layout and where their norms stand."""
    parallel = bool(getattr(model.cfg, "parallel_attn_mlp", False))
    behind = bool(getattr(model.cfg, "use_normalization_before_and_after", False))
    if getattr(model.cfg, "attn_only", False):
        name = getattr(model, "workbench_name", None) or getattr(model.cfg, "model_name", None) or "HookedTransformer"
        raise InputError(f"{name} is attention-only; path patching recomputes MLPs and needs a model that has them.")
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

    return Block(follows(attn_out, block), follows(mlp_out, block), lambda: block.attn.W_O)


def hooked_unembed(model: HookedModel) -> Callable[..., Tensor]:
    """Final norm, unembedding and soft cap of a HookedTransformer, as `Anatomy.unembed`."""
    soft_cap = getattr(model.cfg, "output_logits_soft_cap", None)
    soft_cap = soft_cap if soft_cap and soft_cap > 0 else None

    def unembed(resid: Float[Tensor, "*row d_model"], ids: Int[Tensor, "*read target"] | None = None) -> Tensor:
        weight, bias = model.unembed.W_U.T, model.unembed.b_U
        normed = model.ln_final(resid.to(device_of(model.unembed)))
        return project_to_logits(normed, weight, bias, ids, 1.0, soft_cap).to(resid.device)

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
    normed = normed.to(weight.device)
    if ids is None:
        logits = torch.nn.functional.linear(normed.to(weight.dtype), weight, bias).to(wide)
    else:
        ids = ids.to(weight.device)
        logits = einsum(normed.to(wide), weight[ids].to(wide), "... d_model, ... target d_model -> ... target")
        logits = logits if bias is None else logits + bias[ids].to(wide)
    logits = logits if scale == 1.0 else logits * scale
    return logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
