"""The table of remedies against a planted sink, slow definitions, and what the model cannot do."""

import copy
from importlib.metadata import version

import numpy as np
import pytest
import torch
import xarray as xr

from tests.extreme.planted import S, planted
from tests.interrupts import killed_before_piece, pieces
from tests.tiny import bridge, sequences, tiny
from tests.words import word_tokenizer
from workbench.errors import InputError, WorkbenchWarning
from workbench.extreme import remedies
from workbench.extreme.detect import extreme_tokens
from workbench.extreme.light_tuning import LightTuningRecipe
from workbench.extreme.quantize import Ranges, Scheme, quantized
from workbench.extreme.remedies import add_rows, compare_remedies, dormant_heads, without_peak
from workbench.extreme.remedy_evaluation import dialogues, material, sinks
from workbench.extreme.verdict import Thresholds
from workbench.models.load import load
from workbench.runs.results import open_result, save_result

SCHEMES = (Scheme(8, 8, "token"), Scheme(8, 8, "tensor"))
DOMAINS = {"prose": sequences([14] * 6), "code": sequences([20, 9, 14, 15, 16], seed=3)}
QUICK = {"length": 14, "recipes": (), "progress": False}


def plain(*sinks, length=24, start=0):
    """Plain tokens with S at some positions."""
    return [S if i in sinks else 3 + (i + start) % 3 for i in range(length)]


@pytest.fixture(scope="module")
def table():
    recipe = LightTuningRecipe("sink", level=0.1, steps=2, batch=2, window=12)
    with pytest.warns(WorkbenchWarning, match="shorter than 14 tokens are left out: 1 of 'code'"):
        return compare_remedies(bridge("llama"), DOMAINS, **(QUICK | {"recipes": (recipe,), "schemes": SCHEMES}))


@pytest.fixture
def few(monkeypatch):
    """Only four cheap rows, where the table is not what is tested."""
    cheap, rows = (
        remedies.inference_remedies,
        ("none", "no attention to the sink", "values of the sink zero", "sink token removed"),
    )
    monkeypatch.setattr(
        remedies, "inference_remedies", lambda *given: [row for row in cheap(*given) if row.name in rows]
    )
    monkeypatch.setattr(remedies, "dormant_heads", lambda *given: {})


@pytest.fixture(scope="module")
def cured():
    """Every remedy on the model with a planted sink, at position 3 of half of the texts and 5 of the others."""
    model = copy.deepcopy(planted())
    model.original_model.model.layers[0].self_attn.v_proj.weight.data += 1
    texts = {"text": [plain(3 + 2 * (i // 2 % 2), start=i) for i in range(8)]}
    options = {"length": 24, "schemes": SCHEMES, "window": 10, "keep_first": 6, "dormant_share": 0.17}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remedies, "dormant_heads", lambda *given: {})
        return compare_remedies(model, texts, **(QUICK | options)).isel(domain=0)


def loss_of(model, ids, first, hooks=()):
    with torch.no_grad(), model.hooks(fwd_hooks=list(hooks)):
        logits = model(torch.tensor([ids]))[0, first:-1].double()
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[first + 1 :])))


def test_a_further_remedy_stops_the_peak_where_it_is_made(few):
    texts = [plain(0, start=i) for i in range(4)]
    remedy = without_peak(planted(), texts)
    assert remedy.chosen.startswith("MLP of layer 0, after which the first token is 500 times as long")
    table = compare_remedies(planted(), {"text": texts}, more=[remedy], **(QUICK | {"length": 24, "schemes": ()}))
    peak = table["peak_ratio"].isel(domain=0)
    assert float(peak.sel(remedy="none")) > 300 and float(peak.sel(remedy="peak not made")) < 2
    assert table["chosen"].sel(remedy="peak not made").item() == remedy.chosen


# Numbers against slow definitions.


def test_losses_are_those_of_the_model_from_the_second_token_behind_the_sink(table):
    for domain, rows in DOMAINS.items():
        kept = [ids[:14] for ids in rows if len(ids) >= 14][::2][:2]
        keys = sinks(extreme_tokens(bridge("llama"), kept, progress=False))
        wanted = [loss_of(bridge("llama"), ids, key + 1) for ids, key in zip(kept, keys, strict=True)]
        np.testing.assert_allclose(table["loss"].sel(remedy="none", domain=domain)[:2], wanted, rtol=1e-6)


def test_zeroed_heads_lose_what_hooks_on_z_lose(table):
    row = next(name for name in table.remedy.values if name.endswith("least loss"))
    heads = [
        tuple(map(int, pair.split("."))) for pair in str(table.chosen.sel(remedy=row).item()).split(": ")[1].split(", ")
    ]
    assert len(heads) == 3, "a quarter of twelve"

    def zero(layer):
        def hook(z, hook):
            z = z.clone()
            z[:, :, [head for at, head in heads if at == layer]] = 0
            return z

        return hook

    ids = DOMAINS["prose"][0]
    key = int(sinks(extreme_tokens(bridge("llama"), [ids], progress=False))[0])
    wanted = loss_of(bridge("llama"), ids, key + 1, [(f"blocks.{i}.attn.hook_z", zero(i)) for i in range(3)])
    assert float(table["loss"].sel(remedy=row, domain="prose")[0]) == pytest.approx(wanted, rel=1e-6)


def test_rounding_errors_are_those_of_the_rounded_model(table):
    model, ids = bridge("llama"), [rows[:14] for rows in DOMAINS["prose"][::2]]
    keys = sinks(extreme_tokens(model, ids, progress=False))
    ranges = Ranges(model)
    with ranges.observing():
        for domain in DOMAINS.values():
            model(torch.tensor([rows[:14] for rows in domain if len(rows) >= 14][::2][:2]))
    with quantized(model, SCHEMES[1], ranges):
        low = [model(torch.tensor([rows]))[0].double() for rows in ids[:2]]
        losses = [loss_of(model, rows, key + 1) for rows, key in zip(ids[:2], keys, strict=False)]
    errors = []
    for rows, logits, key in zip(ids[:2], low, keys, strict=False):
        full = model(torch.tensor([rows]))[0].double()
        full, logits = ((x - x.mean(-1, keepdim=True))[key + 1 : -1] for x in (full, logits))
        errors.append(((logits - full).norm(dim=-1) / full.norm(dim=-1)).mean())
    found = table.sel(remedy="none", domain="prose", scheme="W8A8 per tensor")
    np.testing.assert_allclose(found["quantized_loss"], losses, rtol=1e-6)
    assert float(found["logit_error"]) == pytest.approx(float(np.mean(errors)), rel=1e-5)
    assert 0 < float(found["stream_error"]) < 0.5


def test_changes_are_means_over_sequences_with_intervals(table):
    change = table["loss"] - table["loss"].sel(remedy="none")
    np.testing.assert_allclose(table["loss_change"], change.mean("sequence"), atol=1e-12)
    assert bool((table["loss_change_low"] <= table["loss_change"] + 1e-12).all())
    assert bool((table["loss_change"] <= table["loss_change_high"] + 1e-12).all())
    rounding = (table["quantized_loss"] - table["loss"]).mean("sequence")
    np.testing.assert_allclose(table["quantized_loss_change"].transpose(*rounding.dims), rounding, atol=1e-12)


def test_domains_are_compared_at_one_length_and_number(table):
    assert table.attrs["length"] == 14 and table.sizes["sequence"] == 2 and table.attrs["n_sequences"] == 2
    assert table.domain.values.tolist() == ["prose", "code"]
    assert table.kind.values.tolist() == ["none", *["inference"] * 9, "tuning"]
    assert table.attrs["rounded_share"] == 1
    assert bool(table.drop_vars("drain_ratio").to_array().notnull().all()) and set(table.note.values) == {""}
    assert table.remedy[table.drain_ratio.isnull().all("domain")].values.tolist() == ["sink token removed"]


# A planted sink.


def test_the_sink_is_found_where_it_is():
    texts = [plain(3), plain(5, length=24), plain(0)]
    assert sinks(extreme_tokens(planted(), texts, progress=False)).tolist() == [3, 5, 0]


def test_the_planted_sink_peak_and_drain_are_in_the_first_row(cured):
    none = cured.sel(remedy="none")
    assert float(none.sink_rate) == pytest.approx(1 / 6), "one head of six"
    assert float(none.peak_ratio) == pytest.approx(500, rel=0.01)


def test_attention_taken_away_ends_the_sink_and_leaves_the_peak(cured):
    found = cured.sel(remedy="no attention to the sink")
    assert float(found.sink_rate) == 0 and float(found.peak_ratio) == pytest.approx(500, rel=0.01)
    weight = [float(cured.first_token_weight.sel(remedy=f"attention to the sink {b}")) for b in ("-2", "-5")]
    assert float(cured.first_token_weight.sel(remedy="none")) < weight[0] < weight[1], "others receive it"


def test_the_token_taken_away_ends_both_and_one_scale_for_all_tokens_fits_again(cured):
    none, found = cured.sel(remedy="none"), cured.sel(remedy="sink token removed")
    assert float(found.sink_rate) == 0 and float(found.peak_ratio) < 1.1
    assert float(none.stretch) > 20 * float(found.stretch)
    assert bool(found.drain_ratio.isnull()) and float(none.drain_ratio) < 1


def test_a_window_loses_the_sink_and_keeps_it_if_told_to(cured):
    lost, kept = (cured.sink_rate.sel(remedy=name) for name in ("window of 10", "window of 4 and first 6"))
    assert float(kept) >= float(cured.sink_rate.sel(remedy="none")) and float(lost) <= float(kept)


def test_what_costs_nothing_where_the_value_is_drained_costs_nothing(cured):
    assert float(abs(cured.loss_change.sel(remedy="values of the sink zero"))) < 1e-9


def test_dormant_heads_are_the_planted_one():
    found = dormant_heads(planted(), {"text": [plain(2), plain(3)]}, 0.17)
    assert found["most sink"][0] == [(1, 0)] and "sink weight 0.9" in found["most sink"][1]
    assert len(found["least loss"][0]) == 1 and found["least loss"][1].startswith("loss +")


def test_a_first_token_that_nothing_sees_receives_nothing(few):
    texts = {"text": [plain(0, start=i) for i in range(4)]}
    model = copy.deepcopy(planted())
    model.original_model.model.layers[0].self_attn.v_proj.weight.data += 1
    weight = compare_remedies(model, texts, schemes=(), **(QUICK | {"length": 24})).first_token_weight[:, 0]
    assert float(weight.sel(remedy="none")) > 0.2 and float(weight.sel(remedy="no attention to the sink")) == 0


def test_removing_the_first_token_equals_hiding_it_where_positions_are_relative(few):
    found = compare_remedies(bridge("llama"), {"text": sequences([12] * 4)}, schemes=(), **(QUICK | {"length": 12}))
    if found.attrs["sink_positions"] == [0]:
        hidden, removed = (found["loss"].sel(remedy=r) for r in ("no attention to the sink", "sink token removed"))
        np.testing.assert_allclose(hidden, removed, rtol=1e-6)
    assert "quantized_loss" not in found and "logit_error" not in found


# Running.


def test_batches_change_nothing(table, few):
    with pytest.warns(WorkbenchWarning, match="left out"):
        found = compare_remedies(bridge("llama"), DOMAINS, batch_size=1, **(QUICK | {"schemes": SCHEMES}))
    same = table.sel(remedy=found.remedy).drop_vars("seconds")
    xr.testing.assert_allclose(found.drop_vars("seconds").drop_attrs(), same.drop_attrs(), atol=1e-6)


def test_a_stopped_run_goes_on_where_it_was(tmp_path, few):
    texts, file = {"text": sequences([12] * 4)}, tmp_path / "table.nc"
    options = QUICK | {"length": 12, "schemes": SCHEMES[:1], "resume": str(file)}
    with killed_before_piece(2):
        compare_remedies(bridge("llama"), texts, **options)
    with pieces() as computed:
        found = compare_remedies(bridge("llama"), texts, **options)
    assert len(computed) == 2, "two rows of four were on disk"
    xr.testing.assert_identical(open_result(file).drop_attrs(), found.drop_attrs())
    with pytest.raises(InputError, match="another configuration"):
        compare_remedies(bridge("llama"), texts, **(options | {"biases": (-1.0,)}))
    with pytest.raises(InputError, match=r"\(thresholds: .*Thresholds\(.* there, .*Thresholds\(.* now\)"):
        compare_remedies(bridge("llama"), texts, **(options | {"thresholds": Thresholds(sink_weight=0.5)}))


def test_what_a_model_does_not_allow_is_a_row_of_nan_with_the_reason(few):
    with pytest.warns(WorkbenchWarning, match="is left out: GPTJForCausalLM ignores what is written at hook_pattern"):
        found = compare_remedies(bridge("gptj"), {"text": sequences([12] * 4)}, schemes=(), **(QUICK | {"length": 12}))
    missing = found["loss_change"].isnull().all("domain")
    assert found.remedy[missing].values.tolist() == ["no attention to the sink"]
    assert [bool(note) for note in found.note.values] == missing.values.tolist()
    assert not bool(missing.sel(remedy="sink token removed"))


@pytest.mark.skipif(not version("transformer-lens").startswith("3.9"), reason="HookedTransformer needs 3.9")
@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
def test_a_hookedtransformer_is_compared_without_rounding(few):
    model, texts = load(tiny("llama"), backend="hooked"), {"text": sequences([12] * 4)}
    found = compare_remedies(model, texts, schemes=(), **(QUICK | {"length": 12}))
    wanted = compare_remedies(bridge("llama"), texts, schemes=(), **(QUICK | {"length": 12}))
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-5)
    with pytest.raises(InputError, match="keeps its weights by head"):
        compare_remedies(model, texts, **(QUICK | {"length": 12}))


def test_no_texts_mean_dialogues():
    model = load(tiny("llama"), tokenizer=word_tokenizer())
    found = dialogues(model, 2)
    assert (
        len(found) == 2 and min(map(len, found)) > 128 and found == dialogues(model, 2) != dialogues(model, 2, seed=1)
    )
    texts = material(model, None, 32, 2, "text")
    assert list(texts.measured) == ["dialogue"] and len(texts.aside["dialogue"]) == 2
    assert all(len(ids) == 32 for ids in texts.every) and len(texts.aside["dialogue"][0]) > 128


# Rows from elsewhere.


def test_rows_measured_elsewhere_join_the_table(table, tmp_path):
    rows = {"SGD": {"sink_rate": 0.1, "loss_change": 0.2, "logit_error": {"W8A8 per token": 0.01}, "stretch": 3.0}}
    found = add_rows(table, rows, domain="bigrams")
    assert found.domain.values.tolist() == ["prose", "code", "bigrams"]
    new = found.sel(remedy="SGD")
    assert float(new.sink_rate.sel(domain="bigrams")) == 0.1 and bool(new.sink_rate.sel(domain="prose").isnull())
    assert float(new.logit_error.sel(domain="bigrams", scheme="W8A8 per token")) == 0.01
    assert float(new.stretch) == 3.0 and new.kind.item() == "retraining"
    old = found.sel(remedy=table.remedy, domain=table.domain)
    xr.testing.assert_equal(old.drop_attrs(), table.drop_attrs())
    assert found.attrs == table.attrs
    save_result(found, tmp_path / "rows.nc")
    xr.testing.assert_equal(open_result(tmp_path / "rows.nc"), found)


@pytest.mark.parametrize(
    ("rows", "options", "match"),
    [
        ({}, {}, "No rows were given"),
        ({"none": {}}, {}, "has a row 'none' already"),
        ({"SGD": {"sink": 0.1}}, {}, "no variable 'sink'; did you mean"),
        ({"SGD": {"loss": 0.1}}, {}, "no variable 'loss'"),
        ({"SGD": {"logit_error": {"W2A2": 0.1}}}, {}, "no scheme 'W2A2' in the table"),
        ({"SGD": {}}, {"kind": "magic"}, "kind='magic' is unknown"),
    ],
)
def test_rows_that_do_not_fit_are_refused(table, rows, options, match):
    with pytest.raises(InputError, match=match):
        add_rows(table, rows, domain="bigrams", **options)


@pytest.mark.parametrize(
    ("domains", "options", "match"),
    [
        ({}, {}, "Give texts by domain"),
        ({"a": [[1, 2, 3]] * 9}, {}, "Domain 'a' has 0 texts of at least 14 tokens and needs 4"),
        ({"a": []}, {}, "Domain 'a': No texts"),
        (DOMAINS, {"length": 3}, "length=3.* n_sequences=16"),
        (DOMAINS, {"n_sequences": 1}, "length=14.* n_sequences=1: give"),
        (DOMAINS, {"window": 4}, "A window of 4 keys of which the first 4 are kept"),
        (DOMAINS, {"dormant_share": 0.0}, "dormant_share=0.0 of 12 heads is 0 heads"),
        (DOMAINS, {"dormant_share": 1.0}, "dormant_share=1.0"),
    ],
)
@pytest.mark.filterwarnings("ignore:Texts shorter than")
def test_what_cannot_be_compared_is_refused(domains, options, match):
    with pytest.raises(InputError, match=match):
        compare_remedies(bridge("llama"), domains, **(QUICK | {"schemes": ()} | options))


def test_an_active_intervention_is_refused():
    hook = ("blocks.0.hook_mlp_out", lambda out, hook: out)
    with bridge("llama").hooks(fwd_hooks=[hook]), pytest.raises(InputError, match="would be in every row"):
        compare_remedies(bridge("llama"), DOMAINS, **QUICK)
