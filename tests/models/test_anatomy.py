"""The description of a model against its configuration, and its parts against the model itself."""

import pytest
import torch

from tests.tiny import TEN, bridge, tiny
from tests.zoo import specimen
from workbench.errors import InputError
from workbench.models.anatomy import anatomy, kind_of, require_heads
from workbench.models.blocks import project_to_logits
from workbench.models.load import load

PARALLEL = {"gpt_neox", "gptj", "cohere"}
NORMS = {"gemma2": "sandwich", "gemma3": "sandwich", "olmo2": "post"}
FAMILIES = [*TEN, "gptj", "cohere", "gemma3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_shape_is_that_of_the_configuration(family):
    parts, config = anatomy(bridge(family)), tiny(family).config
    heads = config.num_attention_heads
    assert (parts.n_layers, parts.n_heads, parts.d_model) == (3, heads, config.hidden_size)
    assert parts.n_kv_heads == (getattr(config, "num_key_value_heads", None) or heads)
    assert parts.group_size * parts.n_kv_heads == heads
    assert parts.d_head == (getattr(config, "head_dim", None) or config.hidden_size // heads)
    assert parts.d_vocab == 97 and parts.dtype == "float64" and parts.device == "cpu"
    assert parts.layout == ("parallel" if family in PARALLEL else "sequential")
    assert parts.norms == NORMS.get(family, "pre")
    assert parts.kind == "bridge" and len(parts.blocks) == 3
    assert parts.architecture == type(tiny(family)).__name__ == parts.name


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_give_what_the_hooks_saw(family):
    model, seen = bridge(family), {}
    parts = anatomy(model)
    words = {"attn.hook_z", "hook_attn_out", "hook_mlp_out", "hook_resid_pre", "hook_resid_post"}

    def keep(name):
        return f"blocks.1.{name}", lambda t, hook: seen.__setitem__(name, t.clone())

    tokens = torch.tensor([[5, 9, 11, 30, 2]])
    with torch.no_grad(), model.hooks(fwd_hooks=[keep(name) for name in words]):
        model(tokens)
    before = seen["hook_resid_pre"]
    mlp_input = before if parts.layout == "parallel" else before + seen["hook_attn_out"]
    block = parts.blocks[1]
    torch.testing.assert_close(block.attn_out(seen["attn.hook_z"]), seen["hook_attn_out"], rtol=0, atol=1e-12)
    torch.testing.assert_close(block.mlp_out(mlp_input), seen["hook_mlp_out"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_some_logits_are_those_of_the_whole_vocabulary(family):
    model = bridge(family)
    parts = anatomy(model)
    tokens = torch.tensor([[5, 9, 11, 30]])
    seen = {}
    with torch.no_grad():
        hook = ("blocks.2.hook_resid_post", lambda t, hook: seen.update(t=t.clone()))
        with model.hooks(fwd_hooks=[hook]):
            wanted = model(tokens)
        everything = parts.unembed(seen["t"])
        ids = torch.tensor([[4, 60], [7, 7], [96, 0], [1, 2]])
        some = parts.unembed(seen["t"][0], ids)
    torch.testing.assert_close(everything, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(some, wanted[0].gather(-1, ids), rtol=0, atol=1e-12)


def test_logits_follow_their_formula():
    normed = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 0.0], [0.5, -1.0], [2.0, 2.0]], dtype=torch.float64)
    bias = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    plain = torch.tensor([[1.1, -1.3, 6.3]], dtype=torch.float64)
    torch.testing.assert_close(project_to_logits(normed, weight, bias, None, 1.0, None), plain)
    capped = 4.0 * torch.tanh(0.5 * plain / 4.0)
    torch.testing.assert_close(project_to_logits(normed, weight, bias, None, 0.5, 4.0), capped)
    ids = torch.tensor([[2, 0]])
    torch.testing.assert_close(project_to_logits(normed, weight, bias, ids, 0.5, 4.0), capped[:, [2, 0]])
    half = project_to_logits(normed.bfloat16(), weight.bfloat16(), None, ids, 1.0, None)
    assert half.dtype == torch.float32


def test_parts_do_not_disturb_hooks_in_a_later_run():
    model, fired = bridge("llama"), []
    parts = anatomy(model)
    with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda t, hook: fired.append(1))]):
        model(torch.tensor([[5, 9]]))
    parts.blocks[1].mlp_out(torch.zeros(3, 32, dtype=torch.float64))
    assert fired == [1]


def test_models_are_described_once_loaded():
    with pytest.raises(InputError, match=r"A LlamaForCausalLM is not a TransformerLens .*workbench\.load"):
        kind_of(tiny("llama"))


@pytest.mark.parametrize(
    ("name", "mixers", "head_layers", "whole_mixers"),
    [
        ("Lfm2ForCausalLM", [("conv",), ("attn",)] * 2, (1, 3), (0, 2)),
        ("FalconH1ForCausalLM", [("attn", "mamba")] * 4, (0, 1, 2, 3), (0, 1, 2, 3)),
        ("NemotronHForCausalLM", [("mixer",), ("mixer",), (), ("mixer",)], (), (0, 1, 3)),
    ],
)
def test_layers_without_heads_are_named(name, mixers, head_layers, whole_mixers):
    parts = anatomy(load(specimen(name)))
    assert parts.mixers == tuple(mixers) and parts.head_layers == head_layers and parts.whole_mixers == whole_mixers


def test_a_model_without_heads_is_refused_where_heads_are_needed():
    model = load(tiny("mamba"))
    with pytest.raises(InputError, match="no attention heads that can be reached: its layers hold mixer"):
        require_heads(model)


def test_layers_that_are_wrapped_as_a_whole_are_refused():
    with pytest.raises(InputError, match="Zamba2ForCausalLM cannot be looked into"):
        load(specimen("Zamba2ForCausalLM"))


@pytest.mark.parametrize("family", TEN)
def test_each_head_writes_through_its_slice_of_the_projection(family):
    model = bridge(family)
    parts = anatomy(model)
    for block in parts.blocks:
        weight = block.w_o()
        assert weight.shape == (parts.n_heads, parts.d_head, parts.d_model)
        z = torch.randn(2, parts.n_heads, parts.d_head, dtype=torch.float64)
        if parts.norms == "pre":
            moved = z.clone()
            moved[:, 1] += 1.0
            wanted = block.attn_out(moved) - block.attn_out(z)
            scale = float(getattr(model.original_model.config, "residual_multiplier", 1.0))
            found = scale * weight[1].sum(0).expand_as(wanted)
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
