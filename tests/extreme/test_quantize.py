"""Rounding against whole-number arithmetic, against Hugging Face models rounded by hand, and against torchao."""

import warnings

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from tests.tiny import bridge, sequences, tiny
from workbench.errors import InputError
from workbench.extreme.quantize import (
    SCHEMES,
    Ranges,
    Scheme,
    absmax_scale,
    linear_layers,
    quantized,
    rounded,
    rounded_share,
    rounded_weight,
)
from workbench.models.capture import capture
from workbench.models.load import load

ROWS = torch.tensor(sequences([9, 9]))


def by_hand(values, bits, pieces):
    """Numbers rounded one piece at a time, in Python's arithmetic."""
    top = 2 ** (bits - 1) - 1
    out = np.array(values, dtype=float)
    for piece in pieces:
        scale = np.abs(out[piece]).max() / top
        out[piece] = [round(v / scale) * scale if scale else 0.0 for v in out[piece]]
    return out


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_equals_python_arithmetic_per_row(bits):
    x = torch.randn(3, 10, dtype=torch.float64)
    x[1] = 0
    found = rounded(x, absmax_scale(x, bits), bits)
    for row, wanted in zip(found, x, strict=True):
        np.testing.assert_allclose(row, by_hand(wanted.numpy(), bits, [slice(None)]), atol=1e-12)
    assert all(len(row.unique()) <= 2**bits - 1 for row in found)


@pytest.mark.parametrize("group", [None, 4, 3, 99])
def test_a_weight_has_one_scale_per_channel_or_group(group):
    weight = torch.randn(5, 10, dtype=torch.float64)
    size = group or 10
    pieces = [slice(i, i + size) for i in range(0, 10, size)]
    found = rounded_weight(weight, 4, group)
    for row, wanted in zip(found, weight, strict=True):
        np.testing.assert_allclose(row, by_hand(wanted.numpy(), 4, pieces), atol=1e-12)


def test_the_simulated_product_is_that_of_whole_numbers():
    x, weight = torch.randn(6, 16, dtype=torch.float64), torch.randn(7, 16, dtype=torch.float64)
    x_scale, w_scale = absmax_scale(x, 8), absmax_scale(weight, 8)
    whole = (x / x_scale).round().to(torch.int32) @ (weight / w_scale).round().to(torch.int32).T
    simulated = rounded(x, x_scale, 8) @ rounded_weight(weight, 8).T
    torch.testing.assert_close(simulated, whole * x_scale * w_scale.T, rtol=1e-10, atol=1e-12)


def test_one_massive_token_ruins_one_scale_for_all_and_only_itself_with_a_scale_per_token():
    x = torch.randn(32, 64)
    x[0, 5] = 2000.0
    by_token = rounded(x, absmax_scale(x, 8), 8)
    by_tensor = rounded(x, x.abs().max() / 127, 8)
    others = x[1:].norm()
    assert (by_token - x)[1:].norm() / others < 0.02
    assert (by_tensor - x)[1:].norm() / others > 0.9


SEPARATE, JOINT = ("llama", "qwen3", "gemma2", "olmo2"), ("gpt2", "gpt_neox", "phi3")


def rounded_hugging_face(family, scheme):
    """Logits of the Hugging Face model with every layer's forward replaced by one that rounds."""
    hf, largest = tiny(family), {}
    layers = {
        name: layer
        for name, layer in hf.named_modules()
        if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not hf.get_output_embeddings()
    }
    handles = [
        layer.register_forward_pre_hook(lambda _layer, args, name=name: largest.update({name: args[0].abs()}))
        for name, layer in layers.items()
    ]
    hf(ROWS, use_cache=False)
    for handle in handles:
        handle.remove()

    def forward(layer, name):
        weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        low = torch.empty_like(weight)
        size = scheme.group or weight.shape[1]
        if scheme.weights == "tensor":
            whole = weight.detach().numpy().reshape(-1)
            low = torch.from_numpy(by_hand(whole, scheme.weight_bits, [slice(None)])).view_as(weight)
        for row in range(weight.shape[0]) if scheme.weights == "channel" else ():
            pieces = [slice(i, i + size) for i in range(0, weight.shape[1], size)]
            low[row] = torch.from_numpy(by_hand(weight[row].detach().numpy(), scheme.weight_bits, pieces))

        def run(x):
            top = 2 ** (scheme.activation_bits - 1) - 1
            reached = {"token": x.abs().amax(-1, keepdim=True), "tensor": largest[name].max()}
            scale = reached.get(scheme.activations, largest[name].amax((0, 1))) / top
            x = (x / scale).round().clamp(-top, top) * scale
            return torch.nn.functional.linear(x, low, layer.bias)

        return run

    for name, layer in layers.items():
        layer.forward = forward(layer, name)
    return hf(ROWS, use_cache=False).logits


@torch.no_grad()
@pytest.mark.parametrize("family", [*SEPARATE, *JOINT])
@pytest.mark.parametrize(
    "scheme",
    [Scheme(8, 8), Scheme(4, 8, "tensor", group=8), Scheme(8, 8, "channel", weights="tensor")],
    ids=lambda s: s.name,
)
def test_a_rounded_model_equals_the_hugging_face_model_rounded_by_hand(family, scheme):
    if family in JOINT and scheme.weights == "tensor":
        pytest.skip("queries, keys and values are three matrices here and one there")
    model = load(tiny(family))
    ranges = Ranges(model)
    plain = model(ROWS)
    with ranges.observing():
        model(ROWS)
    with quantized(model, scheme, ranges):
        found = model(ROWS)
    torch.testing.assert_close(found, rounded_hugging_face(family, scheme), rtol=1e-4, atol=1e-4)
    assert (found - plain).norm() > 1e-3 * plain.norm()
    assert torch.equal(model(ROWS), plain), "nothing remains"


def test_all_weight_matrices_of_the_blocks_are_rounded_and_the_unembedding_is_not():
    layers = linear_layers(bridge("llama"))
    assert len(layers) == 3 * 7 and "model.layers.0.self_attn.q_proj" in layers and "lm_head" not in layers
    assert rounded_share(bridge("llama")) == rounded_share(bridge("gpt2")) == 1
    assert rounded_share(bridge("mixtral")) < 0.5, "experts are kept in one tensor and not rounded"


def test_weights_come_back_after_an_error():
    model = load(tiny("llama"))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(KeyError), quantized(model, Scheme()):
        raise KeyError
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_more_bits_are_nearer():
    model = bridge("llama")
    ends = {"blocks.2.hook_resid_post": lambda t: t}
    plain = capture(model, ROWS.tolist(), ends)["blocks.2.hook_resid_post"]
    errors = []
    for bits in (3, 5, 8, 12, 16):
        with quantized(model, Scheme(bits, bits)):
            low = capture(model, ROWS.tolist(), ends)["blocks.2.hook_resid_post"]
        errors.append(float((low - plain).norm() / plain.norm()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3


def test_ranges_are_the_largest_inputs_and_their_stretch():
    model = bridge("llama")
    ranges = Ranges(model)
    with ranges.observing():
        model(ROWS)
        model(ROWS[:1])
    found = capture(model, ROWS.tolist(), {"blocks.1.mlp.out.hook_in": lambda t: t.abs().amax(-1)})
    tokens = found["blocks.1.mlp.out.hook_in"]
    name = "model.layers.1.mlp.down_proj"
    assert float(ranges.largest[name].max()) == pytest.approx(float(tokens.max()))
    assert set(ranges.stretch()) == set(linear_layers(model))
    median = torch.cat([tokens.flatten(), tokens[0]]).float().median()
    assert ranges.stretch()[name] == pytest.approx(float(tokens.max() / median), rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"weight_bits": 1}, "1 and 8 bits for weights and activations: give 2 to 16"),
        ({"activation_bits": 32}, "8 and 32 bits"),
        ({"activations": "row"}, "activations='row' is unknown"),
        ({"group": 0}, "group=0 inputs share a scale"),
        ({"weights": "row"}, "weights='row' is unknown"),
        ({"group": 8, "weights": "tensor"}, "group=8 inputs share a scale"),
    ],
)
def test_schemes_that_are_none_are_refused(wrong, match):
    with pytest.raises(InputError, match=match):
        Scheme(**wrong)


def test_one_scale_per_tensor_needs_ranges():
    with pytest.raises(InputError, match="was never observed"), quantized(bridge("llama"), SCHEMES[1]):
        bridge("llama")(ROWS)


def test_a_model_without_linear_layers_is_refused(untyped):
    class HookedTransformer(torch.nn.Module):
        pass

    with pytest.raises(InputError, match="has no linear layers whose inputs could be rounded"):
        linear_layers(HookedTransformer())


@pytest.mark.filterwarnings("ignore")
def test_torchao_rounds_to_the_same_numbers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    x = torch.randn(6, 64)
    for bits, block in ((8, (1, 64)), (8, (6, 64)), (4, (1, 32))):
        top = 2 ** (bits - 1) - 1
        scale, zero = primitives.choose_qparams_affine(
            x, primitives.MappingType.SYMMETRIC, block, torch.int8, -top, top, eps=1e-12
        )
        whole = primitives.quantize_affine(x, block, scale, zero, torch.int8, -top, top)
        wanted = primitives.dequantize_affine(whole, block, scale, zero, torch.int8, -top, top)
        ours = rounded(x, x.abs().max() / top, bits) if block[0] == 6 else rounded_weight(x, bits, block[1])
        torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)
