import numpy as np
import pytest
import xarray as xr

from tests.plot.synthetic import both, patched, shifts
from workbench.errors import InputError
from workbench.plot.effects import effects, number


@pytest.mark.parametrize(("metric", "scale"), [("logit_ratio", 100), ("prob", 100), ("logit_diff", 1)])
def test_values_are_per_cent_except_for_the_logit_difference(metric, scale):
    heads, _ = both()
    data = effects(heads, metric)
    expected = heads["contribution"].sel(metric=metric).values * scale
    np.testing.assert_allclose(data.values, expected)
    half = 1.96 * heads["stderr"].sel(metric=metric).values * scale
    np.testing.assert_allclose(data.high - data.values, half, rtol=1e-3)
    np.testing.assert_allclose(data.values - data.low, half, rtol=1e-3)


def test_values_do_not_depend_on_the_order_of_dims():
    heads, _ = both()
    turned = heads.transpose("example", "head", "layer", "metric")
    np.testing.assert_array_equal(effects(turned).values, effects(heads).values)


def test_groups_name_their_heads():
    _, groups = both(n_kv_heads=2)
    data = effects(groups)
    assert data.name(3, 1) == "KV group 1 of layer 3 (query heads 4 to 7)"
    assert data.heads_of(0) == (0, 3)
    single = effects(both(n_kv_heads=8)[1])
    assert single.name(0, 5) == "KV group 5 of layer 0 (query head 5)"


def test_heads_know_their_group():
    heads, _ = both(n_kv_heads=4)
    assert [effects(heads).group_of(h) for h in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-12.34, "−12.3"),
        (0.0, "0.00"),
        (-0.0001, "0.000"),
        (1234.5, "1234"),
        (0.5, "0.50"),
        (float("nan"), "not defined"),
    ],
)
def test_numbers_are_short_with_a_true_minus(value, text):
    assert number(value) == text


def test_unknown_metric_is_refused_with_the_known_ones():
    heads, _ = both()
    with pytest.raises(InputError, match=r"metric 'accuracy' is not in this result.*logit_ratio, logit_diff, prob"):
        effects(heads, "accuracy")


def test_other_units_are_refused():
    heads, _ = both()
    per_layer = heads.mean("head")
    with pytest.raises(InputError, match="Patch with unit='head' or unit='kv_group'"):
        effects(per_layer)
    with pytest.raises(InputError, match="no variable 'contribution'"):
        effects(xr.Dataset({"base": ("example", [1.0])}))


def test_a_further_dimension_is_refused():
    heads, _ = both()
    wide = heads.expand_dims(position=2)
    with pytest.raises(InputError, match="also varies over position"):
        effects(wide)


def test_one_example_has_no_interval():
    one = patched(shifts(), n_examples=1)
    assert np.isnan(effects(one).low).all()
