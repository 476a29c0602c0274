"""Detectors against a planted answer and against slow definitions on every kind of architecture."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.extreme.planted import LOGIT, S, planted
from tests.tiny import bridge, sequences
from workbench.errors import InputError
from workbench.extreme import (
    Thresholds,
    by_regime,
    by_token,
    classify_tokens,
    extreme_tokens,
    regimes,
    top_sinks,
)
from workbench.extreme.verdict import FIRST
from workbench.models.anatomy import anatomy
from workbench.models.forward import hooked, run

FAMILIES = ["llama", "mistral", "gemma2", "olmo2", "gpt2", "gpt_neox", "gptj", "granite"]
MEASURES = ["sink_weight", "sink_logit", "value_norm", "head_value_norm", "residual_norm", "embed_norm", "queries"]


def measure(model, texts, **options):
    return extreme_tokens(model, texts, progress=False, **options)


def text(*sinks, length=24):
    """Plain tokens with S at some positions."""
    return [S if i in sinks else 3 + i % 3 for i in range(length)]


# A planted answer.


@pytest.mark.parametrize("where", [0, 5])
def test_a_planted_extreme_token_is_found_exactly_where_it_is(where):
    found = measure(planted(), [text(where)])
    for name in ("sink", "drained", "extreme"):
        assert np.argwhere(found[name].values[0]).tolist() == [[1, where]], name
    assert np.argwhere(found.peaked.values[0]).tolist() == [[0, where], [1, where]], "the last layer takes it away"
    rows = regimes(found)
    assert rows.to_dataframe()[["sequence", "position", "first_layer", "last_layer"]].values.tolist() == [
        [0, where, 1, 1]
    ]
    assert rows.token.item() == f"[{S}]" and float(rows.drain.item()) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(rows.peak, math.sqrt(250001), rtol=1e-6)


def test_per_token_ratios_are_norms_over_the_median_of_the_others():
    found = measure(planted(), [text(5)])
    others = [i for i in range(1, 24) if i != 5]
    norm, value = found.residual_norm.values[0], found.head_value_norm.values[0]
    np.testing.assert_allclose(found.peak[0], norm / np.median(norm[:, others], axis=1, keepdims=True))
    relative = value[1] / np.median(value[1][:, others], axis=1, keepdims=True)
    np.testing.assert_allclose(found.drain[0, 1], np.median(relative, axis=0))


def with_values(found, **values):
    """A result with some measures replaced, judged again."""
    return classify_tokens(found.assign({name: found[name].copy(data=v) for name, v in values.items()}))


def test_tokens_of_other_layers_and_regimes_don_t_count_in_a_layer():
    """The first token peaks 9 times and then 100 times; token 5 shares the first regime alone."""
    found = measure(planted(), [text(0)])
    weight, norm, value = (found[n].values.copy() for n in ("sink_weight", "residual_norm", "head_value_norm"))
    embed = np.ones_like(found.embed_norm.values)
    weight[:], norm[:], value[:] = 0.1, 1.0, 1.0
    for layer, tokens in ((1, (0, 5)), (2, (0,))):
        weight[0, layer, :, tokens], value[0, layer, :, tokens] = 0.9, 0.1
    norm[0, :, 0], norm[0, 0, 5] = (9.0, 100.0, 100.0), 8.0
    judged = with_values(found, sink_weight=weight, residual_norm=norm, head_value_norm=value, embed_norm=embed)
    assert np.argwhere(judged.extreme.values[0]).tolist() == [[1, 0], [1, 5], [2, 0]]
    assert judged.peak_ratio.values.tolist() == [8.5, 100.0, 100.0]
    apart = weight.copy()
    apart[0, 1], norm[0, 0, 0] = 0.1, 1.0
    judged = with_values(found, sink_weight=apart, residual_norm=norm, head_value_norm=value, embed_norm=embed)
    assert judged.peak_ratio[1:].values.tolist() == [100.0, 100.0]
    table = by_token(judged)
    assert float(table.sel(token=FIRST).extreme) == 1
    assert (table.sel(token="[5]").drained, table.sel(token="[5]").extreme) == (1 / 8, 0), "drained and long, no sink"


def test_a_token_may_have_two_regimes_and_first_tokens_are_pooled():
    found = measure(planted(), [text(0), [1, *text()[1:]]])
    weight, norm, value = (
        np.repeat(found[n].values, 3, axis=1) for n in ("sink_weight", "residual_norm", "head_value_norm")
    )
    weight[:], norm[:], value[:] = 0.1, 1.0, 1.0
    for layer in (1, 2, 5, 6, 7):
        weight[:, layer, :, 0], value[:, layer, :, 0], norm[:, layer - 1, 0] = 0.9, 0.1, 10.0 * layer
    weight[1, 6, :, 0] = 0.1
    weight[0, 2, :, 6], value[0, 2, :, 6], norm[0, 1, 6] = 0.9, 0.2, 5.0
    wide = xr.Dataset(
        {
            "sink_weight": (("sequence", "layer", "head", "position"), weight),
            "residual_norm": (("sequence", "layer", "position"), norm),
            "head_value_norm": (("sequence", "layer", "head", "position"), value),
            "value_norm": (("sequence", "layer", "kv_head", "position"), value[:, :, :1]),
            "queries": (("sequence", "layer", "position"), np.repeat(found.queries.values, 3, axis=1)),
            "embed_norm": found.embed_norm * 0 + 1,
        },
        found.coords,
    )
    judged = classify_tokens(wide)
    rows = regimes(judged).to_dataframe()[["sequence", "position", "first_layer", "last_layer"]].values.tolist()
    assert rows == [[0, 0, 1, 2], [0, 0, 5, 7], [0, 6, 2, 2], [1, 0, 1, 2], [1, 0, 5, 7]]
    pooled = by_regime(judged)
    assert pooled.token.values.tolist() == [FIRST, str(found.token.values[0, 6]), FIRST]
    assert pooled.texts.values.tolist() == [2, 1, 2] and pooled.last_layer.values.tolist() == [2, 2, 7]
    assert pooled.peak.values.tolist() == [20.0, 5.0, 70.0]
    assert pooled.occur[1] == (found.token.values == found.token.values[0, 6])[:, 1:].sum()


def test_in_short_texts_only_the_first_token_is_judged_and_not_by_its_own_query():
    long, short = measure(planted(), [text(0, 5, length=13)]), measure(planted(), [text(0, 5, length=12)])
    assert np.flatnonzero(long.sink.values[0].any(0)).tolist() == [0, 5], "eight queries see the sixth of thirteen"
    assert np.flatnonzero(short.sink.values[0].any(0)).tolist() == [0]
    assert measure(planted(), [text(0, length=8)]).extreme.values[0, 1].tolist() == [True] + [False] * 7
    assert not bool(measure(planted(), [text(0, length=7)]).sink.any()), "too few queries even for the first token"
    even = measure(planted(), [text(length=8)])
    assert float(even.sink_weight[0, 1, 0, 0]) > 0.3, "even attention, with the query that sees nothing else"
    assert not bool(even.sink.any())


def test_planted_sizes_are_measured():
    found = measure(planted(), [text(0)]).isel(sequence=0)
    n = 24
    sink = [math.exp(LOGIT) / (math.exp(LOGIT) + q) for q in range(1, n)]
    np.testing.assert_allclose(found.sink_weight[1, 0, 0], (sum(sink) + 1) / n, rtol=1e-7)
    np.testing.assert_allclose(found.sink_weight[1, 1, 0], sum(1 / q for q in range(1, n + 1)) / n, rtol=1e-9)
    np.testing.assert_allclose(found.sink_logit[1, 0, 0], LOGIT, rtol=1e-6)
    np.testing.assert_allclose(found.sink_logit[1, 1, :-1], 0, atol=1e-9)
    assert bool(found.sink_logit[1, :, -1].isnull().all()), "no query comes after the last token"
    np.testing.assert_allclose(found.residual_norm[:, 0], [math.sqrt(250001), math.sqrt(250001), 1], rtol=1e-6)
    np.testing.assert_allclose(found.head_value_norm[1, :, 1], [4, 8], rtol=1e-6)
    np.testing.assert_allclose(found.head_value_norm[1, :, 0], 0, atol=1e-12)
    np.testing.assert_allclose(found.value_norm[1, 0, 1], 6, rtol=1e-6)
    assert found.peak_position.values.tolist()[:2] == [0, 0]
    assert found.peak_coordinate[0, :3].values.tolist() == [5, 3, 15]
    np.testing.assert_allclose(found.peak_value[0, :2], [-400, 300], rtol=1e-6)
    np.testing.assert_allclose(found.peak_share[0, :2], [160000 / 250001, 90000 / 250001], rtol=1e-6)


def test_planted_ratios_and_rates_are_aggregated():
    found = measure(planted(), [text(0), text(4)])
    assert found.sink_rate[1].values.tolist() == [1, 0]
    assert found.first_token_sink_rate[1].values.tolist() == [0.5, 0]
    np.testing.assert_allclose(found.drain_ratio[1, 0], 0, atol=1e-12)
    np.testing.assert_allclose(found.peak_ratio[0], math.sqrt(250001), rtol=1e-6)
    assert found.peak_ratio[2] < 1.01
    assert found.peak_ratio_max[0] == pytest.approx(math.sqrt(250001), rel=1e-6)
    assert top_sinks(found, 1)[:, 1, 0, 0].values.tolist() == [0, 4]


def test_several_sinks_share_the_attention_and_are_all_found():
    found = measure(planted(), [text(0, 6)], thresholds=Thresholds(sink_weight=0.25))
    assert np.flatnonzero(found.extreme.values[0].any(0)).tolist() == [0, 6]
    assert by_token(found).sel(token=[FIRST, f"[{S}]"]).extreme.values.tolist() == [1, 1]


def test_tokens_are_counted_by_their_text_with_the_first_apart():
    found = measure(planted(), [text(0, 6), text(4, length=12)], thresholds=Thresholds(sink_weight=0.25))
    names = ["sink", "drained", "peaked", "extreme"]
    seen = {}
    for i, length in enumerate((24, 12)):
        for p in range(length):
            one = found.isel(sequence=i, position=p)
            numbers = [float(one[name].any("layer")) for name in names] + [float(one["sink_weight"].mean())]
            seen.setdefault("first token" if p == 0 else one["token"].item(), []).append(numbers)
    table = by_token(found)
    assert sorted(table["token"].values) == sorted(seen)
    assert {"first token", f"[{S}]"} < set(seen), "one text begins with a token that is an interior one elsewhere"
    for name, rows in seen.items():
        row = table.sel(token=name)
        assert row["count"] == len(rows)
        np.testing.assert_allclose([float(row[n]) for n in [*names, "sink_weight"]], np.mean(rows, 0), rtol=1e-6)


def test_each_text_is_judged_alone_and_padding_is_nobody():
    found = measure(planted(), [text(3, length=30), text(2, length=12), text(length=20)])
    assert [np.flatnonzero(row.any(0)).tolist() for row in found.extreme.values] == [[3], [2], []]
    for name in ("sink_weight", "sink_logit", "value_norm", "residual_norm"):
        assert bool(found[name].isel(sequence=1, position=slice(12, None)).isnull().all())
    assert bool((found.queries.isel(sequence=1, position=slice(12, None)) == 0).all())


def test_thresholds_are_in_the_result_and_can_be_changed_afterwards():
    found = measure(planted(), [text(0)])
    assert (found.attrs["threshold_sink_weight"], found.attrs["threshold_peak"]) == (0.3, 3.0)
    again = classify_tokens(found, Thresholds(peak=1e4))
    assert not bool(again.peaked.any() or again.extreme.any())
    assert bool(again.sink.any())
    assert again.attrs["threshold_peak"] == 1e4
    xr.testing.assert_equal(classify_tokens(again), found)


# Slow definitions.


def slow(model, ids):
    """Every measure by loops over queries and keys, from TransformerLens's activations."""
    parts, kept = anatomy(model), {}
    words = ("attn.hook_pattern", "attn.hook_v", "hook_resid_post")
    names = [f"blocks.{layer}.{word}" for layer in range(parts.n_layers) for word in words]
    with torch.no_grad(), hooked(model, {n: lambda t, n=n: kept.__setitem__(n, t.clone().double()) for n in names}):
        run(model, torch.tensor([ids]))
    n = len(ids)
    weight = np.full((parts.n_layers, parts.n_heads, n), np.nan)
    logit, value = weight.copy(), weight.copy()
    unattended = np.zeros((parts.n_layers, parts.n_heads))
    for layer in range(parts.n_layers):
        pattern, v, _ = (kept[f"blocks.{layer}.{word}"][0] for word in words)
        w_o = parts.blocks[layer].w_o().detach()
        for head in range(parts.n_heads):
            a = pattern[head].numpy()
            unattended[layer, head] = np.mean([1 - sum(a[q]) for q in range(n)])
            for j in range(n):
                queries = [q for q in range(j, n) if a[q, j] > 0]
                weight[layer, head, j] = np.mean([a[q, j] for q in queries])
                differences = []
                for q in queries:
                    others = [k for k in range(q) if k != j and a[q, k] > 0]
                    if q != j and others:
                        differences.append(np.log(a[q, j]) - np.mean([np.log(a[q, k]) for k in others]))
                logit[layer, head, j] = np.mean(differences) if differences else np.nan
                value[layer, head, j] = (v[j, head // parts.group_size] @ w_o[head].double()).norm()
    resid = np.stack([kept[f"blocks.{layer}.hook_resid_post"][0].norm(dim=-1) for layer in range(parts.n_layers)])
    return weight, logit, value, resid, unattended


@pytest.mark.parametrize("family", FAMILIES)
def test_measures_equal_their_definitions(family):
    model, texts = bridge(family), sequences((9, 6))
    found = measure(model, texts, chunk=4)
    for i, ids in enumerate(texts):
        row = found.isel(sequence=i, position=slice(len(ids)))
        weight, logit, value, resid, unattended = slow(model, ids)
        np.testing.assert_allclose(row.sink_weight, weight, atol=2e-6)
        np.testing.assert_allclose(row.sink_logit, logit, atol=2e-5)
        np.testing.assert_allclose(row.head_value_norm, value, rtol=1e-6)
        np.testing.assert_allclose(row.residual_norm, resid, rtol=1e-5)
        np.testing.assert_allclose(row.unattended, unattended, atol=2e-6)
        group = value.reshape(3, -1, anatomy(model).group_size, len(ids)).mean(2)
        np.testing.assert_allclose(row.value_norm, group, rtol=1e-6)


def test_attention_on_no_token_is_what_a_learned_sink_takes():
    model, texts = bridge("gpt_oss", torch.float32), sequences((9, 6))
    found = measure(model, texts, chunk=4)
    for i, ids in enumerate(texts):
        unattended = slow(model, ids)[-1]
        assert unattended.min() > 0.05
        np.testing.assert_allclose(found.unattended[i], unattended, atol=2e-6)


@given(chunk=st.integers(1, 12), lengths=st.lists(st.integers(2, 11), min_size=1, max_size=3))
@settings(max_examples=15)
def test_neither_chunks_nor_batches_change_anything(chunk, lengths):
    model, texts = bridge("mistral"), sequences(lengths)
    together = measure(model, texts, chunk=chunk, batch_size=3)
    for i, ids in enumerate(texts):
        alone = measure(model, [ids], batch_size=1).isel(sequence=0)
        row = together.isel(sequence=i, position=slice(len(ids)))
        for name in MEASURES:
            np.testing.assert_allclose(row[name], alone[name], atol=1e-6, err_msg=name)


def test_left_and_right_padding_give_the_same_numbers():
    model, texts = bridge("llama"), sequences((8, 5))
    left = torch.tensor([texts[0], [0, 0, 0, *texts[1]]])
    right = torch.tensor([texts[0], [*texts[1], 0, 0, 0]])
    found = [
        measure(model, left, mask=torch.tensor([[1] * 8, [0] * 3 + [1] * 5])),
        measure(model, right, mask=torch.tensor([[1] * 8, [1] * 5 + [0] * 3])),
        measure(model, texts),
    ]
    for other in found[1:]:
        xr.testing.assert_equal(found[0], other)


# Inputs that need an answer.


def test_a_text_of_one_token_is_refused():
    with pytest.raises(InputError, match="Text 1 has one token"):
        measure(bridge("llama"), [[3, 4], [5]])


def test_no_texts_are_refused():
    with pytest.raises(InputError, match="No texts: the list is empty"):
        measure(bridge("llama"), [])


def test_a_stream_that_is_not_finite_is_refused():
    model = planted()
    broken = torch.tensor(float("nan"), dtype=torch.float64)
    with (
        hooked(model, {"blocks.1.hook_mlp_out": lambda t: t * broken}),
        pytest.raises(InputError, match="not finite after layer 1"),
    ):
        measure(model, [text(0)])


@pytest.mark.parametrize("wrong", [{"sink_weight": 0.0}, {"sink_heads": 1.5}, {"min_queries": 0}, {"peak": -1.0}])
def test_thresholds_that_say_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="must"):
        Thresholds(**wrong)


def test_a_model_without_attention_is_refused():
    with pytest.raises(InputError, match="no attention heads"):
        measure(bridge("mamba"), [[3, 4, 5]])
