"""Latent attention (DeepSeek-V2 and V3, GLM-4-MoE-Lite, Youtu): its hook points in the layout of all other models.

Keys and values of all heads are computed from one low-rank vector per token (DeepSeek-AI, arXiv 2405.04434, section
2.1), so every query head has a key and a value of its own, and there are no KV groups. Queries and keys are
`qk_nope_head_dim + qk_rope_head_dim` wide, values and z `v_head_dim`. TransformerLens shows q, k and v as
`[batch, head, pos, width]`, and cuts z into pieces of hidden_size / n_heads, which are no heads.
"""

from typing import Any

from einops import rearrange
from torch import Tensor

from workbench.protocol import HookedModel


def show_heads(model: HookedModel) -> None:
    """Let latent attention's hook points show `[batch, pos, head, width]`, with one head's z in each row of z."""
    for block in getattr(model, "blocks", ()):
        attention: Any = getattr(block, "attn", None)
        if not any(cls.__name__ == "MLAAttentionBridge" for cls in type(attention).__mro__):
            continue
        width = int(attention.original_component.v_head_dim)
        for name in ("hook_q", "hook_k", "hook_v"):
            point = getattr(attention, name)
            point.hook_conversion, point.pos_dim = _swapped(), 1
        attention.o.hook_in.hook_conversion = _cut(width)
        model.cfg.d_head, model.cfg.n_key_value_heads = width, model.cfg.n_heads


def _swapped() -> Any:
    """Heads and positions change places."""
    return _conversion(
        lambda shown: rearrange(shown, "batch head pos width -> batch pos head width"),
        lambda given: rearrange(given, "batch pos head width -> batch head pos width"),
    )


def _cut(width: int) -> Any:
    """The heads side by side, cut into rows of one head each."""
    return _conversion(
        lambda z: rearrange(z, "batch pos (head width) -> batch pos head width", width=width),
        lambda z: rearrange(z, "batch pos head width -> batch pos (head width)"),
    )


def _conversion(there: Any, back: Any) -> Any:
    """A function of an activation and its inverse, as TransformerLens's hook points take them."""
    from transformer_lens.conversion_utils.conversion_steps.base_tensor_conversion import BaseTensorConversion

    class Conversion(BaseTensorConversion):
        def handle_conversion(self, input_value: Tensor, *_: Any) -> Tensor:
            return there(input_value)

        def revert(self, input_value: Tensor, *_: Any) -> Tensor:
            return back(input_value)

    return Conversion()
