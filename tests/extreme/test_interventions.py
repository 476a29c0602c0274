"""Every intervention against a slow twin: the Hugging Face model itself with the edit made in its own modules."""

import functools
from importlib.metadata import version

import numpy as np
import pytest
import torch
from transformers import AttentionInterface

from tests.tiny import TEN, bridge, sequences, tiny
from workbench.errors import InputError
from workbench.extreme.editing import editing
from workbench.extreme.interventions import (
    clamp_values,
    force_attention,
    mask_key,
    replace_first,
    sink_bias,
    sliding_window,
    swap_token,
    without_first,
    zero_neurons,
    zero_outputs,
)
from workbench.models.anatomy import anatomy
from workbench.models.capture import capture
from workbench.models.load import load

HAS_HOOKED = version("transformer-lens").startswith("3.9")
FAMILIES = (*TEN, "gemma3") if HAS_HOOKED else (*TEN, "gemma3", "cohere")
EVERY_KIND = [(family, "bridge") for family in FAMILIES]
if HAS_HOOKED:
    EVERY_KIND += [(family, "hooked") for family in ("llama", "qwen2", "mistral", "gpt2", "gpt_neox")]
pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
TOKENS = torch.tensor(sequences([10, 10]))
HEADS = [(0, 1), (1, 3), (2, 0)]


@functools.cache
def model_of(family, backend):
    return bridge(family) if backend == "bridge" else load(tiny(family), backend="hooked")


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def run_twin(family, tokens=TOKENS, logit_edit=None, value_edit=None, row_edit=None):
    """Logits of the Hugging Face model, with edits of attention logits, values and rows made in float64."""
    hf = tiny(family)

    def attend(module, query, key, value, _mask, scaling=None, softcap=None, sliding_window=None, **_):
        layer, length = module.layer_idx, query.shape[2]
        value = value if value_edit is None else value_edit(layer, value.clone())
        group = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group, 1).double() for x in (key, value))
        logits = query.double() @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        distance = torch.arange(length)[:, None] - torch.arange(length)
        logits[..., (distance < 0) | (distance >= (sliding_window or length))] = -torch.inf
        logits = logits if logit_edit is None else logit_edit(layer, logits)
        rows = logits.softmax(-1)
        rows = rows if row_edit is None else row_edit(layer, rows)
        return (rows @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("twin", attend)
    hf.set_attn_implementation("twin")
    with torch.no_grad():
        return hf(tokens, use_cache=False).logits


def intervened(model, intervention, tokens=TOKENS):
    with intervention, torch.no_grad():
        return model(tokens)


@pytest.mark.parametrize(("family", "backend"), EVERY_KIND)
def test_the_twin_is_the_model(family, backend):
    with torch.no_grad():
        close(model_of(family, backend)(TOKENS), run_twin(family))


@pytest.mark.parametrize(("family", "backend"), EVERY_KIND)
def test_forced_attention_equals_rows_set_by_hand(family, backend):
    def force(layer, rows):
        for at, head in HEADS:
            if at == layer:
                rows[:, head, 2:] = 0
                rows[:, head, 2:, 2] = 1
        return rows

    model = model_of(family, backend)
    close(intervened(model, force_attention(model, HEADS, key=2)), run_twin(family, row_edit=force))


@pytest.mark.parametrize(("family", "backend"), EVERY_KIND)
def test_a_sink_bias_equals_one_added_to_the_logits(family, backend):
    bias = np.random.default_rng(0).normal(size=(3, 4)) * 3

    def add(layer, logits):
        logits[..., 1] += torch.tensor(bias[layer])[:, None]
        return logits

    model = model_of(family, backend)
    close(intervened(model, sink_bias(model, bias, key=1)), run_twin(family, logit_edit=add))


@pytest.mark.parametrize(("family", "backend"), EVERY_KIND)
def test_a_masked_key_equals_minus_infinity_in_the_logits(family, backend):
    def mask(layer, logits):
        for at, head in HEADS:
            if at == layer:
                for row, key in enumerate((0, 3)):
                    logits[row, head, max(key, 1) :, key] = -torch.inf
        return logits

    model = model_of(family, backend)
    close(intervened(model, mask_key(model, [0, 3], HEADS)), run_twin(family, logit_edit=mask))


@pytest.mark.parametrize(("family", "backend"), EVERY_KIND)
def test_a_sliding_window_that_keeps_the_first_token_equals_a_mask_by_hand(family, backend):
    distance = torch.arange(10)[:, None] - torch.arange(10)
    hidden = (distance >= 3) & (torch.arange(10) >= 1)

    def mask(layer, logits):
        logits[..., hidden] = -torch.inf
        return logits

    model = model_of(family, backend)
    close(intervened(model, sliding_window(model, 3, keep_first=1)), run_twin(family, logit_edit=mask))


@pytest.mark.parametrize(("family", "backend"), EVERY_KIND)
def test_clamped_values_equal_values_scaled_by_hand(family, backend):
    n_kv_heads = anatomy(model_of(family, backend)).n_kv_heads
    chosen = [(0, 0), (1, n_kv_heads - 1)]

    def scale(layer, value):
        for at, head in chosen:
            if at == layer:
                value[:, head, 2] *= 0.25
        return value

    model = model_of(family, backend)
    found = intervened(model, clamp_values(model, key=2, scale=0.25, kv_heads=chosen))
    close(found, run_twin(family, value_edit=scale))


PARTS = {"gpt2": ("attn", "mlp"), "gpt_neox": ("attention", "mlp")}


@pytest.mark.parametrize(("family", "backend"), EVERY_KIND)
def test_zeroed_outputs_equal_modules_that_return_zeros(family, backend):
    hf = tiny(family)
    attention, mlp = PARTS.get(family, ("self_attn", "mlp"))
    layers = hf.base_model.h if family == "gpt2" else hf.base_model.layers

    def zeros(_module, _args, out):
        return (torch.zeros_like(out[0]), *out[1:]) if isinstance(out, tuple) else torch.zeros_like(out)

    getattr(layers[1], attention).register_forward_hook(zeros)
    for layer in (0, 2):
        getattr(layers[layer], mlp).register_forward_hook(zeros)
    with torch.no_grad():
        wanted = hf(TOKENS, use_cache=False).logits
    model = model_of(family, backend)
    close(intervened(model, zero_outputs(model, attention=1, mlp=[0, 2])), wanted)


@pytest.mark.parametrize(("family", "down"), [("llama", "mlp.down_proj"), ("gpt2", "mlp.c_proj")])
def test_zeroed_neurons_equal_a_layer_that_gets_zeros_at_the_positions(family, down):
    hf = tiny(family)

    def silence(_module, args):
        keep = torch.ones(args[0].shape[1], 1)
        keep[[1, 3]] = 0
        return (args[0] * keep,)

    layers = hf.base_model.h if family == "gpt2" else hf.base_model.layers
    layers[1].get_submodule(down).register_forward_pre_hook(silence)
    with torch.no_grad():
        wanted = hf(TOKENS, use_cache=False).logits
    model = bridge(family)
    close(intervened(model, zero_neurons(model, 1, [1, 3])), wanted)
    with pytest.raises(InputError, match="position"):
        intervened(model, zero_neurons(model, 1, 99))


@pytest.mark.parametrize(("family", "backend"), EVERY_KIND)
def test_a_swapped_token_equals_running_the_other_text(family, backend):
    model = model_of(family, backend)
    other = torch.tensor(replace_first(TOKENS.tolist(), 42))
    with torch.no_grad():
        close(intervened(model, swap_token(model, 42)), model(other))


def test_a_text_of_two_tokens_has_one_without_its_first():
    assert without_first([[5, 6], [7, 8, 9]]) == [[6], [8, 9]]


@pytest.mark.parametrize("family", ["llama", "qwen2", "olmo2", "phi3", "gpt_neox"])
def test_with_rotary_positions_a_masked_first_key_equals_a_text_without_it(family):
    model = bridge(family)
    found = intervened(model, mask_key(model))[:, 1:]
    with torch.no_grad():
        close(found, model(torch.tensor(without_first(TOKENS.tolist()))))


def test_an_architecture_that_ignores_its_pattern_is_refused():
    with pytest.raises(InputError, match="GPTJForCausalLM ignores what is written at hook_pattern"):
        force_attention(bridge("gptj"), [(1, 2)])


def test_nested_interventions_act_together_in_either_order():
    model = bridge("llama")
    with clamp_values(model, key=2), mask_key(model), force_attention(model, [(1, 0)], key=2):
        one = model(TOKENS)
    with mask_key(model), force_attention(model, [(1, 0)], key=2), clamp_values(model, key=2):
        other = model(TOKENS)
    close(one, other)
    with mask_key(model), force_attention(model, [(1, 0)], key=2):
        assert not torch.allclose(model(TOKENS), one)


@pytest.mark.parametrize(("family", "backend"), [kind for kind in EVERY_KIND if kind[0] in ("llama", "gpt2")])
def test_nothing_remains_after_an_exception(family, backend):
    model = model_of(family, backend)
    before = model(TOKENS)
    with pytest.raises(RuntimeError, match="stop"), zero_outputs(model, mlp=[0]), mask_key(model), swap_token(model, 9):
        model(TOKENS)
        raise RuntimeError("stop")
    assert torch.equal(model(TOKENS), before)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_context_serves_several_runs_of_any_shape():
    model = bridge("llama")
    with mask_key(model):
        short, long = model(TOKENS[:, :4]), model(TOKENS)
    close(short, long[:, :4])


def test_a_query_that_sees_only_the_masked_key_keeps_its_attention():
    model = bridge("llama")
    name = "blocks.0.attn.hook_pattern"
    with mask_key(model):
        pattern = capture(model, TOKENS.tolist(), {name: lambda p: p})[name]
    assert (pattern[:, :, 0, 0] == 1).all() and (pattern[:, :, 1:, 0] == 0).all()
    torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))


def test_a_huge_bias_gives_the_whole_weight_and_no_nan():
    model = bridge("llama")
    name = "blocks.2.attn.hook_pattern"
    with sink_bias(model, 1e4):
        pattern = capture(model, TOKENS.tolist(), {name: lambda p: p})[name]
    torch.testing.assert_close(pattern[..., 0], torch.ones_like(pattern[..., 0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: zero_outputs(m, mlp=[3]), "mlp: layer 3 does not exist; the model has the layers 0 to 2"),
        (lambda m: zero_outputs(m, attention=-1), "attention: layer -1 does not exist"),
        (lambda m: zero_outputs(m), "Nothing to zero: give layers"),
        (lambda m: mask_key(m, heads=[(0, 4)]), "Layer 0, head 4 does not exist: .* heads 0 to 3 each"),
        (lambda m: clamp_values(m, kv_heads=[(0, 2)]), "Layer 0, KV head 2 does not exist: .* KV heads 0 to 1 each"),
        (lambda m: force_attention(m, []), "No head was given"),
        (lambda m: force_attention(m, [(3,)]), r"no \(layer, head\) pairs"),
        (lambda m: mask_key(m, -1), "Positions count from 0"),
        (lambda m: sink_bias(m, np.zeros((4, 3))), r"Biases of shape \(4, 3\); give one number, or one per layer"),
        (lambda m: sink_bias(m, float("nan")), "A bias is NaN"),
        (lambda m: sliding_window(m, 0), "A window of 0 keys"),
        (lambda m: swap_token(m, 97), "Token id 97 does not exist: the model knows the ids 0 to 96"),
        (lambda m: without_first([[5]]), "Sequence 0 has 1 tokens and would be empty"),
    ],
)
def test_wrong_names_are_refused_before_anything_runs(make, message):
    with pytest.raises(InputError, match=message):
        make(bridge("llama"))


@pytest.mark.parametrize("make", [mask_key, clamp_values, lambda m, key: force_attention(m, HEADS, key)])
def test_positions_that_do_not_fit_the_tokens_are_refused(make):
    model = bridge("llama")
    with pytest.raises(InputError, match=r"Position 10 does not exist: .* positions 0 to 9"), make(model, 10):
        model(TOKENS)
    with pytest.raises(InputError, match="3 positions were given for the sequences, but 2"), make(model, [0, 1, 2]):
        model(TOKENS)


def test_attention_that_is_no_softmax_is_refused():
    model = load(tiny("llama", seed=3))
    half = {"blocks.0.attn.hook_pattern": lambda p, hook: p / 2}
    no_softmax = pytest.raises(InputError, match=r"sum to 0\.500 instead of 1: it is no softmax")
    with model.hooks(fwd_hooks=list(half.items())), no_softmax:
        mask_key(model)


def test_a_hook_point_that_is_never_reached_is_refused():
    model = bridge("llama")
    with (
        pytest.raises(InputError, match="was reached 0 times in 1 runs"),
        editing(model, {"hook_pos_embed": lambda x: x}),
    ):
        model(TOKENS)
    with (
        pytest.raises(InputError, match=r"No hook point 'blocks.0.attn.hook_zz'"),
        editing(model, {"blocks.0.attn.hook_zz": lambda x: x}),
    ):
        pass
