"""Attention in chunks against the materialised pattern, on every architecture, with and without interventions."""

from importlib.metadata import version

import pytest
import torch

from tests.tiny import TEN, bridge, sequences, tiny
from tests.zoo import specimen
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.attention import observe, streams
from workbench.models.forward import hooked, pad, run
from workbench.models.load import load

MORE = ["gemma3"]


class Kept:
    """Everything that `observe` tells, put together."""

    def __init__(self, model, tokens, **options):
        shape = anatomy(model)
        n = tokens.shape[1]
        size = (shape.n_layers, tokens.shape[0], shape.n_heads, n, n)
        self.pattern = torch.zeros(size, dtype=torch.float64)
        self.logits = torch.full(size, -torch.inf, dtype=torch.float64)
        self.visible = torch.zeros(shape.n_layers, n, n, dtype=torch.bool)
        self.values, self.z, self.resid, self.embed = {}, {}, {}, None
        self.chunks = 0
        observe(
            model,
            tokens,
            attention=self.attention,
            values=self.values.__setitem__,
            z=self.z.__setitem__,
            resid_post=self.resid.__setitem__,
            embed=lambda t: setattr(self, "embed", t),
            **options,
        )

    def attention(self, chunk):
        stop = chunk.start + chunk.pattern.shape[2]
        keys = chunk.pattern.shape[3]
        self.pattern[chunk.layer, :, :, chunk.start : stop, :keys] = chunk.pattern
        self.logits[chunk.layer, :, :, chunk.start : stop, :keys] = chunk.logits
        self.visible[chunk.layer, chunk.start : stop, :keys] = chunk.visible
        self.chunks += 1


def through_hooks(model, tokens, words):
    """The same activations by TransformerLens's own hooks."""
    kept = {}
    names = [f"blocks.{layer}.{word}" for layer in range(anatomy(model).n_layers) for word in words]
    with torch.no_grad(), hooked(model, {n: lambda t, n=n: kept.__setitem__(n, t.clone()) for n in names}):
        run(model, tokens)
    return kept


@pytest.mark.parametrize("family", [*TEN, *MORE])
@pytest.mark.parametrize("chunk", [1, 4, "auto"])
def test_chunks_give_the_materialised_attention(family, chunk):
    model = bridge(family)
    tokens, _ = pad(sequences((9, 6)), "cpu")
    assert streams(model)
    found = Kept(model, tokens, chunk=chunk)
    words = ("attn.hook_pattern", "attn.hook_v", "attn.hook_z", "hook_resid_post")
    wanted = through_hooks(model, tokens, words)
    assert found.chunks == (3 if chunk == "auto" else 3 * -(-9 // chunk))
    for layer in range(3):
        pattern, v, z, resid = (wanted[f"blocks.{layer}.{word}"] for word in words)
        torch.testing.assert_close(found.pattern[layer], pattern, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.values[layer], v, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.z[layer], z, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.resid[layer], resid, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", TEN)
def test_logits_and_mask_are_those_behind_the_pattern(family):
    model = bridge(family)
    found = Kept(model, torch.tensor(sequences((9,))), chunk=2)
    torch.testing.assert_close(found.logits.softmax(-1), found.pattern, rtol=0, atol=1e-12)
    assert torch.equal(found.visible[:, None, None].expand_as(found.pattern), found.pattern > 0)
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    near = causal & torch.ones(9, 9, dtype=torch.bool).triu(-5)
    windowed = {"mistral": (0, 1, 2), "gemma2": (0, 2)}.get(family, ())
    for layer in range(3):
        assert torch.equal(found.visible[layer], near if layer in windowed else causal)


def test_the_first_layer_s_input_is_shown():
    model, tokens = bridge("llama"), torch.tensor(sequences((5,)))
    wanted = through_hooks(model, tokens, ["hook_resid_pre"])["blocks.0.hook_resid_pre"]
    torch.testing.assert_close(Kept(model, tokens).embed, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["gptj", "bloom"])
def test_models_with_attention_of_their_own_are_read_through_hooks(family):
    model, tokens = bridge(family), torch.tensor(sequences((7,)))
    assert not streams(model)
    found = Kept(model, tokens)
    pattern = through_hooks(model, tokens, ["attn.hook_pattern"])
    for layer in range(3):
        torch.testing.assert_close(
            found.pattern[layer], pattern[f"blocks.{layer}.attn.hook_pattern"].double(), rtol=0, atol=1e-7
        )
    difference = found.logits - found.pattern.log()
    assert float((difference - difference[..., :1]).nan_to_num().abs().max()) < 1e-6


def test_an_intervention_is_seen():
    model, tokens = bridge("qwen2"), torch.tensor(sequences((7,)))
    before = Kept(model, tokens)
    with hooked(model, {"blocks.0.hook_mlp_out": torch.zeros_like}, times=1):
        assert not streams(model)
        during = Kept(model, tokens)
    after = Kept(model, tokens)
    torch.testing.assert_close(after.resid[2], before.resid[2], rtol=0, atol=0)
    assert float((during.resid[0] - before.resid[0]).norm()) > 0.1
    assert float((during.pattern[1] - before.pattern[1]).norm()) > 1e-3
    torch.testing.assert_close(during.pattern[0], before.pattern[0], rtol=0, atol=1e-6)


def test_learned_sinks_take_their_share():
    import transformers as hf

    config = hf.GptOssConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=32,
        num_local_experts=4,
        sliding_window=4,
    )
    torch.manual_seed(0)
    inner = hf.GptOssForCausalLM(config)
    for layer in inner.model.layers:
        layer.self_attn.sinks.data = torch.tensor([3.0, 0.0, -3.0, 30.0])
    model = load(inner.eval())
    assert streams(model)
    mass = Kept(model, torch.tensor(sequences((9,)))).pattern[0].sum(-1)
    assert float(mass[:, 3].max()) < 1e-6
    assert 0.9 < float(mass[:, 2].min()) < 1
    assert float(mass[:, 0].max()) < float(mass[:, 1].min()) < 1


def test_nothing_is_left_behind():
    model = bridge("gpt2")
    before = model.original_model.config._attn_implementation

    def fail(_chunk):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        observe(model, torch.tensor([[5, 6]]), attention=fail)
    assert model.original_model.config._attn_implementation == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny("gpt2").modules())
    wanted = through_hooks(model, torch.tensor([[5, 6]]), ["attn.hook_pattern"])
    assert wanted


def test_a_chunk_holds_at_least_one_query():
    with pytest.raises(InputError, match="chunk=0 queries at a time; give at least 1"):
        observe(bridge("llama"), torch.tensor([[5]]), chunk=0)


@pytest.mark.skipif(version("transformer-lens").startswith("3.9"), reason="cannot be read on TransformerLens 3.9")
@pytest.mark.parametrize("name", ["Qwen3NextForCausalLM", "Qwen3_5ForCausalLM"])
def test_a_head_that_is_gated_is_read_with_its_gate(name):
    """z is what the output projection gets; plain Hugging Face modules say what that is."""
    hf, model = (specimen(name, torch.float32) for _ in range(2))
    model, tokens, entering, z = load(model), torch.tensor(sequences((9,))), [], {}
    for layer in hf.model.layers:
        if hasattr(layer, "self_attn"):
            layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    with torch.no_grad():
        hf(input_ids=tokens)
        observe(model, tokens, z=z.__setitem__)
    assert list(z) == list(anatomy(model).head_layers) and len(entering) == len(z)
    for found, wanted in zip(z.values(), entering, strict=True):
        torch.testing.assert_close(found.flatten(2), wanted, rtol=0, atol=1e-6)
