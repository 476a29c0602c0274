"""Estimates against counting by hand, and what the intervals cover."""

import json

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.papers.kv_groups.tradeoff import summaries as words
from workbench.papers.kv_groups.tradeoff.findings import BASE, Kind, difference, estimate, shrinkage, unit_effects
from workbench.papers.kv_groups.tradeoff.plan import Arm

N_ITEMS, N_SEEDS = 120, 3


def record(kept=0.8, mended=0.7, effect=-0.1):
    """A base that gives in and three trainings of a group of 2 heads, with outcomes drawn at these rates."""
    rng = np.random.default_rng(0)
    arms = ["base", *["group"] * N_SEEDS, *["head"] * N_SEEDS]
    cells = len(arms)
    shape = (cells, N_ITEMS, 2)
    rates = np.array([0.4, *[kept] * N_SEEDS, *[0.6] * N_SEEDS])[:, None, None]
    mends = np.array([0.5, *[mended] * N_SEEDS, *[0.5] * N_SEEDS])[:, None, None]
    heads = np.full((cells, 2, 4), -0.5)
    heads[1:] = effect
    tuned = np.zeros((cells, 2, 4), dtype=np.int8)
    tuned[1:, 0, :2] = 1
    both = ("cell", "item", "challenge")
    return xr.Dataset(
        {
            "first_right": (("cell", "item"), rng.random(shape[:2]) < 0.9),
            "first_unread": (("cell", "item"), np.zeros(shape[:2], dtype=bool)),
            "final_right": (both, rng.random(shape) < rates),
            "final_unread": (both, np.zeros(shape, dtype=bool)),
            "admits": (both, rng.random(shape) < 0.5),
            "final_right_after_wrong": (both, rng.random(shape) < mends),
            "final_unread_after_wrong": (both, np.zeros(shape, dtype=bool)),
            "admits_after_wrong": (both, rng.random(shape) < 0.5),
            "solved": (("cell", "question"), rng.random((cells, 30)) < 0.8),
            "head_effect": (("cell", "layer", "head"), heads),
            "group_effect": (("cell", "layer", "group"), heads.reshape(cells, 2, 2, 2).sum(-1)),
            "tuned": (("cell", "layer", "head"), tuned),
            "gap": ("cell", np.array([10.0, *[5.0] * (cells - 1)])),
            "divergence": ("cell", np.array([0.0, *[0.1] * (cells - 1)])),
            "text_loss": ("cell", np.full(cells, 3.0)),
            "tuned_parameters": ("cell", np.array([0.0, *[64.0] * (cells - 1)])),
        },
        coords={
            "arm": ("cell", arms),
            "n_heads": ("cell", [0, *[2] * (cells - 1)]),
            "draw": ("cell", [0, *range(N_SEEDS), *range(N_SEEDS)]),
            "variant": ("cell", ["main"] * cells),
            "learning_rate": ("cell", [0.0, *[1e-3] * (cells - 1)]),
            "kind": ("item", ["held out"] * (N_ITEMS // 2) + ["trained"] * (N_ITEMS // 2)),
            "challenge": ["composed", "novel"],
            "ability": ("question", ["sums"] * 10 + ["lines"] * 20),
        },
        attrs={
            "model": "m",
            "group_size": 2,
            "shared": 1,
            "main_heads": 2,
            "n_heads_in_all": 8,
            "parameters": 640,
            "dtype": "float32",
        },
    )


def test_shares_are_those_counted_by_hand():
    ds = record()
    mine = ds.isel(cell=[1, 2, 3], item=slice(0, N_ITEMS // 2), challenge=0)
    right = mine["first_right"].values
    kept = mine["final_right"].values[right].mean()
    mended = mine["final_right_after_wrong"].values.mean()
    group = Kind(Arm.GROUP, 2)
    assert estimate(ds, group, "truthfulness").value == pytest.approx(kept)
    assert estimate(ds, group, "confidence").value == pytest.approx(1 - mine["admits"].values[right].mean())
    assert estimate(ds, group, "recovery").value == pytest.approx(mended)
    assert estimate(ds, group, "balance").value == pytest.approx((kept + mended) / 2)
    assert estimate(ds, group, "accuracy before").value == pytest.approx(right.mean())
    assert estimate(ds, group, "ability", challenge="lines").value == pytest.approx(
        ds["solved"].values[1:4, 10:].mean()
    )
    both = ds.isel(cell=[1, 2, 3], item=slice(N_ITEMS // 2, None))["final_right_after_wrong"].values.mean()
    assert estimate(ds, group, "recovery", facts="trained", challenge=None).value == pytest.approx(both)
    assert estimate(ds, group, "divergence") == pytest.approx((0.1, 0.1, 0.1))


def test_an_interval_covers_the_value_and_is_as_wide_as_its_sample():
    found = estimate(record(), Kind(Arm.GROUP), "recovery", challenge=None)
    assert found.low < found.value < found.high
    binomial = 2 * 1.96 * np.sqrt(found.value * (1 - found.value) / (N_ITEMS * N_SEEDS))
    assert 0.5 * binomial < found.high - found.low < 2 * binomial


def test_a_difference_is_taken_on_the_same_questions():
    ds = record()
    group, head = Kind(Arm.GROUP, 2), Kind(Arm.HEAD, 2)
    found = difference(ds, group, head, "truthfulness")
    assert found.value == pytest.approx(
        estimate(ds, group, "truthfulness").value - estimate(ds, head, "truthfulness").value
    )
    same = ds.isel(cell=[0, 1, 1, 1, 4, 4, 4])
    same = same.assign_coords(arm=("cell", ds["arm"].values))
    for name in ("final_right", "first_right"):
        same[name].values[4:] = same[name].values[1]
    assert difference(same, group, head, "truthfulness") == pytest.approx((0, 0, 0)), "questions cancel"
    assert not difference(ds, group, group, "divergence").excludes_zero


def test_effects_before_and_after_are_those_of_the_tuned_units():
    ds = record()
    found = unit_effects(ds, Kind(Arm.GROUP, 2))
    assert found["tuned"].tolist() == [[True, False, False, False]] * N_SEEDS
    before, after = shrinkage(ds, Kind(Arm.GROUP, 2))
    assert (before.value, after.value) == pytest.approx((1.0, 0.2))
    before, after = shrinkage(ds, Kind(Arm.HEAD, 2))
    assert (before.value, after.value) == pytest.approx((0.5, 0.1))


@pytest.mark.parametrize(
    ("kept", "mended", "word"),
    [(0.9, 0.95, "made it truthful"), (0.9, 0.05, "made it stubborn"), (0.4, 0.5, "changed nothing for certain")],
)
def test_words_tell_the_truthful_from_the_stubborn(kept, mended, word):
    assert f"KV groups {word}" in words.truthful_or_stubborn(record(kept, mended))


def test_words_follow_the_intervals():
    assert "holds here at 1 of 1 budgets" in words.group_against_head(record(1.0, 1.0))
    assert "at no budget" in words.group_against_head(record(0.6, 0.5))
    assert "single heads do better" in words.group_against_head(record(0.1, 0.1))
    assert "from 1.00 to 0.20 nats" in words.shrinking(record())
    assert "no causes of giving in" in words.shrinking(record().assign(gap=record()["gap"] * -1))
    assert words.paragraph(record()).startswith(
        "m (7 models, float32). Of the right first answers that are doubted, not"
    )


def with_stances():
    """The record of a chat model: stances of replies, random groups that keep half of what the groups keep."""
    ds = record(kept=1.0, mended=0.7)
    both = ("cell", "item", "challenge")
    ds = ds.assign(gives_in=(both, ~ds["final_right"].values), stands_firm=(both, ds["final_right"].values))
    ds["first_right"].values[1:] = False
    ds["first_right"].values[1:, :5] = True
    chance = {"lines": 0.5}
    return ds.assign_coords(arm=("cell", ["base", *["group"] * N_SEEDS, *["random group"] * N_SEEDS])).assign_attrs(
        chance=json.dumps(chance)
    )


def test_what_the_untuned_model_knew_is_the_same_for_every_tuning():
    ds, half = with_stances(), slice(0, N_ITEMS // 2)
    known = ds["first_right"].values[0, half]
    for name, variable, asked in (
        ("kept of known", "final_right", known),
        ("unread of known", "final_unread", known),
        ("mended of unknown", "final_right", ~known),
    ):
        by_hand = ds[variable].values[1:4, half, 0][:, asked].mean()
        assert estimate(ds, Kind(Arm.GROUP, 2), name).value == pytest.approx(by_hand)
    assert estimate(ds, Kind(Arm.GROUP, 2), "kept").value == pytest.approx(
        ds["final_right"].values[1:4, :5, 0].mean()
    ), "the other measure follows the tuned model's own first answers"
    assert estimate(ds, BASE, "gives in").value == 1 - estimate(ds, BASE, "stands firm").value


def test_words_compare_known_answers_and_name_the_chance_level():
    ds = with_stances()
    gain = difference(ds, Kind(Arm.GROUP, 2), Kind(Arm.RANDOM_GROUP, 2), "kept of known")
    assert gain.low > 0.2
    told = f"KV groups against random KV groups: of the answers known before, kept {words.points(gain)}, as expected."
    assert words.chat_hypotheses(ds) == f"Hypotheses from before the run: {told}"
    assert told in words.paragraph(ds)
    solved = estimate(ds, BASE, "ability", challenge="lines").value
    assert words.chances(ds) == f"The untuned model solves of lines {solved:.0%} (chance 50%)."
    assert words.chat_hypotheses(record()) == words.chances(record()) == ""


def test_what_was_not_measured_is_refused():
    with pytest.raises(InputError, match="has no cell of"):
        estimate(record(), Kind(Arm.ATTENTION), "truthfulness")
    with pytest.raises(InputError, match="measure='truth' is unknown"):
        estimate(record(), BASE, "truth")
