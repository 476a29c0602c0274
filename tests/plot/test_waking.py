import numpy as np
import pytest
import xarray as xr

from tests.extreme.sleeper import sleeper, texts
from workbench.errors import InputError
from workbench.extreme.dormancy import Limits, phases
from workbench.extreme.head_explanation import attention_maps
from workbench.plot.waking import waking_heatmap, waking_maps, waking_scatter

NAMES = ["prose", "code", "talk"]


@pytest.fixture(scope="module")
def result():
    """Head 0 wakes in code, head 1 in prose, head 2 sleeps in all, head 3 is awake in all."""
    rng = np.random.default_rng(0)
    effect = np.array([[0, 0.2, 0, 0.1], [0.2, 0, 0, 0.1], [0, 0, 0, 0.1]])[:, None, None]
    change = effect + 0.002 * rng.normal(size=(3, 12, 2, 4))
    weight = np.where(change > 0.05, 0.4, 0.9)
    dims = ("domain", "sequence", "layer", "head")
    coords = {
        "domain": NAMES,
        "layer": [0, 1],
        "head": np.arange(4),
        "sequence": np.arange(12),
        "text": (("domain", "sequence"), np.full((3, 12), "a <b>\ntext")),
    }
    data = xr.Dataset({"loss_change": (dims, change), "sink_weight": (dims, weight)}, coords, {"group_size": 2})
    return phases(data, Limits(n_permutations=200))


def test_a_marker_per_sequence_and_a_colour_per_domain(result):
    figure = waking_scatter(result, 1, 0)
    assert [trace.name for trace in figure.data] == NAMES
    one = result.sel(domain="code", layer=1, head=0)
    np.testing.assert_array_equal(figure.data[1].x, one["sink_weight"])
    np.testing.assert_array_equal(figure.data[1].y, one["loss_change"])
    assert len({trace.marker.color for trace in figure.data}) == 3
    assert figure.data[0].customdata[3].tolist() == ["3", "a &lt;b> text"]
    assert "dormant in prose, talk, active in code" in figure.layout.title.text


def test_lines_stand_at_the_limits(result):
    lines = waking_scatter(result, 0, 1).layout.shapes
    assert [(s.x0, s.y0) for s in lines] == [(0, -0.01), (0, 0.01), (0.5, 0)]


def test_cells_are_differences_and_marks_are_verdicts(result):
    figure = waking_heatmap(result, "prose − code")
    np.testing.assert_allclose(figure.data[0].z, result["difference"].sel(score="loss_change", pair="prose − code"))
    marks = {t.name: sorted(set(t.x)) for t in figure.data[1:]}
    assert marks == {
        "dormant in code, active in prose": [1],
        "dormant in prose, active in code": [0],
        "dormant in all": [2],
        "active in all": [3],
    }
    other = {t.name: sorted(set(t.x)) for t in waking_heatmap(result, "code − talk").data[1:]}
    assert "dormant in talk, active in code" in other and "dormant in code, active in talk" not in other
    sink = waking_heatmap(result, score="sink_weight").data[0]
    np.testing.assert_allclose(sink.z, result["difference"].sel(score="sink_weight", pair="prose − code"))


def test_clauses_of_a_verdict_are_read_one_by_one(result):
    wakes = xr.zeros_like(result["wakes"])
    wakes.loc["talk", "prose"] = wakes.loc["code", "talk"] = True
    phase = result["phase"].copy(data=np.full(result["phase"].shape, "undecided"))
    for pair, names in {
        "prose − talk": ["dormant in talk, active in prose"],
        "prose − code": [],
        "code − talk": ["dormant in code, active in talk"],
    }.items():
        assert [t.name for t in waking_heatmap(result.assign(wakes=wakes, phase=phase), pair).data[1:]] == names


def test_a_comma_in_a_domains_name_moves_no_mark(result):
    names = ["prose", "code, python", "talk"]
    raw = result[["loss_change", "sink_weight"]].assign_coords(domain=names)
    figure = waking_heatmap(phases(raw, Limits(n_permutations=200)), "prose − code, python")
    marks = {t.name: sorted(set(t.x)) for t in figure.data[1:]}
    assert marks["dormant in code, python, active in prose"] == [1]
    assert marks["dormant in prose, active in code, python"] == [0]


def test_a_group_is_as_wide_as_its_heads(result):
    raw = result[["loss_change", "sink_weight"]].isel(head=[0, 1]).rename(head="kv_group")
    figure = waking_heatmap(phases(raw.assign_attrs(group_size=2), Limits(n_permutations=200)))
    assert np.asarray(figure.data[0].z).shape == (2, 4)
    assert {x for t in figure.data[1:] for x in t.x} == {0.5, 2.5}


def test_maps_are_the_patterns_of_each_domain():
    domains = {"plain": texts(1, 12, False)[0], "triggered": texts(1, 12, True)[0]}
    found = attention_maps(sleeper(), 0, 0, domains, max_tokens=10)
    figure = waking_maps(found)
    assert len(figure.data) == 2 and [n.text for n in figure.layout.annotations] == list(domains)
    lower = np.tril_indices(10)
    for trace, name in zip(figure.data, domains, strict=True):
        np.testing.assert_allclose(np.asarray(trace.z)[lower], found["pattern"].sel(domain=name).values[lower])
        assert (trace.zmin, trace.zmax) == (0, 1)
    assert figure.layout.xaxis2.ticktext == tuple(f"[{t}]" for t in domains["triggered"][:10])
    assert [t.showscale for t in figure.data] == [False, True]


def test_bad_choices_are_refused(result):
    with pytest.raises(InputError, match=r"layer=7 is not in this result; choose one of \[0, 1\]"):
        waking_scatter(result, 7, 0)
    with pytest.raises(InputError, match=r"head=9 is not in this result"):
        waking_scatter(result, 0, 9)
    with pytest.raises(InputError, match="pair='code' is not in this result"):
        waking_heatmap(result, "code")
    with pytest.raises(InputError, match="score='loss' is not in this result"):
        waking_heatmap(result, score="loss")
    with pytest.raises(
        InputError, match=r"does not say where heads are dormant or active; it holds loss_change, sink_weight"
    ):
        waking_heatmap(result[["loss_change", "sink_weight"]])
