"""A tiny random model of every causal language model that transformers and TransformerLens's bridge both know."""

import dataclasses
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.tiny import randomise

RECENT = not transformers.__version__.startswith("5.9.")
"""Whether transformers is newer than its lowest version, whose code of the newest architectures is another."""
SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "vocab_size_per_layer_input": 97,
    "hidden_size": 32,
    "hidden_size_per_layer_input": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 6,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 12,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_n_heads": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mamba_d_head": 8,
    "mamba_d_ssm": 64,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 8,
    "ssm_state_size": 8,
    "state_size": 8,
    "chunk_size": 8,
    "n_groups": 2,
    "query_pre_attn_scalar": 16,
}
"""Values for the fields that a configuration has."""

HYBRID = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
LATENT = {"num_key_value_heads": 4, "head_dim": 8}
OWN: dict[str, dict[str, Any]] = {
    "BambaForCausalLM": {"attn_layer_indices": [1, 3]},
    "BertLMHeadModel": {"is_decoder": True},
    "DeepseekV4ForCausalLM": {
        "o_groups": 2,
        "o_lora_rank": 8,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_topk": 16,
    },
    "GPTBigCodeForCausalLM": {"n_inner": 48},
    "GPTNeoForCausalLM": {
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 6,
    },
    "Glm4MoeForCausalLM": {"first_k_dense_replace": 1},
    "GlmMoeDsaForCausalLM": LATENT | {"index_topk": 64, "index_head_dim": 16, "index_n_heads": 2},
    "Glm4MoeLiteForCausalLM": LATENT,
    "DeepseekV3ForCausalLM": LATENT | {"first_k_dense_replace": 1},
    "DeepseekV2ForCausalLM": LATENT | {"first_k_dense_replace": 1},
    "CodeGenForCausalLM": {"rotary_dim": 4},
    "GPTJForCausalLM": {"rotary_dim": 4},
    "FalconH1ForCausalLM": {"lm_head_multiplier": 1.5, "ssm_out_multiplier": 0.8, "attention_out_multiplier": 1.2},
    "Gemma3ForConditionalGeneration": {
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
        },
        "mm_tokens_per_image": 4,
    },
    "Gemma4ForCausalLM": {"layer_types": ["sliding_attention", "full_attention"] * 2, "global_head_dim": 24},
    "GraniteForCausalLM": {"residual_multiplier": 0.3, "logits_scaling": 2.0, "embedding_multiplier": 3.0},
    "Gemma2ForCausalLM": {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0},
    "GraniteMoeHybridForCausalLM": {
        "residual_multiplier": 0.3,
        "position_embedding_type": "rope",
        "layer_types": ["mamba", "attention", "mamba", "attention"],
    },
    "HrmTextForCausalLM": {"prefix_lm": False},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "JetMoeForCausalLM": {"kv_channels": 16},
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "block_multiple_of": 16},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_dense_layers": 1},
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 8},
    "NemotronHForCausalLM": {"layers_block_type": ["mamba", "attention", "moe", "mamba"], "use_mamba_kernels": False},
    "OlmoHybridForCausalLM": {"layer_types": HYBRID},
    "Qwen3NextForCausalLM": {"layer_types": HYBRID},
    "Qwen3_5ForCausalLM": {"layer_types": HYBRID},
    "Qwen3_5MoeForCausalLM": {"layer_types": HYBRID},
    "RecurrentGemmaForCausalLM": {"attention_window_size": 6, "num_hidden_layers": 6},
    # Transformers sets the embedding of the padding token to zero when it loads a Youtu.
    "YoutuForCausalLM": LATENT | {"pad_token_id": None},
    "Zamba2ForCausalLM": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "n_mamba_heads": 8,
        "num_mem_blocks": 1,
        "adapter_rank": 4,
        "use_mamba_kernels": False,
    },
}
"""What single architectures need beside it."""


def known() -> list[str]:
    """The classes that transformers maps to causal language models and TransformerLens has an adapter for."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    return sorted({name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() if name in SUPPORTED_ARCHITECTURES})


def configuration(name: str, **more: Any) -> Any:
    """A tiny configuration of an architecture."""
    cls = getattr(transformers, name).config_class
    own = OWN.get(name, {}) | more
    if "text_config" in cls.sub_configs:
        return cls(text_config=_small(cls.sub_configs["text_config"]), **own)
    return cls(**_small(cls) | own)


def _small(cls: Any) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(cls)} | set(cls.attribute_map)
    return {key: value for key, value in SMALL.items() if key in fields}


def specimen(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, **more: Any) -> Any:
    """A tiny random Hugging Face model of an architecture."""
    torch.manual_seed(seed)
    return randomise(getattr(transformers, name)(configuration(name, **more)), dtype)
