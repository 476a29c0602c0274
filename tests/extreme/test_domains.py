"""Domains are cut alike, attention on the sink is its slow definition, and a planted sleeper is found."""

import datasets
import numpy as np
import pytest
import torch
import xarray as xr

from tests.extreme.planted import S, planted
from tests.extreme.sleeper import BOS, P, sleeper, texts
from tests.tiny import bridge, sequences, tiny
from tests.words import word_tokenizer
from workbench.errors import InputError, WorkbenchWarning
from workbench.extreme import ablation
from workbench.extreme.ablation import zeroing_sweep
from workbench.extreme.domains import active_dormant, domain_sequences, sink_attention, sink_mask
from workbench.extreme.dormancy import Limits, phases, waking_sentences
from workbench.models.load import load

QUICK = Limits(n_permutations=200)


def slow_sink_attention(model, tokens, sinks):
    """From materialised patterns, query by query."""
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([tokens]))
    found = np.zeros((3, 4))
    for layer in range(3):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0].double().numpy()
        for head in range(4):
            asked = [q for q in range(len(tokens)) if q not in sinks and q > min(sinks)]
            found[layer, head] = np.mean([sum(pattern[head, q, s] for s in sinks) for q in asked])
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bloom"])
@pytest.mark.parametrize("sinks", [(0,), (0, 4), (3,)])
def test_attention_on_the_sink_is_its_slow_definition(family, sinks):
    rows, model = sequences((11, 11, 11)), bridge(family)
    found = sink_attention(model, rows, sink_mask(model, rows, list(sinks)))
    wanted = [slow_sink_attention(model, row, sinks) for row in rows]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_queries_that_a_window_keeps_from_the_sink_are_not_asked():
    rows, model = sequences((11,)), bridge("mistral")
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(rows))
    pattern = cache["blocks.1.attn.hook_pattern"][0].double().numpy()
    found = sink_attention(model, rows, sink_mask(model, rows, "first"))
    np.testing.assert_allclose(found[0, 1], pattern[:, 1:6, 0].mean(1), atol=1e-6)


def test_extreme_tokens_are_the_sinks_where_there_are_any():
    plain = [1, 11, 12, 13, 14, 15, 16, 17, 18, 19, 11, 12]
    extreme = [*plain[:3], S, *plain[4:]]
    mask = sink_mask(planted(), [extreme, plain], "extreme")
    assert mask[0].nonzero()[0].tolist() == [3]
    assert mask[1].nonzero()[0].tolist() == [0], "without an extreme token the first one stands in"


def test_the_sleeper_is_dormant_on_plain_texts_and_awake_at_triggers():
    domains = {"plain": texts(12, 24, False), "triggered": texts(12, 24, True, seed=1)}
    found = active_dormant(sleeper(), domains, length=24, limits=QUICK)
    assert waking_sentences(found).values.tolist() == [["dormant in plain, active in triggered", "not decided"]]
    assert found["phase"].sel(head=0, layer=0).values.tolist() == ["dormant", "active"]
    assert found["phase"].sel(head=1, layer=0).values.tolist() == ["idle", "idle"]
    plain, triggered = (found.sel(domain=name, layer=0, head=0) for name in domains)
    assert float(plain["sink"]) > 0.98 and abs(float(plain["effect"])) < 1e-3
    assert 0.5 < float(triggered["sink"]) < 0.85 and float(triggered["effect"]) > 0.3
    assert float(plain["dormant_share"]) == 1 and float(triggered["dormant_share"]) == 0
    test = found.sel(layer=0, head=0, score="loss_change").isel(pair=0)
    assert float(test["p_corrected"]) == pytest.approx(1 / 201)
    assert float(test["difference"]) == pytest.approx(float(plain["effect"] - triggered["effect"]))
    assert str(test["pair"].values) == "plain − triggered"


def test_other_texts_of_one_kind_are_told_apart_from_nothing():
    domains = {"one": texts(12, 24, True), "other": texts(12, 24, True, seed=1)}
    found = active_dormant(sleeper(), domains, length=24, limits=QUICK)
    assert waking_sentences(found).values.tolist() == [["active in all", "not decided"]]
    domains = {"one": texts(8, 24, False), "other": texts(8, 24, False, seed=1)}
    found = active_dormant(sleeper(), domains, length=24, limits=QUICK)
    assert waking_sentences(found).values.tolist() == [["dormant in all", "not decided"]]


def test_three_domains_are_compared_in_pairs():
    domains = {"a": texts(16, 24, False), "b": texts(16, 24, True), "c": texts(16, 24, False, seed=2)}
    found = active_dormant(sleeper(), domains, length=24, limits=QUICK)
    assert waking_sentences(found).values[0, 0] == "dormant in a, c, active in b"
    assert found["pair"].values.tolist() == ["a − b", "a − c", "b − c"]
    assert found["p_corrected"].sel(score="loss_change", layer=0, head=0, pair="a − b") == pytest.approx(3 / 201)


def test_numbers_are_those_of_the_sweep():
    domains = {"x": sequences((9,) * 4), "y": sequences((12,) * 5, seed=2)}
    found = active_dormant(bridge("qwen2"), domains, length=9, limits=QUICK, at_once=3)
    rows = [*domains["x"], *(row[:9] for row in domains["y"][:4])]
    sweep = zeroing_sweep(bridge("qwen2"), rows)
    change = found["loss_change"].transpose("domain", "sequence", "layer", "head").values.reshape(8, 3, 4)
    np.testing.assert_allclose(change, sweep["loss_change"].values, atol=1e-12)
    np.testing.assert_allclose(found["loss"].values.ravel(), sweep["loss"].values, atol=1e-12)
    assert found.sizes["sequence"] == 4 and found.attrs["n_sequences"] == 4 and found.attrs["length"] == 9


def test_a_group_sleeps_as_its_heads_do_on_average():
    domains = {"x": sequences((9,) * 4), "y": sequences((9,) * 4, seed=2)}
    heads = active_dormant(bridge("llama"), domains, length=9, limits=QUICK)
    groups = active_dormant(bridge("llama"), domains, length=9, unit="kv_group", limits=QUICK)
    mean = heads["sink_weight"].values.reshape(2, 4, 3, 2, 2).mean(-1)
    np.testing.assert_allclose(groups["sink_weight"].values, mean)
    assert groups["wakes"].dims[2:] == ("layer", "kv_group")


def test_domains_are_cut_to_one_length_and_number_and_what_is_short_is_said():
    model = load(tiny("llama"), tokenizer=word_tokenizer())
    word_list = ["the", "cat", "sat", "on", "a", "mat"]
    long = [" ".join(word_list * 3)] * 5
    domains = {"strings": [*long, "the cat"], "ids": sequences((12, 4, 12, 12, 12, 12, 12))}
    with pytest.warns(WorkbenchWarning, match="shorter than 10 tokens are left out: 1 of 'strings', 1 of 'ids'"):
        found, left_out = domain_sequences(model, domains, 10, None)
    assert left_out == {"strings": 1, "ids": 1}
    assert {len(rows) for rows in found.values()} == {5} and {len(r) for rows in found.values() for r in rows} == {10}
    assert found["strings"][0] == model.tokenizer(long[0])["input_ids"][:10]
    table = datasets.Dataset.from_dict({"body": long})
    with pytest.warns(WorkbenchWarning):
        cut, _ = domain_sequences(
            model, {"d": table, "s": datasets.Dataset.from_dict({"body": [*long, "a"]})}, 10, 4, "body"
        )
    assert len(cut["d"]) == 4 and cut["d"][0] == found["strings"][0]


def test_only_the_beginning_of_a_long_document_is_tokenized(monkeypatch):
    model = load(tiny("llama"), tokenizer=word_tokenizer())
    seen = []
    from workbench.extreme import domains as module

    real = module.token_sequences
    monkeypatch.setattr(
        module, "token_sequences", lambda m, t, **k: seen.append([len(x) for x in t]) or real(m, t, **k)
    )
    wide = "cat" + " " * 500 + " ".join(["dog"] * 50)
    found, _ = domain_sequences(model, {"a": ["a cat " * 10_000] * 4, "b": [wide] * 4}, 8, None)
    assert seen[0] == [256] * 4, "32 characters per token suffice"
    assert seen[2:] == [[len(wide)]] * 4, "what yields too few tokens is read whole"
    assert len(found["b"][0]) == 8


def test_a_stopped_run_goes_on_and_other_limits_need_no_new_run(tmp_path, monkeypatch):
    domains = {"plain": texts(6, 20, False), "triggered": texts(6, 20, True)}
    file, real, calls = str(tmp_path / "d.nc"), ablation.zeroed_losses, []

    def failing(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr("workbench.extreme.domains.zeroed_losses", failing)
    options = {"length": 20, "at_once": 4, "resume": file}
    with pytest.raises(KeyboardInterrupt):
        active_dormant(sleeper(), domains, limits=QUICK, **options)
    found = active_dormant(sleeper(), domains, limits=QUICK, **options)
    assert len(calls) == 4, "one of three groups was on disk"
    strict = active_dormant(sleeper(), domains, limits=Limits(asleep=0.999999, n_permutations=200), **options)
    assert len(calls) == 4
    assert (
        waking_sentences(found).values[0, 0].startswith("dormant")
        and waking_sentences(strict).values[0, 0] == "not decided"
    )
    with pytest.raises(InputError, match="another configuration"):
        active_dormant(sleeper(), domains, limits=QUICK, **(options | {"length": 19}))


def test_a_result_survives_the_disk_and_can_be_judged_again(tmp_path):
    from workbench.runs.results import open_result, save_result

    domains = {"plain": texts(6, 20, False), "triggered": texts(6, 20, True)}
    found = active_dormant(sleeper(), domains, length=20, limits=QUICK)
    back = open_result(save_result(found, tmp_path / "d.nc"))
    xr.testing.assert_allclose(phases(back, QUICK).drop_attrs(), found.drop_attrs())
    assert back.attrs["limit_negligible"] == 0.01 and back.attrs["sinks"] == "first"


GOOD = sequences((12,) * 4)


@pytest.mark.parametrize(
    ("domains", "options", "match"),
    [
        ({"x": GOOD}, {}, "needs at least two"),
        ({}, {}, "needs at least two"),
        ({"x": GOOD, "y": []}, {}, "Domain 'y': No texts: the list is empty"),
        ({"x": GOOD, "y": [[5]] * 4}, {}, "Domain 'y' has 0 texts of at least 12 tokens and needs 4; its 4 shorter"),
        ({"x": GOOD, "y": sequences((12, 3, 4, 5))}, {}, "has 1 texts of at least 12 tokens .* have at most 5"),
        ({"x": GOOD, "y": GOOD}, {"n_sequences": 5}, "Domain 'x' has 4 texts of at least 12 tokens and needs 5"),
        ({"x": GOOD, "y": GOOD}, {"n_sequences": 3}, "n_sequences=3 is too few"),
        ({"x": GOOD, "y": GOOD}, {"length": 2}, "length=2 leaves nothing"),
        ({"x": GOOD, "y": GOOD}, {"length": 129}, "length=129 is more than the model's context of 128 tokens"),
        ({"x": GOOD, "y": GOOD}, {"sinks": "last"}, "sinks='last' is unknown"),
        ({"x": GOOD, "y": GOOD}, {"sinks": [11]}, "give positions from 0 to 10"),
        ({"x": GOOD, "y": GOOD}, {"sinks": []}, "give positions from 0 to 10"),
        ({"x": GOOD, "y": GOOD}, {"unit": "layer"}, "unit='layer' cannot be zeroed"),
        ({"x": GOOD, "y": [[1, 99] * 6] * 4}, {}, "Domain 'y': Text 0 holds token id 99"),
    ],
)
def test_what_cannot_be_compared_is_refused(domains, options, match):
    with pytest.raises(InputError, match=match):
        active_dormant(bridge("llama"), domains, **({"length": 12} | options))


def test_the_planted_model_is_what_its_description_says():
    with torch.no_grad():
        _, cache = sleeper().run_with_cache(torch.tensor([[BOS, P, 7, 3, 5]]))
    pattern = cache["blocks.0.attn.hook_pattern"][0, 0]
    assert pattern[2, 0] > 0.99 and pattern[3, 1] > 0.99
