"""Figures of extreme tokens show the numbers of the Dataset, on a result whose answer is planted."""

import numpy as np
import pytest

from tests.extreme.planted import S, planted
from workbench.errors import InputError
from workbench.extreme import extreme_tokens, patterns
from workbench.plot import extreme as plots


@pytest.fixture(scope="module")
def found():
    texts = [[S if i == start else 3 + i % 3 for i in range(24)] for start in (0, 4)]
    return extreme_tokens(planted(), texts, progress=False)


def test_the_sink_map_shows_each_head_s_strongest_sink_or_a_position(found):
    shown = plots.sink_heatmap(found).data[0].z
    weight = found.sink_weight.values
    np.testing.assert_allclose(shown[1, 0], (weight[0, 1, 0, 0] + weight[1, 1, 0, 4]) / 2)
    fourth = plots.sink_heatmap(found, position=4).data[0].z
    np.testing.assert_allclose(fourth[1, 0], weight[:, 1, 0, 4].mean())
    np.testing.assert_allclose(plots.sink_heatmap(found, "sink_rate").data[0].z, found.sink_rate)
    assert plots.sink_heatmap(found, "sink_logit").data[0].z[1, 0] == pytest.approx(8, rel=1e-5)


def test_the_extreme_token_is_red_and_its_box_lies_low(found):
    figure = plots.value_norms(found, sequence=1)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    red = {trace.x[0] for trace in bars if trace.marker.color == plots.TOWARDS}
    assert red == {4}
    medians = {trace.x[0] + 0.4: trace.y[0] for trace in figure.data if trace.type == "scatter"}
    norms = found.head_value_norm.isel(sequence=1).values.reshape(-1, 24)
    low, high = np.quantile(norms[:, 2], [0.01, 0.99])
    kept = norms[:, 2][(norms[:, 2] >= low) & (norms[:, 2] <= high)]
    assert medians[2.0] == pytest.approx(np.median(kept))


def test_letter_values_hold_the_share_they_say():
    figure = plots.go.Figure()
    values = np.arange(1000.0)
    plots._letter_values(figure, 0, values, "black")
    for bar in (trace for trace in figure.data if trace.type == "bar"):
        share = float(bar.hovertemplate.split("middle ")[1].split("%")[0]) / 100
        bottom, top = bar.base[0], bar.base[0] + bar.y[0]
        inside = ((values >= bottom) & (values <= top)).mean()
        assert inside == pytest.approx(share * 0.98, abs=0.02)


def test_stream_norms_separate_the_extreme_token(found):
    lines = {trace.name: trace.y for trace in plots.residual_norms(found, sequence=0).data}
    np.testing.assert_allclose(lines["first token"][:2], 250001**0.5, rtol=1e-6)
    assert max(lines["largest of the others"]) < 100
    assert plots.residual_norms(found, sequence=0).layout.yaxis.type == "log", "the peak would hide the others"
    inner = {trace.name: trace.y for trace in plots.residual_norms(found, sequence=1).data}
    np.testing.assert_allclose(inner["other extreme tokens"][:2], 250001**0.5, rtol=1e-3)
    assert max(inner["first token"]) < 100
    averaged = plots.residual_norms(found)
    assert any(trace.fill == "toself" for trace in averaged.data), "the range over texts"


def test_coordinates_add_up_to_the_whole(found):
    bars = plots.peak_coordinates(found).data
    total = np.sum([bar.y for bar in bars], axis=0)
    np.testing.assert_allclose(total, 1, atol=1e-9)
    top = {bar.text[0]: bar.y[0] for bar in bars}
    assert top["5"] == pytest.approx(160000 / 250001, rel=1e-6)
    assert top["3"] == pytest.approx(90000 / 250001, rel=1e-6)
    assert [bar.name for bar in bars][:2] == ["largest coordinate", "second coordinate"]


def test_a_map_is_the_pattern_below_the_diagonal():
    text = [S, 3, 4, 5, 3, 4]
    maps = patterns(planted(), text, layers=[1])
    shown = plots.pattern(maps, 1, 1).data[0].z
    np.testing.assert_allclose(shown[3][:4], 0.25, rtol=1e-6)
    assert np.isnan(shown[3][4])
    assert maps.pattern.sizes == {"layer": 1, "head": 2, "query": 6, "key": 6}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: plots.sink_heatmap(d, "weight"), "measure='weight' is not one of"),
        (lambda d: plots.sink_heatmap(d, position=24), "position=24, but the shortest text has the positions 0 to 23"),
        (lambda d: plots.value_norms(d, sequence=2), "sequence=2, but the result holds 2 texts"),
    ],
)
def test_what_is_not_there_is_refused(found, call, message):
    with pytest.raises(InputError, match=message):
        call(found)


def test_maps_of_layers_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"layers=\[3\]: .* has the layers 0 to 2"):
        patterns(planted(), [3, 4, 5], layers=[3])
    with pytest.raises(InputError, match="2 texts; a map is of one text"):
        patterns(planted(), [[3, 4], [4, 5]])
