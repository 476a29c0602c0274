import numpy as np
import pytest

from tests.plot.synthetic import both
from workbench.plot import heatmap
from workbench.plot.heatmaps import HOVER_COLUMNS, colour_limit


@pytest.mark.parametrize("metric", ["logit_ratio", "logit_diff", "prob"])
@pytest.mark.parametrize("index", [0, 1])
def test_cells_are_the_contributions(metric, index):
    result = both({(2, 4): -0.8})[index]
    scale = 1 if metric == "logit_diff" else 100
    np.testing.assert_allclose(heatmap(result, metric).data[0].z, result["contribution"].sel(metric=metric) * scale)


@pytest.mark.parametrize(
    ("n_kv_heads", "borders"),
    [(1, []), (2, [3.5]), (4, [1.5, 3.5, 5.5]), (8, [h - 0.5 for h in range(1, 8)])],
)
def test_borders_stand_between_groups(n_kv_heads, borders):
    for result in both(n_kv_heads=n_kv_heads):
        shapes = heatmap(result).layout.shapes
        assert [s.x0 for s in shapes] == [s.x1 for s in shapes] == borders


def test_a_group_spans_its_heads_so_that_both_maps_share_one_axis():
    heads, groups = both(n_kv_heads=2)
    by_head, by_group = heatmap(heads), heatmap(groups)
    np.testing.assert_array_equal(by_head.data[0].x, np.arange(9) - 0.5)
    np.testing.assert_array_equal(by_group.data[0].x, [-0.5, 3.5, 7.5])
    assert by_head.layout.xaxis.range == by_group.layout.xaxis.range


def test_colours_are_symmetric_around_zero():
    heads, _ = both({(0, 0): -2.0})
    trace = heatmap(heads).data[0]
    assert trace.zmin == -trace.zmax and trace.zmid == 0
    assert trace.zmax == np.abs(trace.z).max()
    assert heatmap(heads, limit=7.0).data[0].zmax == 7


def test_single_outliers_among_many_values_lie_beyond_the_scale():
    values = np.append(np.ones(999), -50)
    assert colour_limit(values) == np.percentile(np.abs(values), 99.5)
    assert colour_limit(values[-199:]) == 50


def test_the_limit_falls_back_where_nearly_all_is_zero():
    sparse = np.zeros(1000)
    sparse[0] = -3
    assert colour_limit(sparse) == 3
    assert colour_limit(np.zeros(4)) == 1
    assert colour_limit(np.array([np.nan, 2.0])) == 2


def test_hover_tells_layer_head_group_value_and_interval():
    heads, groups = both(n_kv_heads=2)
    for result, cell, expected in ((heads, (3, 5), [3, 5, 1, 5, 5]), (groups, (3, 1), [3, 1, 1, 4, 7])):
        trace = heatmap(result).data[0]
        row = dict(zip(HOVER_COLUMNS, trace.customdata[cell], strict=True))
        assert [row[name] for name in HOVER_COLUMNS[:5]] == expected
        dim = "head" if result is heads else "kv_group"
        at = result.sel(metric="logit_ratio", layer=cell[0], **{dim: cell[1]})
        assert row["value"] == pytest.approx(100 * float(at["contribution"]))
        assert row["high"] == pytest.approx(100 * float(at["contribution"] + 1.96 * at["stderr"]), abs=1e-3)
        for word in ("Layer", "KV group", "95% interval", "query head"):
            assert word in trace.hovertemplate


def test_drawing_changes_neither_the_result_nor_the_default_template():
    import plotly.io as pio

    heads, _ = both()
    before, template = heads.copy(deep=True), pio.templates.default
    heatmap(heads)
    assert heads.identical(before) and pio.templates.default == template
