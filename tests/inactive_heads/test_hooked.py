"""HookedTransformers are scored and zeroed like bridges."""

from importlib.metadata import version

import numpy as np
import pytest
import torch

from tests.inactive_heads import slow
from tests.inactive_heads.test_zeroing import between
from tests.tiny import sequences, tiny
from workbench.errors import InputError
from workbench.inactive_heads import head_scores, zero_heads, zero_heads_cached
from workbench.models.forward import pad, run
from workbench.models.load import load

pytestmark = [
    pytest.mark.skipif(
        not version("transformer-lens").startswith("3.9"), reason="HookedTransformer needs TransformerLens 3.9"
    ),
    pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def model():
    return load(tiny("llama", torch.float32), backend="hooked")


TEXTS = sequences((9, 5))


def masks_by_hand(model, ids, name, tau):
    """Each layer judged on its own pass, with the layers below zeroed by fixed masks."""
    masks = torch.zeros(3, 4, dtype=torch.bool)
    for layer in range(3):
        with zero_heads(model, heads=masks):
            pattern, v, z = slow.observed(model, ids)[layer]
        scores = torch.tensor(slow.layer_scores(pattern, v, z, model.blocks[layer].attn.W_O)[name])
        masks[layer] = scores > tau if name in slow.ABOVE else scores < tau
    return masks


def test_scores_are_those_of_the_bridge(model):
    found, wanted = head_scores(model, TEXTS), head_scores(load(tiny("llama", torch.float32)), TEXTS)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["AHON_LN", "AWFT", "FTVVN_LN", "LTHON_HN"])
def test_heads_are_zeroed_as_by_hand_however_the_model_is_run(model, name):
    tau = between(head_scores(model, TEXTS, name))
    tokens, _ = pad(TEXTS, "cpu")
    ways = (lambda: model(tokens), lambda: model.run_with_hooks(tokens), lambda: run(model, tokens))
    for way in ways:
        with torch.no_grad(), zero_heads(model, score=name, tau=tau) as zeroed:
            way()
        for i, ids in enumerate(TEXTS):
            found = torch.stack([zeroed.last[layer][i] for layer in range(3)])
            assert torch.equal(found, masks_by_hand(model, ids, name, tau))


def test_left_padding_decides_like_no_padding(model):
    tau = between(head_scores(model, TEXTS, "AHON_LN"))
    mask = torch.tensor([[0] * 4 + [1] * 5])
    with torch.no_grad(), zero_heads(model, score="AHON_LN", tau=tau) as zeroed:
        model(torch.tensor([[0] * 4 + TEXTS[1]]), attention_mask=mask)
    found = torch.stack([zeroed.last[layer][0] for layer in range(3)])
    assert torch.equal(found, masks_by_hand(model, TEXTS[1], "AHON_LN", tau))


def test_generation_needs_no_cache_or_the_other_method(model):
    tau = between(head_scores(model, TEXTS, "AHON_LN"))
    start = torch.tensor([TEXTS[1]])
    options = {"max_new_tokens": 4, "do_sample": False, "verbose": False, "stop_at_eos": False}
    with (
        pytest.raises(InputError, match="goes on from 5 cached positions"),
        zero_heads(model, score="AHON_LN", tau=tau),
    ):
        model.generate(start, **options)
    with zero_heads(model, score="AHON_LN", tau=tau):
        exact = model.generate(start, use_past_kv_cache=False, **options)
    ids = list(TEXTS[1])
    for _ in range(4):
        with torch.no_grad(), zero_heads(model, heads=masks_by_hand(model, ids, "AHON_LN", tau)):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert exact[0].tolist() == ids
    with zero_heads_cached(model, score="AHON_LN", tau=tau):
        cached = model.generate(start, **options)
    with zero_heads(model, heads=masks_by_hand(model, TEXTS[1], "AHON_LN", tau)):
        assert torch.equal(cached, model.generate(start, **options))
