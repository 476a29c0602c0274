"""What a planted head does is told exactly; relations and sums are their slow definitions."""

import numpy as np
import pytest
import torch

from tests.extreme.sleeper import BOS, A, P, T, sleeper, texts
from tests.extreme.test_ablation import twin
from tests.tiny import bridge, sequences
from workbench.errors import InputError
from workbench.extreme.head_explanation import RELATIONS, attention_maps, explain_head, relations


def test_the_sleeper_wakes_at_triggers_and_looks_at_the_payload():
    rows = texts(6, 24, True)
    found = explain_head(sleeper(), 0, 0, rows)
    assert found["waking"].values[0] == f"[{T}]" and float(found["waking_share"][0]) == 1
    assert found["attended"].values[0] == f"[{P}]" and float(found["attended_share"][0]) > 0.99
    triggers = [(i, n) for i, row in enumerate(rows) for n, t in enumerate(row) if t == T]
    assert found.attrs["awake_share"] == pytest.approx(len(triggers) / (6 * 23))
    assert found.attrs["mean_distance"] == pytest.approx(np.mean([n - 1 for _, n in triggers]), rel=0.02)
    assert set(found["token"].values) == {f"[{A}]"} and set(found["looked_at"].values) == {f"[{P}]"}
    assert (found["loss_change"] > 1).all() and found["context"].values[0].endswith(f"[{T}]")


def test_costs_are_those_of_the_twin():
    model, rows = bridge("qwen2"), sequences((9, 7))
    found = explain_head(model, 1, 2, rows, asleep=0.9, top=14)
    change = [twin(model, row, 1, [2]) - twin(model, row) for row in rows]
    order = sorted(((c, i, n) for i, row in enumerate(change) for n, c in enumerate(row)), reverse=True)
    np.testing.assert_allclose(found["loss_change"], [c for c, _, _ in order], atol=1e-9)
    assert list(zip(found["sequence"].values, found["position"].values, strict=True)) == [(i, n) for _, i, n in order]
    assert found.attrs["mean_loss_change"] == pytest.approx(np.mean([c.mean() for c in change]))


def test_shares_are_sums_over_awake_queries():
    model, rows = bridge("llama"), sequences((9, 7))
    found = explain_head(model, 1, 2, rows, asleep=0.3)
    share, awake = dict.fromkeys(RELATIONS, 0.0), 0
    for row in rows:
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([row]))
        pattern = cache["blocks.1.attn.hook_pattern"][0, 2].double().numpy()
        kind = relations(row, [f"[{t}]" for t in row], np.arange(len(row)) == 0)
        for q in range(1, len(row)):
            if pattern[q, 0] < 0.3:
                awake += 1
                for k in range(q + 1):
                    share[RELATIONS[kind[q, k]]] += pattern[q, k]
    assert 0 < awake < 14 and found.attrs["awake_share"] == pytest.approx(awake / 14)
    np.testing.assert_allclose(found["share"], np.array(list(share.values())) / awake, atol=1e-6)
    assert float(found["share"].sum()) == pytest.approx(1) and float(found["even"].sum()) == pytest.approx(1)


def test_each_relation_is_what_its_name_says():
    ids, words = [1, 8, 9, 5, 8, 5], ["<s>", "x", "y", ".", "x", "."]
    kind = relations(ids, words, np.arange(6) == 0)
    name = np.vectorize(RELATIONS.__getitem__)(kind)
    assert name[4].tolist()[:5] == ["sink", "the same", "after the same", "previous", "self"]
    assert name[5].tolist() == ["sink", "other", "other", "the same", "previous", "self"]
    assert name[2].tolist()[:3] == ["sink", "previous", "self"]
    assert relations([1, 5, 8, 9], ["<s>", "\n,", "x", "y"], np.arange(4) == 0)[3].tolist()[1] == 5


def test_maps_need_long_enough_texts():
    found = attention_maps(bridge("llama"), 1, 2, {"a": sequences((9,))[0], "b": sequences((8,))[0]}, max_tokens=8)
    assert found["pattern"].shape == (2, 8, 8) and found["token"].shape == (2, 8)
    np.testing.assert_allclose(found["pattern"].sum("key"), 1, atol=1e-6)
    with pytest.raises(InputError, match=r"have \{'b': 8\} tokens; give at least one, each of 9"):
        attention_maps(bridge("llama"), 1, 2, {"b": sequences((8,))[0]}, max_tokens=9)


@pytest.mark.parametrize(
    ("layer", "head", "rows", "match"),
    [
        (3, 0, [[4, 5]], "layer=3: the model has 3 layers, numbered 0 to 2"),
        (0, 4, [[4, 5]], "head=4: the model has 4 heads"),
        (0, -1, [[4, 5]], "head=-1: the model has 4 heads"),
        (0, 0, [[4]], "0 has 1 token"),
        (0, 0, [], "No texts"),
    ],
)
def test_what_cannot_be_explained_is_refused(layer, head, rows, match):
    with pytest.raises(InputError, match=match):
        explain_head(bridge("llama"), layer, head, rows)


def test_a_head_that_never_wakes_is_said():
    with pytest.raises(InputError, match=r"Layer 0, head 0 pays at least 50% .* at all 46 queries .* is never active"):
        explain_head(sleeper(), 0, 0, texts(2, 24, False))
    assert texts(1, 8, True)[0][:2] == [BOS, P]
