"""The choice of units: the budgets of published models, ties, matched heads, and controls that hold none "
"of the chosen."""

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import InputError, WorkbenchWarning
from workbench.patching.selection import (
    budget,
    complete_to_groups,
    random_heads,
    random_units,
    same_layer_units,
    select_units,
)
from workbench.patching.units import HeadCounts


def measured(values, unit, counts, metrics=("logit_diff", "logit_ratio")):
    values = np.asarray(values, dtype=float)
    dims = ("layer",) if unit == "layer" else ("layer", unit)
    stacked = np.stack([values * (-1) ** i for i in range(len(metrics))])
    return xr.Dataset({"contribution": (("metric", *dims), stacked)}, {"metric": list(metrics)}, counts._asdict())


def random_result(unit, counts, seed=0):
    rng = np.random.default_rng(seed)
    n_units = {"head": counts.n_heads, "kv_group": counts.n_kv_heads}[unit]
    return measured(rng.normal(size=(counts.n_layers, n_units)), unit, counts)


# model: layers, query heads, KV heads; per ratio 2, 4, 8 %: K groups, heads in them, share in %, single heads
TABLE = {
    "Llama-2-7B": ((32, 32, 32), ((20, 20, 1.95, 20), (41, 41, 4.00, 41), (82, 82, 8.01, 82))),
    "Mistral-7B": ((32, 32, 8), ((5, 20, 1.95, 20), (10, 40, 3.91, 41), (20, 80, 7.81, 82))),
    "Llama-3-8B": ((32, 32, 8), ((5, 20, 1.95, 20), (10, 40, 3.91, 41), (20, 80, 7.81, 82))),
    "Qwen2.5-7B": ((28, 28, 4), ((2, 14, 1.79, 16), (4, 28, 3.57, 31), (9, 63, 8.04, 63))),
    "Llama-3.2-3B": ((28, 24, 8), ((4, 12, 1.79, 13), (9, 27, 4.02, 27), (18, 54, 8.04, 54))),
}


@pytest.mark.parametrize("model", TABLE)
def test_budgets_of_published_models(model):
    counts, rows = TABLE[model]
    counts = HeadCounts(*counts)
    groups, heads = random_result("kv_group", counts), random_result("head", counts)
    for ratio, (k, n_heads, percent, n_single) in zip((0.02, 0.04, 0.08), rows, strict=True):
        chosen = select_units(groups, ratio, heads=heads)
        assert len(chosen.units) == k
        assert len(chosen.heads) == len(set(chosen.heads)) == n_heads
        assert round(100 * chosen.share, 2) == percent
        assert chosen.matched is not None
        assert len(chosen.matched.units) == n_heads
        assert len(select_units(heads, ratio, by="head").units) == n_single


def test_the_most_negative_come_first_with_all_their_heads():
    counts = HeadCounts(2, 6, 2)
    chosen = select_units(measured([[0.1, -0.5], [-0.9, 0.7]], "kv_group", counts), 0.5)
    assert chosen.units == ((1, 0), (0, 1))
    assert chosen.contribution == (-0.9, -0.5)
    assert chosen.heads == ((1, 0), (1, 1), (1, 2), (0, 3), (0, 4), (0, 5))
    by_ratio = select_units(measured([[0.1, -0.5], [-0.9, 0.7]], "kv_group", counts), 0.25, metric="logit_ratio")
    assert by_ratio.units == ((1, 1),)


def test_ties_are_resolved_by_position():
    counts = HeadCounts(4, 4, 4)
    assert select_units(measured(np.zeros((4, 4)), "head", counts), 3 / 16, by="head").units == (
        (0, 0),
        (0, 1),
        (0, 2),
    )


def test_axes_may_come_in_any_order():
    counts = HeadCounts(3, 8, 2)
    result = random_result("kv_group", counts)
    assert select_units(result.transpose("kv_group", "layer", "metric"), 0.5) == select_units(result, 0.5)


def test_layers_can_be_chosen():
    counts = HeadCounts(4, 2, 1)
    chosen = select_units(measured([0.0, -1.0, 2.0, -3.0], "layer", counts), 0.5, by="layer")
    assert chosen.units == ((3, 0), (1, 0))
    assert chosen.heads == ((3, 0), (3, 1), (1, 0), (1, 1))


def test_without_sharing_groups_and_heads_give_the_same_heads():
    counts = HeadCounts(4, 8, 8)
    values = np.random.default_rng(0).normal(size=(4, 8))
    groups = select_units(measured(values, "kv_group", counts), 0.1, heads=measured(values, "head", counts))
    assert groups.matched is not None
    assert groups.heads == groups.matched.heads


def test_one_metric_alone_needs_no_metric_axis():
    counts = HeadCounts(3, 8, 2)
    result = random_result("kv_group", counts)
    assert select_units(result.sel(metric="logit_diff"), 0.5) == select_units(result, 0.5)


def test_a_selection_is_json():
    counts = HeadCounts(3, 8, 2)
    chosen = select_units(random_result("kv_group", counts), 0.3, heads=random_result("head", counts))
    read = json.loads(json.dumps(chosen.to_dict(), allow_nan=False))
    assert read["by"] == "kv_group"
    assert read["counts"] == {"n_layers": 3, "n_heads": 8, "n_kv_heads": 2}
    assert read["matched"]["by"] == "head"
    assert read["units"] == [list(unit) for unit in chosen.units]
    json.dumps(random_units(chosen)[0].to_dict(), allow_nan=False)


def test_a_budget_below_one_unit_takes_one_and_says_so():
    with pytest.warns(WorkbenchWarning, match=r"ratio=0.04 of 8 units rounds to none, so one is taken: 12.5% of them"):
        assert budget(0.04, 8) == 1


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.1, float("nan")])
def test_a_ratio_must_be_a_share(ratio):
    with pytest.raises(InputError, match="must be a share above 0 and at most 1"):
        budget(ratio, 100)


def test_wrong_requests_are_refused():
    counts = HeadCounts(3, 8, 2)
    heads = random_result("head", counts)
    with pytest.raises(
        InputError, match=r"by='kv_group' needs contributions over .*measure again with unit='kv_group'"
    ):
        select_units(heads)
    with pytest.raises(InputError, match=r"unit='heads' is no kind of unit; did you mean 'head'\?"):
        select_units(heads, by="heads")
    with pytest.raises(InputError, match=r"metric='prob' was not measured;.*Known: logit_diff, logit_ratio"):
        select_units(heads, by="head", metric="prob")
    with pytest.raises(InputError, match="1 of 24 contributions to logit_diff are NaN"):
        heads["contribution"][0, 1, 2] = np.nan
        select_units(heads, by="head")


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.floats(0.05, 0.5),
    st.integers(0, 99),
    st.booleans(),
)
def test_random_controls_are_as_large_and_hold_none_of_the_chosen(n_layers, n_kv, size, ratio, seed, per_head):
    counts = HeadCounts(n_layers + 1, n_kv * size, n_kv)
    unit = "head" if per_head else "kv_group"
    result = random_result(unit, counts)
    n_units = result["contribution"][0].size
    ratio = min(max(ratio, 1 / n_units), (n_units // 2) / n_units)
    chosen = select_units(result, ratio, by=unit)
    for control in random_units(chosen, n_draws=3, seed=seed):
        assert control.by == chosen.by
        assert len(set(control.units)) == len(chosen.units)
        assert len(set(control.heads)) == len(chosen.heads)
        assert not set(control.units) & set(chosen.units)
        assert not set(control.heads) & set(chosen.heads)
    for control in random_heads(chosen, n_draws=3, seed=seed):
        assert control.by == "head"
        assert len(set(control.heads)) == len(chosen.heads)
        assert not set(control.heads) & set(chosen.heads)


def test_controls_are_reproducible_and_vary():
    chosen = select_units(random_result("kv_group", HeadCounts(8, 16, 8)), 0.1)
    for control in (random_units, random_heads, same_layer_units):
        assert control(chosen, seed=1) == control(chosen, seed=1)
        assert len({draw.units for draw in control(chosen, n_draws=5)}) > 1


def test_every_other_unit_is_drawn_equally_often():
    counts = HeadCounts(2, 6, 3)
    chosen = select_units(random_result("kv_group", counts), 1 / 6)
    drawn = [draw.units[0] for draw in random_units(chosen, n_draws=5000)]
    share = {unit: drawn.count(unit) / 5000 for unit in set(drawn)}
    assert len(share) == 5
    assert all(abs(value - 0.2) < 0.03 for value in share.values())


def test_same_layer_controls_keep_the_layers():
    counts = HeadCounts(4, 12, 6)
    chosen = select_units(random_result("kv_group", counts), 0.25)
    for control in same_layer_units(chosen):
        assert sorted(layer for layer, _ in control.units) == sorted(layer for layer, _ in chosen.units)
        assert not set(control.units) & set(chosen.units)


def test_a_control_that_cannot_exist_is_refused():
    counts = HeadCounts(3, 8, 1)
    chosen = select_units(random_result("kv_group", counts), 0.34)
    with pytest.raises(InputError, match=r"needs 1 units that were not selected, and layer \d has 0 left"):
        same_layer_units(chosen)
    with pytest.raises(InputError, match="needs 3 units that were not selected, and the model has 0 left"):
        random_units(select_units(random_result("kv_group", counts), 1.0))


def test_heads_are_completed_to_whole_groups_in_order():
    counts = HeadCounts(2, 6, 2)
    values = np.zeros((2, 6))
    values[1, 4], values[0, 0], values[1, 3], values[0, 5] = -4, -3, -2, -1
    heads = select_units(measured(values, "head", counts), 4 / 12, by="head")
    completed = complete_to_groups(heads)
    assert completed.units == ((1, 1), (0, 0), (0, 1))
    assert completed.heads[:3] == ((1, 3), (1, 4), (1, 5))
    assert complete_to_groups(heads, n_groups=2).units == ((1, 1), (0, 0))
