"""Tiny random models of many architectures: the ground on which fast paths meet their slow twins."""

import functools
from importlib.metadata import version

import pytest
import torch
import transformers as hf

BASE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OLD = {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
NEOX = {key: value for key, value in BASE.items() if key != "num_key_value_heads"}
GEMMA = BASE | {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 16}

COHERE = pytest.param(
    "cohere",
    marks=pytest.mark.skipif(version("transformer-lens").startswith("3.9"), reason="3.9 misreads Cohere"),
)
"""For tests that ask the bridge."""

MAKERS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**BASE)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**BASE)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**BASE, head_dim=16)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**BASE, sliding_window=6)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**GEMMA, final_logit_softcapping=3.0, attn_logit_softcapping=5.0)
    ),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**BASE)),
    "granite": lambda: hf.GraniteForCausalLM(
        hf.GraniteConfig(
            **BASE,
            residual_multiplier=0.3,
            logits_scaling=2.0,
            embedding_multiplier=3.0,
            attention_multiplier=0.2,
        )
    ),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**BASE)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**OLD, n_positions=128)),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**NEOX)),
    "gptj": lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**OLD, n_positions=128, rotary_dim=4)),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**BASE, logit_scale=0.3)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**GEMMA)),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**BASE, num_local_experts=4)),
    "gpt_oss": lambda: hf.GptOssForCausalLM(hf.GptOssConfig(**BASE, head_dim=8, num_local_experts=4, sliding_window=6)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=3, n_head=4)),
    "mamba": lambda: hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=3, state_size=8)
    ),
}
TEN = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "olmo2", "granite", "phi3", "gpt2", "gpt_neox")


def tiny(family: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.nn.Module:
    """A random Hugging Face model."""
    torch.manual_seed(seed)
    return randomise(MAKERS[family](), dtype)


def randomise(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The model with weights in which all its parts matter: no zero bias, no norm weight of one."""
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = parameter.data + 0.1 * noise if parameter.dim() == 1 else 0.15 * noise
    model.set_attn_implementation("eager")
    return model.to(dtype).eval()


@functools.cache
def bridge(family: str, dtype: torch.dtype = torch.float64):
    """A loaded tiny model; shared between tests, so leave it as it was."""
    from workbench.models.load import load

    return load(tiny(family, dtype))


def sequences(lengths, seed: int = 1, prefix: int = 0) -> list[list[int]]:
    """Random token sequences, with their first `prefix` tokens in common."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(3, 97, (prefix,), generator=torch.Generator().manual_seed(99)).tolist()
    return [start + torch.randint(3, 97, (n - prefix,), generator=generator).tolist() for n in lengths]
