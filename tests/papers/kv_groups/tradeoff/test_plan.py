"""Budgets against the group paper's models, and which cells a plan has."""

from collections import Counter
from dataclasses import replace

import pytest

from workbench.errors import InputError
from workbench.papers.kv_groups.tradeoff.plan import BASE, CHAT, ORGANISM, PAPER, Plan, budgets, cells, rate_cells
from workbench.patching.units import HeadCounts
from workbench.tuning import TuningRecipe

GQA, MHA = HeadCounts(8, 8, 2), HeadCounts(8, 8, 8)
RATES = {"units": 1e-3, "attention": 2e-3, "all": 3e-3}


@pytest.mark.parametrize(
    ("counts", "groups", "own"),
    [
        (HeadCounts(32, 32, 8), (20, 40, 80), (20, 41, 82)),
        (HeadCounts(28, 28, 4), (14, 28, 63), (16, 31, 63)),
        (HeadCounts(28, 24, 8), (12, 27, 54), (13, 27, 54)),
    ],
)
def test_ratios_give_the_budgets_of_the_paper_s_models(counts, groups, own):
    sizes = budgets(Plan(), counts)
    assert sizes.groups == groups
    assert sizes.heads == tuple(sorted({*groups, *own}))
    assert sizes.main == groups[1]


def test_without_sharing_groups_are_heads_or_blocks():
    assert budgets(Plan(), HeadCounts(32, 32, 32)).group == 1
    assert {cell.arm for cell in cells(Plan(), HeadCounts(32, 32, 32), RATES)} & {"group", "random group"} == set()
    assert budgets(ORGANISM, MHA).groups == budgets(ORGANISM, GQA).groups == (4, 8, 16)
    with pytest.raises(InputError, match="block=3 does not divide the 8 heads"):
        budgets(Plan(block=3), MHA)


def test_an_organism_s_cells():
    found = cells(ORGANISM, GQA, RATES)
    assert found[0] == BASE
    assert len({cell.key for cell in found}) == len(found)
    main = Counter((cell.arm, cell.n_heads) for cell in found if cell.variant == "main")
    assert {main["group", n] for n in (4, 8, 16)} == {main["head", n] for n in (1, 3, 4, 5, 8, 16)} == {3}
    assert {main[arm, n] for arm in ("random group", "random head") for n in (4, 8, 16)} == {5}
    assert main["attention", 64] == main["all", 64] == 3
    assert {cell.learning_rate for cell in found if cell.arm == "all"} == {3e-3}


def test_variations_change_the_main_budget_s_groups():
    found = [cell for cell in cells(ORGANISM, GQA, RATES) if cell.variant != "main"]
    assert {cell.n_heads for cell in found} == {8}
    assert {cell.learning_rate for cell in found if cell.variant == PAPER} == {TuningRecipe().learning_rate}
    assert {cell.learning_rate for cell in found if cell.variant == "a tenth of the rate"} == {1e-4}


def test_only_the_wanted_arms_are_run():
    plan = replace(ORGANISM, arms=("group", "random group"))
    assert {cell.arm for cell in cells(plan, GQA, RATES)} == {"base", "group", "random group"}
    assert {cell.arm for cell in rate_cells(plan, GQA)} == {"group"}


def test_rates_are_chosen_with_a_seed_of_their_own():
    trials = rate_cells(ORGANISM, GQA)
    assert {cell.draw for cell in trials}.isdisjoint(cell.draw for cell in cells(ORGANISM, GQA, RATES))
    assert rate_cells(Plan(), GQA) == []


def test_a_chat_model_s_cells_compare_equal_numbers_at_rates_of_their_own():
    smol = HeadCounts(30, 9, 3)
    trials = rate_cells(CHAT, smol)
    assert Counter(cell.arm for cell in trials) == dict.fromkeys(CHAT.arms, 3)
    rates = {arm: i * 1e-4 for i, arm in enumerate(CHAT.arms, start=1)}
    found = cells(CHAT, smol, rates)
    main = Counter((cell.arm, cell.n_heads) for cell in found if cell.variant == "main" and cell != BASE)
    assert main == {
        **{(arm, n): 3 for arm in ("group", "head") for n in (6, 12, 21)},
        **{(arm, 12): 3 for arm in ("random group", "random head", "same-layer group")},
        **{(arm, 270): 3 for arm in ("attention", "all")},
    }
    assert Counter(cell.variant for cell in found)["other KV rows"] == 3
    assert all(cell.learning_rate == rates[cell.arm] for cell in found if cell != BASE)


def test_changes_of_a_plan_keep_it_whole():
    changed = CHAT.changed(ratios=(0.1, 0.2, 0.3), rates=(1e-2, 2e-2), seeds=1)
    assert (changed.main, changed.seeds) == (0.2, 1)
    assert changed.rates["group"] == changed.rates["random head"] == (1e-2, 2e-2)
    assert changed.rates["all"] == CHAT.rates["all"]
    assert ORGANISM.changed() == ORGANISM


def test_bad_plans_are_refused():
    with pytest.raises(InputError, match=r"main=0\.5"):
        Plan(main=0.5)
    with pytest.raises(InputError, match=r"variants=\['louder'\]"):
        Plan(variants=("main", "louder"))
    with pytest.raises(InputError, match=r"arms=\['toes'\] are unknown"):
        Plan(arms=("toes",))
    with pytest.raises(InputError, match="at least 1"):
        Plan(draws=0)
    with pytest.raises(InputError, match="shares above 0"):
        Plan(ratios=(0.04, 2.0))
