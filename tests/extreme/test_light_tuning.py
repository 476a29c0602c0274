"""Light tuning against Hugging Face models trained by hand, and penalties against loops."""

import numpy as np
import pytest
import torch

from tests.tiny import bridge, sequences, tiny
from tests.words import word_tokenizer
from workbench.errors import InputError
from workbench.extreme.light_tuning import LightTuningRecipe, losses, peak_penalty, sink_penalty, tune_lightly, windows
from workbench.models.load import load

TEXTS = [[1, *ids] for ids in sequences((40, 30, 50))]
SHORT = {"steps": 3, "batch": 2, "window": 16, "learning_rate": 1e-3}


def tune(model, texts=TEXTS, **options):
    return tune_lightly(model, texts, LightTuningRecipe(**(SHORT | options)), progress=False)


def by_hand(penalty, rows, order, level, strength, steps):
    """Three steps of AdamW on the Hugging Face model, attention and streams from its own outputs."""
    hf = tiny("llama").requires_grad_(True)
    streams = []
    for layer in hf.model.layers:
        layer.register_forward_hook(lambda _layer, _args, out: streams.append(out))
    optimizer = torch.optim.AdamW(hf.parameters(), lr=1e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        tokens = rows[order[step]]
        streams.clear()
        out = hf(tokens, output_attentions=True, use_cache=False)
        loss = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        if penalty == "sink":
            loss = loss + strength * torch.stack([slow_sink(p, level) for p in out.attentions]).mean()
        if penalty == "peak":
            loss = loss + strength * torch.stack([slow_peak(x, level) for x in streams]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(hf.parameters()), 1.0)
        optimizer.step()
    return hf


def slow_sink(pattern, level):
    length, total = pattern.shape[-1], 0
    for row in pattern:
        for head in row:
            for key in range(length - 7):
                received = torch.stack([head[q, key] for q in range(key, length)]).mean()
                total = total + (received - level if received > level else 0 * received)
    return total / (pattern.shape[0] * pattern.shape[1])


def slow_peak(resid, level):
    ratios = []
    for row in resid:
        norm = row.square().sum(-1).sqrt()
        middle = sorted(norm.tolist())[(len(norm) - 1) // 2]
        ratio = (norm.max() / middle / level).log()
        ratios.append(ratio if ratio > 0 else 0 * ratio)
    return torch.stack(ratios).mean()


@pytest.mark.parametrize(("penalty", "level"), [(None, None), ("sink", 0.12), ("peak", 1.02)])
def test_tuning_equals_a_hugging_face_model_trained_by_hand(penalty, level):
    given = {} if penalty is None else {"level": level, "strength": 2.0}
    tuned = tune(bridge("llama"), penalty=penalty, **given)
    rows = windows(TEXTS, 16)
    generator = torch.Generator().manual_seed(0)
    order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(3)])[:6].view(3, 2)
    wanted = by_hand(penalty, rows, order, level, 2.0, 3)
    tokens = torch.tensor([TEXTS[0][:20], TEXTS[2][:20]])
    base, found = (m(tokens).detach() for m in (bridge("llama"), tuned.model))
    wanted = by_hand(penalty, rows, order, level, 2.0, 3)(tokens, use_cache=False).logits.detach()
    assert (found - wanted).norm() < 1e-2 * (wanted - base).norm() > 0
    assert penalty is None or tuned.record.penalty[0] > 0


def test_penalties_equal_loops():
    pattern = torch.rand(2, 3, 12, 12, dtype=torch.float64).tril()
    pattern = pattern / pattern.sum(-1, keepdim=True)
    torch.testing.assert_close(sink_penalty(pattern, 0.1), slow_sink(pattern, 0.1))
    resid = torch.randn(2, 9, 5, dtype=torch.float64)
    resid[0, 3] *= 50
    torch.testing.assert_close(peak_penalty(resid, 2.0), slow_peak(resid, 2.0))


def test_a_sink_cannot_escape_by_moving_to_another_token():
    first, third = torch.zeros(2, 1, 1, 16, 16)
    first[..., 0] = third[..., 3:, 3] = 1
    third[..., :3, :3] = torch.eye(3)
    level = 0.2
    assert float(sink_penalty(first, level)) == pytest.approx(1 - level)
    assert float(sink_penalty(third, level)) == pytest.approx(1 - level)
    even = torch.ones(1, 1, 16, 16).tril()
    assert float(sink_penalty(even / even.sum(-1, keepdim=True), 0.25)) == 0


def test_a_penalty_is_lowered_where_the_control_leaves_it():
    model, rows = bridge("qwen2"), windows(TEXTS, 16)
    recipe = LightTuningRecipe("sink", level=0.12, strength=20.0, **(SHORT | {"steps": 20, "learning_rate": 1e-2}))
    control = LightTuningRecipe(None, **(SHORT | {"steps": 20, "learning_rate": 1e-2}))
    with torch.no_grad():
        after = [
            float(losses(tune_lightly(model, TEXTS, r, progress=False).model, rows, recipe)[1])
            for r in (recipe, control)
        ]
        before = float(losses(model, rows, recipe)[1])
    assert after[0] < 0.5 * min(before, after[1]), (before, after)


def test_the_model_stays_and_the_copy_is_the_same_each_time():
    model = bridge("llama")
    before = {name: p.clone() for name, p in model.named_parameters()}
    first, second, other = tune(model), tune(model), tune(model, seed=1)
    assert all(torch.equal(p, before[name]) and not p.requires_grad for name, p in model.named_parameters())
    tokens = torch.tensor([TEXTS[0]])
    assert torch.equal(first.model(tokens), second.model(tokens))
    assert not torch.equal(first.model(tokens), other.model(tokens))
    assert not torch.equal(first.model(tokens), model(tokens))
    assert first.record.loss.dims == ("step",) and first.record.attrs["penalty"] == "sink"
    assert not any(point.fwd_hooks for point in first.model.hook_dict.values())
    assert not any(p.requires_grad for p in first.model.parameters())


def test_half_precision_is_trained_in_float32_and_comes_back():
    model = load(tiny("llama", torch.bfloat16))
    tuned = tune(model)
    assert {p.dtype for p in tuned.model.parameters()} == {torch.bfloat16}
    assert not torch.equal(tuned.model.unembed.W_U, model.unembed.W_U)


def test_windows_begin_as_the_texts_do():
    rows = windows([[1, 5, 6, 7], [1, 8, 9, 10, 11, 12]], 4)
    assert rows.tolist() == [[1, 5, 6, 7], [1, 8, 9, 10]]
    assert windows([[4, 5, 6], [7, 8, 9, 10]], 3).tolist() == [[4, 5, 6], [7, 8, 9]]


def test_texts_may_be_strings():
    model = load(tiny("llama"), tokenizer=word_tokenizer())
    found = tune(model, ["the cat sat on a mat"] * 6, steps=1)
    assert np.isfinite(found.record.loss.values).all()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"penalty": "drain"}, "penalty='drain' is unknown"),
        ({"steps": 0}, "0 steps of 8 windows of 64 tokens"),
        ({"window": 8}, "8 windows of 8 tokens"),
        ({"strength": -1.0}, "strength=-1.0 must not be negative"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"level": 0.0}, "level=0.0 must be positive"),
    ],
)
def test_recipes_that_cannot_be_trained_are_refused(wrong, match):
    with pytest.raises(InputError, match=match):
        LightTuningRecipe(**wrong)


def test_too_few_tokens_are_refused():
    with pytest.raises(InputError, match="have 5 tokens, too few for one window of 16"):
        tune(bridge("llama"), [[1, 2, 3, 4, 5]])


def test_an_active_intervention_is_refused():
    model = bridge("llama")
    with (
        model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda t, hook: t)]),
        pytest.raises(InputError, match="active"),
    ):
        tune(model)


def test_training_that_diverges_is_refused():
    with pytest.raises(InputError, match="Tuning diverged at step"):
        tune(bridge("llama"), penalty=None, learning_rate=1e200)
