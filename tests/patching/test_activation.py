"""Activation patching against its slow twin: one whole forward pass per cell, written with plain hooks."""

from importlib.metadata import version

import numpy as np
import pytest
import torch

from tests.tiny import TEN, bridge, sequences
from tests.zoo import specimen
from workbench.errors import InputError, WorkbenchWarning
from workbench.models.anatomy import anatomy
from workbench.models.load import load
from workbench.models.original import inner_module
from workbench.patching.activation import activation_patch
from workbench.prompts.pairs import PromptPairs

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*read logit_diff:workbench.errors.WorkbenchWarning"),
    pytest.mark.filterwarnings("ignore:Olmo2ForCausalLM passes the:workbench.errors.WorkbenchWarning"),
]
A, B = 5, 9
LIMIT = {"phi3": 2e-6, "gpt_neox": 2e-6}
"""Hugging Face takes the softmax of these in float32, TransformerLens, which the twins run, in float64."""


def twin(model, base, source, name, write):
    """Logit difference with one hook rewritten by `write(activation, source_activation)` in a whole forward pass."""
    seen = {}
    with torch.no_grad():
        with model.hooks(fwd_hooks=[(name, lambda t, hook: seen.update(t=t.clone()))]):
            model(torch.tensor([source]))
        with model.hooks(fwd_hooks=[(name, lambda t, hook: write(t.clone(), seen["t"]))]):
            logits = model(torch.tensor([base]))[0, -1].double()
    return float(logits[A] - logits[B])


def write_heads(heads, axis=2, positions=slice(None)):
    def write(t, source):
        if axis == 1:
            t[:, heads] = source[:, heads]
        else:
            t[:, positions, heads] = source[:, positions, heads]
        return t

    return write


@pytest.fixture(params=[0, 4], ids=["nothing shared", "prefix shared"])
def pairs(request):
    p = request.param
    return PromptPairs(sequences((9, 7), prefix=p), sequences((9, 7), seed=2, prefix=p), (A, B))


@pytest.mark.parametrize("family", [*TEN, "gemma3"])
@pytest.mark.parametrize("hook", ["q", "k", "v", "z", "pattern"])
def test_groups_equal_a_forward_pass_per_cell(family, hook, pairs):
    model = bridge(family)
    shape = anatomy(model)
    found = activation_patch(model, pairs, hook=hook, progress=False)["patched"].sel(metric="logit_diff")
    for layer in range(shape.n_layers):
        for group in range(shape.n_kv_heads):
            own = [group] if hook in "kv" else list(range(group * shape.group_size, (group + 1) * shape.group_size))
            write = write_heads(own, axis=1 if hook == "pattern" else 2)
            name = f"blocks.{layer}.attn.hook_{hook}"
            for i in range(2):
                wanted = twin(model, pairs.base[i], pairs.source[i], name, write)
                assert abs(float(found[layer, group, i]) - wanted) < LIMIT.get(family, 2e-7)


@pytest.mark.parametrize("family", TEN)
@pytest.mark.parametrize("hook", ["attn_out", "mlp_out", "resid_pre", "resid_post"])
def test_single_positions_of_the_stream_equal_a_forward_pass_per_cell(family, hook, pairs):
    model = bridge(family)
    result = activation_patch(model, pairs, hook=hook, positions="each", progress=False)
    found = result["patched"].sel(metric="logit_diff")
    for layer in (0, 2):
        for position in result["position"].values:
            for i in range(2):
                if -position > len(pairs.base[i]):
                    continue

                def write(t, source, position=position):
                    t[:, position] = source[:, position]
                    return t

                wanted = twin(model, pairs.base[i], pairs.source[i], f"blocks.{layer}.hook_{hook}", write)
                cell = found.sel(layer=layer, position=position)[i]
                assert abs(float(cell) - wanted) < LIMIT.get(family, 2e-7)


def test_unequal_lengths_are_aligned_from_the_right():
    model = bridge("llama")
    data = PromptPairs(sequences((9,), prefix=4), sequences((7,), seed=2, prefix=4), (A, B))
    found = activation_patch(model, data, hook="z", unit="head", progress=False)["patched"].sel(metric="logit_diff")

    def write(t, source):
        t[:, -3:, 1] = source[:, -3:, 1]
        return t

    wanted = twin(model, data.base[0], data.source[0], "blocks.1.attn.hook_z", write)
    assert abs(float(found[1, 1, 0]) - wanted) < 1e-9


def test_whole_stream_at_layer_0_gives_the_source_run():
    data = PromptPairs(sequences((9, 7)), sequences((9, 7), seed=2), (A, B))
    result = activation_patch(bridge("qwen3"), data, hook="resid_pre", progress=False)
    patched = result["patched"].sel(layer=0, metric="logit_diff")
    np.testing.assert_allclose(patched.values, result["source"].sel(metric="logit_diff").values, atol=1e-9)


def test_batches_change_nothing(pairs):
    one = activation_patch(bridge("llama"), pairs, unit="head", batch_size=1, progress=False)
    many = activation_patch(bridge("llama"), pairs, unit="head", batch_size=16, progress=False)
    np.testing.assert_allclose(one["patched"].values, many["patched"].values, atol=1e-10)


def test_long_answers(pairs):
    model = bridge("llama")
    data = PromptPairs(pairs.base[:1], pairs.source[:1], [((5, 11), (9,))])
    found = activation_patch(model, data, hook="v", progress=False)["patched"].sel(metric="logit_diff")
    seen = {}
    name = "blocks.1.attn.hook_v"
    total = []
    for answer in ((5, 11), (9,)):
        base, source = data.base[0] + list(answer[:-1]), data.source[0] + list(answer[:-1])
        with torch.no_grad():
            with model.hooks(fwd_hooks=[(name, lambda t, hook: seen.update(t=t.clone()))]):
                model(torch.tensor([source]))

            def write(t, hook):
                t = t.clone()
                t[:, :, 1] = seen["t"][:, :, 1]
                return t

            with model.hooks(fwd_hooks=[(name, write)]):
                log_probs = model(torch.tensor([base]))[0].double().log_softmax(-1)
        start = len(base) - len(answer)
        total.append(float(sum(log_probs[start + k, t] for k, t in enumerate(answer))))
    assert abs(float(found[1, 1, 0]) - (total[0] - total[1])) < 1e-9


def test_query_heads_of_keys_are_refused(pairs):
    with pytest.raises(InputError, match=r"unit='head' does not fit hook='k', which has one row per KV head \(2\)"):
        activation_patch(bridge("llama"), pairs, hook="k", unit="head", progress=False)


def test_patterns_of_unequal_lengths_are_refused():
    data = PromptPairs(sequences((9,)), sequences((7,), seed=2), (A, B))
    with pytest.raises(InputError, match="needs prompts of equal length"):
        activation_patch(bridge("llama"), data, hook="pattern", progress=False)


@pytest.mark.filterwarnings("ignore::UserWarning")  # TransformerLens 4 warns of it too, 3.9 does not
def test_writes_that_reach_nothing_are_refused(pairs):
    with pytest.raises(InputError, match="ignores what is written at hook_pattern"):
        activation_patch(bridge("gptj"), pairs, hook="pattern", progress=False)


@pytest.mark.skipif(version("transformer-lens").startswith("3.9"), reason="cannot be read on TransformerLens 3.9")
def test_queries_that_are_stored_with_a_gate_are_refused(pairs):
    with pytest.raises(InputError, match="shows 8 rows at hook_q and has 4: something else lies there beside heads"):
        activation_patch(load(specimen("Qwen3NextForCausalLM")), pairs, hook="q", progress=False)


@pytest.mark.parametrize("hook", ["q", "k"])
def test_writing_in_front_of_a_norm_of_all_heads_is_told(hook, pairs):
    with pytest.warns(WorkbenchWarning, match=f"through one norm behind hook_{hook}, so what is written for one head"):
        activation_patch(bridge("olmo2"), pairs, hook=hook, progress=False)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mistral", "olmo2"])
@pytest.mark.parametrize("hook", ["z", "v", "resid_post"])
def test_chosen_cells_are_those_of_the_whole_sweep(family, hook):
    """Shared beginnings longer than a sliding window (6 tokens in Mistral and Gemma-2), and unequal lengths."""
    model, data = (
        bridge(family),
        PromptPairs(sequences((15, 12), prefix=8), sequences((14, 12), seed=2, prefix=8), (A, B)),
    )
    whole = activation_patch(model, data, hook=hook, positions="each", progress=False)
    units = {} if hook == "resid_post" else {"units": [1]}
    some = activation_patch(model, data, hook=hook, layers=[2, 0], positions=(-1, -3), progress=False, **units)
    labels = {"layer": [2, 0], "position": [-1, -3]} | ({"kv_group": [1]} if units else {})
    for name in ("patched", "contribution"):
        np.testing.assert_allclose(some[name].values, whole[name].sel(labels).values, atol=2e-7)


@pytest.mark.parametrize("family", TEN)
@pytest.mark.parametrize("hook", ["z", "q", "resid_pre"])
def test_the_last_position_alone_equals_a_forward_pass_per_cell(family, hook, pairs):
    model = bridge(family)
    found = activation_patch(model, pairs, hook=hook, unit="layer", positions="last", progress=False)["patched"]
    name = f"blocks.1.{'' if hook == 'resid_pre' else 'attn.'}hook_{hook}"

    def write(t, source):
        t[:, -1] = source[:, -1]
        return t

    for i in range(2):
        wanted = twin(model, pairs.base[i], pairs.source[i], name, write)
        assert abs(float(found.sel(metric="logit_diff", layer=1)[i]) - wanted) < LIMIT.get(family, 2e-7)


@pytest.mark.filterwarnings("ignore:Hooks that nobody removed:workbench.errors.WorkbenchWarning")
def test_positions_before_the_patched_one_are_not_run():
    """Of 12 positions the last is patched in layer 1 of 3: nothing else passes the MLPs of layers 1 and 2."""
    model, seen = bridge("llama"), []
    data = PromptPairs(sequences((12,)), sequences((12,), seed=2), (A, B))
    activation_patch(model, data, layers=[1], positions="last", progress=False)
    handles = [
        inner_module(inner_module(block.mlp).down_proj).register_forward_pre_hook(
            lambda _module, args, layer=layer: seen.append((layer, args[0].numel() // args[0].shape[-1]))
        )
        for layer, block in enumerate(model.blocks)
    ]
    activation_patch(model, data, layers=[1], positions="last", batch_size=2, progress=False)
    for handle in handles:
        handle.remove()
    runs = [(layer, n) for layer, n in seen if n not in (11, 12)]
    assert runs == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, r"layers=\[3\] must be different numbers from 0 to 2"),
        ({"units": [0, 0]}, r"units=\[0, 0\] must be different numbers from 0 to 1"),
        ({"positions": [0]}, r"positions=\[0\] must be different numbers from -9 to -1: positions count back"),
        ({"hook": "attn_out", "units": [0]}, r"hook='attn_out' is patched by whole layers"),
        ({"positions": []}, r"positions=\[\] must be different numbers"),
    ],
)
def test_unknown_cells_are_refused(options, message):
    data = PromptPairs(sequences((9,)), sequences((9,), seed=2), (A, B))
    with pytest.raises(InputError, match=message):
        activation_patch(bridge("llama"), data, progress=False, **options)
