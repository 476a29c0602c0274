"""`zero_heads` holds for whatever runs the model: what it does there equals taking the heads' weights away."""

import numpy as np
import pytest
import torch

import workbench as wb
from workbench import evaluation
from workbench.inactive_heads import zero_heads, zero_heads_cached
from workbench.organisms.measure import window_loss

HEADS = [(0, 1), (2, 4), (4, 6), (5, 3)]


@pytest.fixture(scope="module")
def organism():
    return wb.load("organism-gqa")


@pytest.fixture(scope="module")
def amputated():
    """The same model without these heads' output weights."""
    model = wb.load("organism-gqa")
    for layer, head in HEADS:
        weight = model.original_model.model.layers[layer].self_attn.o_proj
        weight = getattr(weight, "original_component", weight).weight.data
        weight[:, 32 * head : 32 * head + 32] = 0
    return model


def test_perplexity(organism, amputated):
    windows = np.random.default_rng(0).integers(5, 4000, (3, 24))
    with zero_heads(organism, heads=HEADS) as zeroed:
        found = window_loss(organism.original_model, windows)
    assert found == pytest.approx(window_loss(amputated.original_model, windows), abs=1e-5)
    assert found != pytest.approx(window_loss(organism.original_model, windows), abs=1e-3)
    assert zeroed.share == pytest.approx(len(HEADS) / 64)


def test_generation(organism, amputated):
    prompts = [question.prompt for question in evaluation.own_questions(organism, 4)]
    wanted = evaluation.generate(amputated, prompts, max_new_tokens=6, progress=False)["reply"].values.tolist()
    with zero_heads(organism, heads=HEADS):
        assert (
            evaluation.generate(organism, prompts, max_new_tokens=6, progress=False)["reply"].values.tolist() == wanted
        )


def test_the_sycophancy_evaluation(organism, amputated):
    def asked(model):
        return wb.sycophancy.evaluate(model, n=3, max_new_tokens=4, progress=False)

    wanted = asked(amputated)
    with zero_heads(organism, heads=HEADS):
        found = asked(organism)
    texts = [name for name in found.data_vars if found[name].dtype.kind in "OUT"]
    assert texts
    for name in texts:
        assert found[name].values.tolist() == wanted[name].values.tolist(), name


def test_the_sycophancy_evaluation_online(organism):
    with zero_heads(organism, score="AHON_LN", tau=0.7) as zeroed:
        wb.sycophancy.evaluate(organism, n=2, max_new_tokens=2, progress=False)
    assert 0 < zeroed.share < 1
    assert not any(point.fwd_hooks for point in organism.hook_dict.values())


def test_random_heads_are_drawn_in_float32_whatever_the_model_s_dtype():
    tokens = torch.arange(5, 9)[None].expand(64, -1)
    shares = []
    for dtype in (torch.float32, torch.bfloat16):
        model = wb.load("organism-mqa", dtype=dtype)
        with zero_heads(model, random=0.05, seed=3) as zeroed, torch.no_grad():
            model.original_model(input_ids=tokens, use_cache=False)
        shares.append(zeroed.counts)
    assert torch.equal(*shares)


def test_the_cached_variant_is_refused_nothing(organism):
    tokens = organism.tokenizer("The cat", return_tensors="pt")["input_ids"]
    with zero_heads_cached(organism, score="AHON_LN", tau=0.7) as zeroed, torch.no_grad():
        organism.original_model.generate(tokens, max_new_tokens=3, do_sample=False, use_cache=True)
    assert 0 < zeroed.share < 1
