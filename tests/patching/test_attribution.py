"""Attribution patching: linear where the definition is linear, complete where it is integrated, near to exact."""

import numpy as np
import pytest
import torch

from tests.tiny import TEN, bridge, sequences
from workbench.errors import InputError, WorkbenchWarning
from workbench.patching.activation import activation_patch
from workbench.patching.attribution import attribution_patch
from workbench.prompts.pairs import PromptPairs

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*read logit_diff:workbench.errors.WorkbenchWarning"),
    pytest.mark.filterwarnings("ignore:This estimate takes about:workbench.errors.WorkbenchWarning"),
]
A, B = 5, 9


@pytest.fixture(params=[0, 4], ids=["nothing shared", "prefix shared"])
def pairs(request):
    p = request.param
    return PromptPairs(sequences((9, 7), prefix=p), sequences((9, 7), seed=2, prefix=p), (A, B))


def diff(result, name="contribution"):
    return result[name].sel(metric="logit_diff").values


@pytest.mark.parametrize("family", TEN)
def test_gradient_equals_finite_differences(family, pairs):
    """Move z of one head a little towards source in a whole forward pass: the slope is the estimate."""
    model = bridge(family)
    estimate = attribution_patch(model, pairs, unit="head", verify=0, progress=False)
    name, head, step = "blocks.1.attn.hook_z", 2, 1e-2
    for i in range(2):
        seen = {}
        with torch.no_grad():
            with model.hooks(fwd_hooks=[(name, lambda t, hook, s=seen: s.update(t=t.clone()))]):
                model(torch.tensor([pairs.source[i]]))

            def moved(sign, i=i, seen=seen):
                def write(t, hook):
                    t = t.clone()
                    t[:, :, head] += sign * step * (seen["t"][:, :, head] - t[:, :, head])
                    return t

                with model.hooks(fwd_hooks=[(name, write)]):
                    logits = model(torch.tensor([pairs.base[i]]))[0, -1].double()
                return float(logits[A] - logits[B])

            slope = (moved(1) - moved(-1)) / (2 * step)
        base = float(estimate["base"].sel(metric="logit_diff")[i])
        found = float(estimate["patched"].sel(metric="logit_diff")[1, head, i]) - base
        assert abs(found - slope) < 1e-3 * max(1.0, abs(slope))


@pytest.mark.parametrize("hook", ["z", "v", "k", "q", "mlp_out"])
def test_integrated_heads_add_up_to_the_whole_layer(hook, pairs):
    model = bridge("llama")
    unit = {"z": "head", "q": "head", "mlp_out": "layer"}.get(hook, "kv_head")
    estimate = attribution_patch(
        model, pairs, hook=hook, unit=unit, steps=64, integrate="layers", verify=0, progress=False
    )
    exact = activation_patch(model, pairs, hook=hook, unit="layer", progress=False)
    parts = diff(estimate)
    total = parts.sum(1) if parts.ndim > 1 else parts
    np.testing.assert_allclose(total, diff(exact), atol=2e-4)


def test_groups_are_sums_of_heads(pairs):
    heads = diff(attribution_patch(bridge("llama"), pairs, unit="head", verify=0, progress=False))
    groups = diff(attribution_patch(bridge("llama"), pairs, unit="kv_group", verify=0, progress=False))
    np.testing.assert_allclose(groups, heads.reshape(3, 2, 2).sum(2), atol=1e-12)


def test_exact_values_stand_beside_the_estimates(pairs):
    model = bridge("llama")
    result = attribution_patch(model, pairs, unit="head", steps=4, verify=6, progress=False)
    exact = diff(activation_patch(model, pairs, unit="head", progress=False))
    checked = diff(result, "exact")
    assert np.isfinite(checked).sum() == 6
    np.testing.assert_allclose(checked[np.isfinite(checked)], exact[np.isfinite(checked)], atol=1e-9)
    known = np.isfinite(checked)
    wanted = np.corrcoef(diff(result)[known], exact[known])[0, 1]
    np.testing.assert_allclose(float(result["agreement_pearson"].sel(metric="logit_diff")), wanted)


def test_long_answers(pairs):
    data = PromptPairs(pairs.base, pairs.source, [((5, 11), (9,))] * 2)
    estimate = attribution_patch(
        bridge("qwen2"), data, unit="layer", steps=64, integrate="layers", verify=0, progress=False
    )
    exact = activation_patch(bridge("qwen2"), data, unit="layer", progress=False)
    np.testing.assert_allclose(diff(estimate), diff(exact), atol=2e-4)


def test_long_answers_where_the_base_is_the_beginning_of_the_source():
    """The common beginning then reaches into the positions at which the answer is read."""
    model, base, answer = bridge("qwen2"), sequences((6,))[0], (5, 11, 3)
    data = PromptPairs([base], [[*base, 8, 7]], [(answer, (9,))])
    estimate = attribution_patch(model, data, unit="layer", steps=64, integrate="layers", verify=0, progress=False)
    exact = activation_patch(model, data, unit="layer", progress=False)
    for name, prompt in (("base", base), ("source", data.source[0])):
        with torch.no_grad():
            log_p = model(torch.tensor([[*prompt, *answer[:-1]]]))[0, len(prompt) - 1 :].double().log_softmax(-1)
        score = float(sum(log_p[k, token] for k, token in enumerate(answer)) - log_p[0, 9])
        assert diff(estimate, name)[0] == pytest.approx(score, abs=1e-6)
    np.testing.assert_allclose(diff(estimate), diff(exact), atol=2e-4)


def test_no_steps_are_refused(pairs):
    with pytest.raises(InputError, match="steps=0 must be at least 1"):
        attribution_patch(bridge("llama"), pairs, steps=0, progress=False)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "olmo2"])
def test_eap_ig_takes_gradients_on_the_way_of_the_embeddings(family, pairs):
    """By finite differences: z of a head moved a little, at embeddings that are half of base's and half of source's."""
    model = bridge(family)
    found = attribution_patch(model, pairs, unit="head", steps=2, verify=0, progress=False)
    assert found.attrs["estimate"] == "EAP-IG"
    name, head, step, start = "blocks.1.attn.hook_z", 2, 1e-2, "blocks.0.hook_resid_pre"
    for i in range(2):
        base, source = (torch.tensor([side[i]]) for side in (pairs.base, pairs.source))
        seen = {}
        with torch.no_grad():
            for key, tokens in (("base", base), ("source", source)):
                hooks = [
                    (point, lambda t, hook, at=(key, point), seen=seen: seen.update({at: t.clone()}))
                    for point in (name, start)
                ]
                with model.hooks(fwd_hooks=hooks):
                    model(tokens)
            change = seen["source", name][:, :, head] - seen["base", name][:, :, head]

            def logit_diff(point, moved, seen=seen, change=change, base=base):
                def enter(t, hook):
                    return t + point * (seen["source", start] - seen["base", start])

                def move(t, hook):
                    t = t.clone()
                    t[:, :, head] += moved * change
                    return t

                with model.hooks(fwd_hooks=[(start, enter), (name, move)]):
                    logits = model(base)[0, -1].double()
                return float(logits[A] - logits[B])

            slopes = [(logit_diff(point, step) - logit_diff(point, -step)) / (2 * step) for point in (0.25, 0.75)]
        estimate = float(found["patched"].sel(metric="logit_diff")[1, head, i])
        wanted = np.mean(slopes)
        assert abs(estimate - float(found["base"].sel(metric="logit_diff")[i]) - wanted) < 1e-3 * max(1.0, abs(wanted))


def test_an_estimate_that_takes_longer_than_the_exact_answer_says_so(pairs):
    """12 heads in 3 layers: 8 passes. A point takes a forward pass and two backward passes, which count twice."""
    with pytest.warns(WorkbenchWarning, match=r"about 20 forward passes .* of its 12 cells 8: activation_patch"):
        attribution_patch(bridge("llama"), pairs, unit="head", steps=4, verify=0, progress=False)
    with pytest.warns(WorkbenchWarning, match="about 40 forward passes"):
        attribution_patch(bridge("llama"), pairs, unit="head", steps=4, integrate="layers", verify=0, progress=False)


def test_unknown_ways_are_refused(pairs):
    with pytest.raises(InputError, match="integrate='input' is unknown"):
        attribution_patch(bridge("llama"), pairs, integrate="input", progress=False)
