"""What a bridge adds to a Hugging Face model is not trained."""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from workbench.models.original import added_parameters, thaw

SIZES = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_a_bias_that_the_architecture_lacks_is_left_frozen():
    hf = LlamaForCausalLM(LlamaConfig(**SIZES))
    thaw(hf)
    assert all(p.requires_grad for p in hf.parameters()) and not added_parameters(hf)
    hf.lm_head.bias = nn.Parameter(torch.zeros(11))
    thaw(hf)
    assert [name for name, p in hf.named_parameters() if not p.requires_grad] == ["lm_head.bias"]


def test_a_bias_of_the_architecture_is_trained():
    hf = PhiForCausalLM(PhiConfig(**SIZES))
    thaw(hf)
    assert hf.lm_head.bias.requires_grad and not added_parameters(hf)
