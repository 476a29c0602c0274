"""Path patching against its slow twin: every head frozen by hooks, the whole prompt run again for each sender."""

from importlib.metadata import version

import numpy as np
import pytest
import torch

from tests import frozen
from tests.interrupts import killed_before_piece, pieces, room_for
from tests.tiny import TEN, bridge, sequences
from tests.zoo import RECENT, specimen
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.load import load
from workbench.patching.path import path_patch
from workbench.prompts.pairs import PromptPairs

pytestmark = pytest.mark.filterwarnings("ignore:.*read logit_diff:workbench.errors.WorkbenchWarning")
A, B = 5, 9
LIMIT = {"gptj": 1e-7, "phi3": 2e-6, "gpt_neox": 2e-6, "cohere": 2e-6}
"""GPT-J takes attention in float32 whatever the model's dtype, so another batch shape moves the last digits.

In the others Hugging Face takes the softmax in float32, TransformerLens, which the twins run, in float64.
"""

COHERE = () if version("transformer-lens").startswith("3.9") else ("cohere",)
"""TransformerLens 3.9 computes something else than Cohere, which is refused."""


def run_with(model, tokens, hooks):
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        return model(torch.tensor([tokens]))[0].double()


def all_z(model, tokens):
    seen = {}

    def keep(activation, hook, name):
        seen[name] = activation.clone()

    names = [f"blocks.{layer}.attn.hook_z" for layer in range(anatomy(model).n_layers)]
    run_with(model, tokens, [(n, lambda t, hook, n=n: keep(t, hook, n)) for n in names])
    return [seen[n] for n in names]


def twin(model, base, source, heads, back=0):
    """Logits at `back` positions before the end, with `heads` sent from source and all others frozen."""
    frozen, other = all_z(model, base), all_z(model, source)
    hooks = []
    for layer, z in enumerate(frozen):
        z = z.clone()
        for sender_layer, head in heads:
            if sender_layer == layer:
                z[:, -1 - back, head] = other[layer][:, -1 - back, head]
        hooks.append((f"blocks.{layer}.attn.hook_z", lambda _t, hook, z=z: z.clone()))
    return run_with(model, base, hooks)[-1 - back]


def logit_diff(logits):
    return float(logits[A] - logits[B])


def pairs():
    return PromptPairs(sequences((9, 7)), sequences((6, 8), seed=2), (A, B))


@pytest.mark.parametrize("family", [*TEN, "gptj", *COHERE, "gemma3"])
@pytest.mark.parametrize("unit", ["head", "kv_group"])
def test_equals_the_twin_that_freezes_every_head(family, unit):
    model, data = bridge(family), pairs()
    shape = anatomy(model)
    found = path_patch(model, data, unit=unit, progress=False)["patched"].sel(metric="logit_diff")
    for i, (base, source) in enumerate(zip(data.base, data.source, strict=True)):
        for layer in range(shape.n_layers):
            for index in range(found.sizes[unit]):
                size = 1 if unit == "head" else shape.group_size
                heads = [(layer, h) for h in range(index * size, (index + 1) * size)]
                wanted = logit_diff(twin(model, base, source, heads))
                assert abs(float(found[layer, index, i]) - wanted) < LIMIT.get(family, 1e-9)


@pytest.mark.parametrize("family", TEN)
@pytest.mark.parametrize("shared", [3, 12])
def test_a_shared_beginning_changes_nothing(family, shared):
    """Also where it is longer than a sliding window (6 tokens in Mistral and Gemma-2)."""
    model = bridge(family)
    base, source = sequences((15, 16), prefix=shared), sequences((14, 16), seed=2, prefix=shared)
    found = path_patch(model, PromptPairs(base, source, (A, B)), unit="head", progress=False)
    for i in range(2):
        wanted = logit_diff(twin(model, base[i], source[i], [(1, 2)]))
        assert abs(float(found["patched"].sel(metric="logit_diff")[1, 2, i]) - wanted) < LIMIT.get(family, 2e-7)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_sets_across_layers_equal_the_twin(family):
    model, data = bridge(family), pairs()
    heads = [(2, 3), (0, 1), (0, 2)]
    result = path_patch(model, data, units=[heads, [(1, 0)]], progress=False)
    found = result["patched"].sel(metric="logit_diff")
    for i in range(2):
        wanted = logit_diff(twin(model, data.base[i], data.source[i], heads))
        assert abs(float(found[0, i]) - wanted) < LIMIT.get(family, 1e-9)


def test_long_answers_are_scored_by_their_log_probability():
    model = bridge("qwen2")
    a, b = (5, 11, 3), (9, 4)
    data = PromptPairs(sequences((9, 7)), sequences((6, 8), seed=2), [(a, b)] * 2)
    found = path_patch(model, data, unit="kv_group", progress=False)["patched"].sel(metric="logit_diff")
    for i in range(2):
        wanted = {}
        for answer in (a, b):
            base, source = data.base[i] + list(answer[:-1]), data.source[i] + list(answer[:-1])
            terms = [
                twin(model, base, source, [(1, 2), (1, 3)], back=len(answer) - 1 - k).log_softmax(-1)[token]
                for k, token in enumerate(answer)
            ]
            wanted[answer] = float(sum(terms))
        assert abs(float(found[1, 1, i]) - (wanted[a] - wanted[b])) < 1e-9


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt_neox"])
def test_sets_of_openers_equal_the_twin(family):
    """The prompts are run once and continued; the twin runs every beginning of every opener by itself."""
    model = bridge(family)
    sides = (((5,), (11, 3), (11, 4)), ((9, 4, 7), (11, 8), (6,)))
    data = PromptPairs(sequences((9, 7), prefix=3), sequences((6, 8), seed=2, prefix=3), [sides] * 2)
    result = path_patch(model, data, unit="kv_group", progress=False)
    heads = [(1, h) for h in range(anatomy(model).group_size)]
    for i in range(2):
        scored = []
        for side in sides:
            terms = []
            for answer in side:
                base, source = data.base[i] + list(answer[:-1]), data.source[i] + list(answer[:-1])
                back = len(answer) - 1
                steps = [twin(model, base, source, heads, back=back - k) for k in range(len(answer))]
                terms.append(sum(float(s.log_softmax(-1)[t]) for s, t in zip(steps, answer, strict=True)))
            scored.append(np.logaddexp.reduce(terms))
        found = result["patched"].sel(metric="logit_diff")[1, 0, i]
        assert abs(float(found) - (scored[0] - scored[1])) < LIMIT.get(family, 2e-7)
    assert (result["coverage"] > 0).all() and (result["coverage"] < 1).all()
    assert result["coverage_source"].dims == ("example",)


def test_same_prompts_give_exactly_nothing():
    base = sequences((9, 7))
    result = path_patch(bridge("llama"), PromptPairs(base, base, (A, B)), unit="head", progress=False)
    assert np.abs(result["contribution"].values).max() < 1e-12


def test_layer_unit_is_the_closed_form_in_the_last_layer():
    model, data = bridge("llama"), pairs()
    parts = anatomy(model)
    last = parts.n_layers - 1
    found = path_patch(model, data, unit="layer", progress=False)["patched"].sel(metric="logit_diff")[last]
    for i, (base, source) in enumerate(zip(data.base, data.source, strict=True)):
        seen = {}

        def keep(t, hook, seen=seen):
            seen[hook.name] = t[0, -1].clone()

        run_with(model, base, [(f"blocks.{last}.hook_resid_pre", lambda t, hook, s=seen: s.update(x=t[0, -1]))])
        run_with(model, source, [(f"blocks.{last}.hook_attn_out", lambda t, hook, s=seen: s.update(o=t[0, -1]))])
        middle = seen["x"] + seen["o"]
        block = model.blocks[last]
        with torch.no_grad():
            out = middle + block.mlp(block.ln2(middle[None, None]))[0, 0]
            logits = parts.unembed(out)
        assert abs(float(found[i]) - logit_diff(logits)) < 1e-9


def test_groups_are_heads_without_grouping():
    data = pairs()
    heads = path_patch(bridge("gpt2"), data, unit="head", progress=False)
    groups = path_patch(bridge("gpt2"), data, unit="kv_group", progress=False)
    np.testing.assert_allclose(heads["contribution"].values, groups["contribution"].values, atol=1e-12)


def test_batches_change_nothing():
    data = PromptPairs(sequences((9, 7, 8, 5)), sequences((6, 8, 8, 9), seed=2), (A, B))
    one = path_patch(bridge("mistral"), data, batch_size=1, progress=False)
    all_at_once = path_patch(bridge("mistral"), data, batch_size=4, progress=False)
    np.testing.assert_allclose(one["patched"].values, all_at_once["patched"].values, atol=1e-10)


def test_full_logits_are_the_models_and_contain_the_answers():
    model, data = bridge("llama"), pairs()
    result = path_patch(model, data, full_logits=True, progress=False)
    for name, prompts in (("base_logits", data.base), ("source_logits", data.source)):
        wanted = np.stack([run_with(model, tokens, [])[-1] for tokens in prompts])
        np.testing.assert_allclose(result[name], wanted, atol=1e-6)
    full = result["patched_logits"]
    difference = full.isel(vocab=A) - full.isel(vocab=B)
    np.testing.assert_allclose(difference.values, result["patched"].sel(metric="logit_diff").values, atol=1e-5)


def test_a_killed_run_resumes_where_it_was(tmp_path):
    data = PromptPairs(sequences((9, 7, 8, 5)), sequences((6, 8, 8, 9), seed=2), (A, B))
    file = str(tmp_path / "run.nc")
    with killed_before_piece(2):
        path_patch(bridge("llama"), data, batch_size=1, resume=file, progress=False)
    with pieces() as computed:
        resumed = path_patch(bridge("llama"), data, batch_size=1, resume=file, progress=False)
    assert len(computed) == 2
    fresh = path_patch(bridge("llama"), data, batch_size=1, progress=False)
    np.testing.assert_array_equal(resumed["patched"].values, fresh["patched"].values)
    with pieces() as computed:
        again = path_patch(bridge("llama"), data, resume=file, progress=False)
    assert not computed and again.identical(resumed)


def test_resume_refuses_another_run(tmp_path):
    file = str(tmp_path / "run.nc")
    path_patch(bridge("llama"), pairs(), resume=file, progress=False)
    with pytest.raises(InputError, match=r"unit|senders"):
        path_patch(bridge("llama"), pairs(), unit="head", resume=file, progress=False)


def test_memory_runs_out_and_the_batch_is_halved():
    from workbench.errors import WorkbenchWarning

    with (
        room_for(bridge("llama"), 2),
        pytest.warns(WorkbenchWarning, match="batches of 2; going on with batches of 1"),
    ):
        path_patch(bridge("llama"), pairs(), batch_size=2, progress=False)


def test_answers_of_another_vocabulary_are_refused():
    with pytest.raises(InputError, match="ids 0 to 96"):
        path_patch(bridge("llama"), PromptPairs([[3, 4]], [[3, 5]], (5, 500)), progress=False)


def test_nan_logits_are_refused():
    from tests.tiny import tiny
    from workbench.models.load import load

    model = load(tiny("llama"))
    path_patch(model, pairs(), progress=False)
    model.blocks[1].mlp.original_component.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN or infinite logits"):
        path_patch(model, pairs(), progress=False)


@pytest.mark.skipif(not RECENT, reason="this version of transformers has no such Gemma-4")
def test_heads_may_be_wider_in_some_layers():
    """Gemma-4's global layers have wider heads; here the model is replayed, since no layer reads another's keys."""
    name = "Gemma4UnifiedForConditionalGeneration"
    hf, model = specimen(name), load(specimen(name))
    pairs = PromptPairs(sequences((9,)), sequences((7,), seed=2), (A, B))
    result = path_patch(model, pairs, unit="head", full_logits=True, progress=False)
    assert result.attrs["computed"] == "replay"
    mixers = frozen.mixers(hf, 4)
    for layer in (0, 3):
        wanted = frozen.path_patched(hf, mixers, pairs.base[0], pairs.source[0], layer, [2], 4)
        found = result["patched_logits"].isel(layer=layer, head=2, example=0)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
