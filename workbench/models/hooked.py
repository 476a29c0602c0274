"""A HookedTransformer of a Hugging Face model in memory, for TransformerLens 3.9.

`HookedTransformer.from_pretrained` knows models only by their official names. Here the configuration is read
from the model itself and its weights go through TransformerLens's own converters, neither folded nor centred.
Five families convert to the same logits: Llama, Qwen2, Mistral, GPT-2 and GPT-NeoX.
"""

from typing import Any

from workbench.errors import InputError
from workbench.protocol import HookedModel

FAMILIES = ("llama", "qwen2", "mistral", "gpt2", "gpt_neox")


def to_hooked(hf: Any) -> HookedModel:
    """Convert a Hugging Face model, whose weights are copied.

    Raises:
        InputError: TransformerLens 4 or later is installed, or the family is not one of the five.
    """
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
        from transformer_lens.pretrained import weight_conversions  # ty: ignore[import-not-found]
    except ImportError as error:
        raise InputError(
            "backend='hooked' needs HookedTransformer, which TransformerLens removed in 4.0. Install 3.9 in "
            "an environment of its own: pip install -c constraints-hooked.txt -e . Or use backend='bridge': "
            "the hook names and numbers are the same."
        ) from error
    family = hf.config.model_type
    if family not in FAMILIES:
        raise InputError(
            f"No HookedTransformer for the family {family!r}: only {', '.join(FAMILIES)} convert to the "
            "same logits. Use backend='bridge'."
        )
    cfg = HookedTransformerConfig(**_common(hf, family), **_specific(hf.config, family))
    convert = getattr(weight_conversions, f"convert_{'neox' if family == 'gpt_neox' else family}_weights")
    model = HookedTransformer(cfg, move_to_device=False)
    model.load_and_process_state_dict(
        convert(hf, cfg), fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    parameter = next(hf.parameters())
    return model.to(parameter.device, print_details=False).eval().requires_grad_(False)


def _common(hf: Any, family: str) -> dict[str, Any]:
    config = hf.config
    parameter = next(hf.parameters())
    heads = config.num_attention_heads
    return {
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "n_heads": heads,
        "d_head": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "d_vocab": hf.get_output_embeddings().weight.shape[0],
        "n_ctx": config.max_position_embeddings,
        "init_weights": False,
        "dtype": parameter.dtype,
        "device": str(parameter.device),
        "original_architecture": type(hf).__name__,
        "model_name": getattr(config, "_name_or_path", "") or family,
        "default_prepend_bos": False,
    }


def _specific(config: Any, family: str) -> dict[str, Any]:
    if family == "gpt2":
        return {
            "d_mlp": config.n_inner or 4 * config.n_embd,
            "act_fn": config.activation_function,
            "normalization_type": "LN",
            "eps": config.layer_norm_epsilon,
        }
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise InputError(
            f"Rotary scaling {rope['rope_type']!r} does not convert to a HookedTransformer exactly; use "
            "backend='bridge'."
        )
    rotary = {
        "d_mlp": config.intermediate_size,
        "act_fn": config.hidden_act,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": rope.get("rope_theta", 10000.0),
    }
    if family == "gpt_neox":
        return rotary | {
            "normalization_type": "LN",
            "eps": config.layer_norm_eps,
            "parallel_attn_mlp": config.use_parallel_residual,
            "rotary_dim": int(head * rope.get("partial_rotary_factor", 0.25)),
        }
    window = getattr(config, "sliding_window", None) if family == "mistral" else None
    local = {"use_local_attn": True, "window_size": window, "attn_types": ["local"] * config.num_hidden_layers}
    return (
        rotary
        | {
            "rotary_dim": head,
            "n_key_value_heads": config.num_key_value_heads,
            "normalization_type": "RMS",
            "eps": config.rms_norm_eps,
            "gated_mlp": True,
            "final_rms": True,
        }
        | (local if window else {})
    )
