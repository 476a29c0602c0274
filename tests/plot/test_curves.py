import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plot.synthetic import both
from workbench.errors import InputError
from workbench.plot import agreement, compare_groups, head_vs_group, layer_sums


def test_layer_sums_split_pull_from_signed_sum():
    heads, _ = both({(1, 0): -0.5, (1, 1): 0.5})
    bars, line = layer_sums(heads, "logit_diff").data
    values = heads["contribution"].sel(metric="logit_diff").values
    np.testing.assert_allclose(bars.y, [sum(-v for v in row if v < 0) for row in values])
    np.testing.assert_allclose(line.y, [sum(row) for row in values])
    assert bars.y[1] > 0.4 and abs(line.y[1]) < 0.2


def test_layer_sums_are_in_per_cent_for_ratios():
    heads, _ = both({(1, 0): -0.5})
    bars = layer_sums(heads).data[0]
    expected = -100 * heads["contribution"].sel(metric="logit_ratio", layer=1).clip(max=0).sum()
    assert bars.y[1] == pytest.approx(float(expected))


@settings(max_examples=20, deadline=None)
@given(layer=st.integers(0, 3), head=st.integers(0, 7), n_kv_heads=st.sampled_from([1, 2, 4, 8]))
def test_the_group_of_the_planted_head_comes_first(layer, head, n_kv_heads):
    heads, groups = both({(layer, head): -1.0}, n_kv_heads=n_kv_heads)
    first = compare_groups(heads, groups, "logit_diff")[0]
    size = 8 // n_kv_heads
    assert (first["layer"], first["kv_group"], first["head"]) == (layer, head // size, head)
    members = heads["contribution"].sel(metric="logit_diff", layer=layer)[
        head // size * size : (head // size + 1) * size
    ]
    assert first["strongest_head"] == pytest.approx(float(members.min()))
    assert first["sum_of_heads"] == pytest.approx(float(members.sum()))
    joint = groups["contribution"].sel(metric="logit_diff", layer=layer, kv_group=head // size)
    assert first["group"] == pytest.approx(float(joint))


def test_head_vs_group_shows_the_strongest_groups_in_order():
    heads, groups = both({(2, 4): -0.8, (0, 0): -0.4}, interaction=1.5)
    figure = head_vs_group(heads, groups, "logit_diff", top=3)
    joint = next(t for t in figure.data if t.name.startswith("whole group"))
    assert list(joint.y[:2]) == ["L2 · group 1", "L0 · group 0"] and len(joint.y) == 3
    assert list(joint.x) == sorted(joint.x)
    assert joint.error_x.array[0] > 0


def test_swapped_or_foreign_results_are_refused():
    heads, groups = both(n_kv_heads=2)
    with pytest.raises(InputError, match="expected heads first and KV groups second, got unit 'kv_group' and 'head'"):
        head_vs_group(groups, heads)
    with pytest.raises(InputError, match="Were both measured on the same model"):
        head_vs_group(heads, both(n_layers=3)[1])


def test_agreement_of_a_result_with_itself_lies_on_the_line():
    heads, _ = both({(2, 4): -0.8})
    figure = agreement(heads, heads, "logit_diff")
    points = figure.data[1]
    np.testing.assert_allclose(points.x, points.y)
    np.testing.assert_allclose(points.x, heads["contribution"].sel(metric="logit_diff").values.ravel())
    assert "r = 1.000" in figure.layout.annotations[0].text
    assert figure.layout.xaxis.range == figure.layout.yaxis.range


def test_agreement_reports_the_largest_error_as_a_share_of_the_largest_effect():
    heads, _ = both({(2, 4): -0.8})
    off = heads.copy(deep=True)
    off["contribution"].loc[{"metric": "logit_diff", "layer": 0, "head": 0}] += 0.25 * abs(
        float(heads["contribution"].sel(metric="logit_diff").min())
    )
    assert "largest error 25.0%" in agreement(off, heads, "logit_diff").layout.annotations[0].text


def test_agreement_of_different_units_is_refused():
    heads, groups = both()
    with pytest.raises(InputError, match="Measure both with the same model and unit"):
        agreement(heads, groups)
