import numpy as np
import plotly.graph_objects as go
import pytest

from tests.plot.synthetic import both
from tests.plot.test_remedies import REMEDIES, result
from workbench.errors import InputError
from workbench.plot import beside, fit, grid, heatmap, layer_sums, save_figure, table
from workbench.plot.narrow import TooNarrow
from workbench.plot.remedies import remedy_effects
from workbench.plot.theme import house

HEADS, GROUPS = both()


def test_a_page_keeps_its_panels_and_letters_them():
    before = beside([layer_sums(HEADS)] * 2, ["one", "two"])
    after = fit(before, "page")
    assert [note.text for note in after.layout.annotations] == ["<b>a</b>\u2002one", "<b>b</b>\u2002two"]
    assert after.layout.xaxis2.domain == before.layout.xaxis2.domain
    assert [note.text for note in before.layout.annotations] == ["one", "two"]


@pytest.mark.parametrize(("columns", "beside_each_other"), [(8, True), (60, False)])
def test_panels_stand_side_by_side_where_their_cells_have_room(columns, beside_each_other):
    cells = house(go.Figure(go.Heatmap(z=np.ones((4, columns)), showscale=False)))
    figure = fit(beside([cells, cells], ["one", "two"]), "column")
    upper, lower = figure.layout.yaxis.domain, figure.layout.yaxis2.domain
    assert (upper == lower) == beside_each_other and (upper[0] > lower[1]) != beside_each_other


def test_rows_of_panels_that_are_broken_name_their_rows_again():
    figure = fit(remedy_effects(result()), "column")
    axes = [figure.layout[f"yaxis{i}"] for i in ("", 2, 3, 4)]
    assert list(axes[2].tickvals) == REMEDIES
    assert [axis.showticklabels for axis in axes] == [True, False, True, False]


def test_a_scale_of_colours_that_panels_share_lies_below_them_once():
    figure = fit(grid([[heatmap(HEADS, limit=5.0)], [heatmap(GROUPS, limit=5.0)]], [["heads"], ["groups"]]), "column")
    assert [trace.showscale for trace in figure.data] == [True, False]
    assert figure.data[0].colorbar.orientation == "h" and figure.data[0].colorbar.y < figure.layout.yaxis2.domain[0]


def test_scales_that_differ_say_for_which_panels_they_are():
    maps = [heatmap(HEADS, limit=end) for end in (5.0, 9.0)]
    figure = fit(grid([maps, maps], [["a", "b"], ["c", "d"]]), "column")
    told = [trace.colorbar.title.text for trace in figure.data if trace.showscale]
    assert told == ["%, panels a and c", "%, panels b and d"]


def test_a_table_becomes_blocks_that_repeat_what_tells_rows_apart():
    columns = {"Model": ["x", "x"], "Score": ["logit ratio", "logit difference"]}
    columns |= {f"A long measure {i}": [f"{i}.0 to {i}.9"] * 2 for i in range(6)}
    figure = fit(table(columns, title="T"), "column")
    heads = [[text.replace("<br>", " ") for text in block.header.values] for block in figure.data]
    assert len(heads) > 1 and all(head[:2] == ["<b>Model</b>", "<b>Score</b>"] for head in heads)
    assert [name for head in heads for name in head[2:]] == [f"<b>A long measure {i}</b>" for i in range(6)]
    assert all(list(block.cells.values[1]) == columns["Score"] for block in figure.data)


def test_what_has_no_room_in_a_column_is_refused_with_the_reason(tmp_path):
    long = table({"Row": [str(i) for i in range(60)], "Value": list(range(60))}, title="Much")
    with pytest.raises(
        TooNarrow, match=r"“Much” cannot be read at column width \(3\.25 in\): it would be .* inches high"
    ):
        save_figure(long, tmp_path / "much", ("html",), width="column")
    cells = go.Figure(go.Heatmap(z=np.ones((2, 60)), text=[["0.12"] * 60] * 2, texttemplate="%{text}"))
    with pytest.raises(TooNarrow, match=r"a panel has 3.. pixels, and its cells or names need 1..."):
        fit(house(cells), "column")
    assert not list(tmp_path.glob("*.html"))


def test_an_unknown_width_is_refused():
    with pytest.raises(InputError, match="width='poster' must be one of 'column', 'page'"):
        fit(layer_sums(HEADS), "poster")
