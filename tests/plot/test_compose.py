import numpy as np
import plotly.graph_objects as go
import pytest

from tests.plot.synthetic import both
from workbench.errors import InputError
from workbench.plot import agreement, beside, grid, heatmap, layer_sums


def test_every_column_keeps_its_numbers_axes_and_borders():
    results = [both(n_kv_heads=2)[0], both(n_kv_heads=4, seed=3)[0]]
    figure = beside([heatmap(r) for r in results], ["one", "two"])
    for trace, result in zip(figure.data, results, strict=True):
        np.testing.assert_allclose(trace.z, heatmap(result).data[0].z)
    assert [t.xaxis for t in figure.data] == ["x", "x2"]
    assert [(s.xref, s.x0) for s in figure.layout.shapes] == [
        ("x", 3.5),
        ("x2", 1.5),
        ("x2", 3.5),
        ("x2", 5.5),
    ]
    assert figure.layout.xaxis2.title.text == "Query head"
    assert [a.text for a in figure.layout.annotations] == ["one", "two"]


def test_colour_bars_stand_beside_their_own_cell():
    heads, groups = both()
    figure = grid([[heatmap(heads)] * 2, [heatmap(groups)] * 2], [["a", "b"], ["c", "d"]])
    bars = [t.colorbar for t in figure.data]
    assert bars[0].x == bars[2].x < bars[1].x == bars[3].x
    assert bars[0].y == bars[1].y > bars[2].y
    domain = figure.layout.xaxis.domain
    assert domain[1] < bars[0].x < figure.layout.xaxis2.domain[0]


@pytest.mark.parametrize(
    ("legends", "owners"), [("one", (0, 0, 0, 0)), ("rows", (0, 0, 1, 1)), ("columns", (0, 1, 0, 1))]
)
def test_rows_and_columns_have_legends_of_their_own(legends, owners):
    panels = [go.Figure([go.Scatter(y=[1, 2], name="a"), go.Scatter(y=[2, 1], name="b")]) for _ in range(4)]
    figure = grid([panels[:2], panels[2:]], [["1", "2"], ["3", "4"]], legends=legends)
    names = ["legend", "legend2"]
    assert [trace.legend for trace in figure.data[::2]] == [names[owner] for owner in owners]
    shown = [trace.legend for trace in figure.data if trace.showlegend]
    assert sorted(shown) == sorted(2 * names[: len(set(owners))])
    heights = [figure.layout[name].y for name in names[: len(set(owners))]]
    assert all(y < 0 for y in heights) if legends == "columns" else heights == sorted(heights, reverse=True)


def test_panels_of_a_row_share_their_scale_where_wanted():
    panels = [go.Figure(go.Scatter(y=[0, top])) for top in (1, 100)]
    assert beside(panels, ["1", "2"], same_y=True).layout.yaxis2.matches == "y"
    assert beside(panels, ["1", "2"]).layout.yaxis2.matches is None


def test_a_series_has_one_entry_in_the_legend():
    heads, _ = both()
    figure = beside([layer_sums(heads), layer_sums(heads)], ["a", "b"])
    assert [t.showlegend for t in figure.data] == [True, True, False, False]


def test_notes_stay_in_their_cell():
    heads, _ = both()
    figure = beside([agreement(heads, heads)] * 2, ["a", "b"])
    assert [a.xref for a in figure.layout.annotations[2:]] == ["x domain", "x2 domain"]


def test_titles_must_fit_the_figures():
    heads, _ = both()
    with pytest.raises(InputError, match=r"rows of \[1\] and titles \[2\]"):
        beside([heatmap(heads)], ["a", "b"])
    with pytest.raises(InputError, match="grid needs equal rows"):
        beside([], [])
