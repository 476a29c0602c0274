"""What a bridge adds to a Hugging Face model is not trained."""

import copy

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from tests.zoo import specimen
from workbench.models.load import load
from workbench.models.original import added_parameters, thaw, unwrapped

TOKENS = torch.tensor([[5, 9, 11, 30]])

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


def test_parts_that_a_model_was_made_without_are_none_of_its_own():
    """TransformerLens gives a Gemma-4 for text an empty component in the place of its vision tower."""
    model = load(specimen("Gemma4ForConditionalGeneration"))
    with unwrapped(model) as hf:
        assert hf.model.vision_tower is None
        copied = copy.deepcopy(hf)
    assert model.original_model.model.vision_tower is not None
    assert torch.equal(load(copied)(TOKENS), model(TOKENS))
