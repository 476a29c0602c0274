"""What the records of a real model say, against the numbers in them."""

import numpy as np

from workbench.extreme import phases, waking_table
from workbench.papers.active_dormant.real_figures import (
    NAMED,
    PAIR,
    confirmed,
    real_heads,
    record,
    rounding,
    rounding_line,
)


def test_a_head_is_found_on_some_texts_and_confirmed_on_others():
    screen, other = record("screen"), confirmed()
    for found, tested in ((screen, 270), (other, 51)):
        one = found.sel(layer=NAMED[0], head=NAMED[1])
        assert bool(one["wakes"].sel(dormant_in="prose", active_in="code"))
        assert int(found["effect"].notnull().all("domain").sum()) == tested
        assert list(found["domain"].values) == list(PAIR) and found.sizes["sequence"] == 96
    again = phases(other.drop_dims(["pair", "score", "condition", "dormant_in", "active_in"]))
    np.testing.assert_array_equal(again["wakes"], other["wakes"])


def test_the_sentence_counts_the_heads_that_wake_again():
    table, other = waking_table(record("screen")), confirmed()["wakes"]
    again = [
        bool(other.sel({name: row[name].item() for name in ("dormant_in", "active_in", "layer", "head")}))
        for row in (table.isel(row=i) for i in range(table.sizes["row"]))
    ]
    sentence = real_heads().sentence
    assert f"{len(again)} heads wake (all 270 heads measured, 96 texts per domain)" in sentence
    assert f"{sum(again)} of them wake again on as many other texts" in sentence
    assert "head 6 of layer 18 is dormant in prose, active in code (effect +0.0010 nats" in sentence


def test_what_rounding_costs_is_told_with_the_price_of_each_remedy_and_another_damage():
    found = record("rounding")
    added = found["quantized_loss_change"].sel(scheme="W16A8 per tensor").mean("domain")
    cost = dict(zip(found["remedy"].values, added.values, strict=True))
    line = rounding_line(found)
    assert f"{cost['no attention to the sink']:+.3f} without the sink" in line
    assert f"{cost['peak not made']:+.3f} without the peak" in line
    assert f"saves {1 - cost['peak not made'] / cost['none']:.0%} of it" in line
    assert f"has {cost['68 heads zero, least loss']:+.3f}." in line
    harmless = found.assign(quantized_loss_change=found["quantized_loss_change"].copy())
    harmless["quantized_loss_change"].loc[{"remedy": "no attention to the sink"}] = 0
    assert "taking away the sink saves 100%" in rounding_line(harmless)
    assert rounding().sentence.endswith("95 % intervals over texts.")
