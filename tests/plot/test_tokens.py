import json
import re
import sys

import numpy as np
import pytest
import xarray as xr

from tests.plot.synthetic import attention_result
from workbench.errors import InputError
from workbench.plot import attention, shaded_text

LOADS = re.compile(r"""(?:src|href)\s*=\s*["']?https?:|(?:import|from)\s*\(?["']https?:""")


def test_each_head_is_one_map_below_the_diagonal():
    result = attention_result(n_tokens=10)
    figure = attention(result)
    assert [t.name for t in figure.data] == ["head 4", "head 5", "head 6", "head 7"]
    for trace, head in zip(figure.data, range(4), strict=True):
        expected = result["pattern"].values[0, head]
        lower = np.tril_indices(10)
        np.testing.assert_allclose(np.asarray(trace.z)[lower], expected[lower])
        assert np.isnan(np.asarray(trace.z)[np.triu_indices(10, 1)]).all()


def test_the_picker_shows_one_head_at_a_time():
    figure = attention(attention_result(), heads=(5, 7))
    assert [t.visible for t in figure.data] == [True, False]
    buttons = figure.layout.updatemenus[0].buttons
    assert [b.label for b in buttons] == ["head 5", "head 7"]
    assert [b.args[0]["visible"] for b in buttons] == [[True, False], [False, True]]


def test_tokens_label_both_axes_with_white_space_made_visible():
    figure = attention(attention_result(n_tokens=12))
    assert figure.layout.xaxis.ticktext == figure.layout.yaxis.ticktext
    assert figure.layout.xaxis.ticktext[3] == "·No" and figure.layout.xaxis.ticktext[9] == "↵"


def test_the_first_token_does_not_set_the_colours():
    result = attention_result()
    weights = result["pattern"].values
    assert attention(result).data[0].zmax == pytest.approx(max(0.05, weights[..., 1:, 1:].max()))


def test_shaded_text_is_darkest_where_attention_is():
    result = attention_result(heads=(4,))
    result["pattern"][0, 0, -1] = 0.0
    result["pattern"][0, 0, -1, 5] = 0.6
    result["pattern"][0, 0, -1, 6] = 0.3
    html = shaded_text(result)
    alphas = [float(a) for a in re.findall(r"rgba\(31,95,139,([\d.]+)\);color", html)]
    assert alphas[4] == 1.0 and alphas[5] == pytest.approx(0.5) and sum(alphas) == pytest.approx(1.5)


def test_weak_attention_stays_pale():
    result = attention_result(heads=(4,))
    result["pattern"][0, 0, -1] = 0.03
    alphas = re.findall(r"rgba\(31,95,139,([\d.]+)\);color", shaded_text(result))
    assert {float(a) for a in alphas} == {0.2}


def test_shaded_text_escapes_tokens_and_tells_what_it_shows():
    result = attention_result(n_tokens=4).assign_coords(token=("key", ["<bos>", "<b>", "&", "x"]))
    html = shaded_text(result, mean=True)
    assert "<b>" not in html and "&lt;b&gt;" in html and "&amp;" in html
    assert html.count("<p ") == 1 and "Mean of heads 4, 5, 6, 7" in html and "aria-label=" in html


def test_circuitsvis_writes_its_installed_script_into_the_page():
    pytest.importorskip("circuitsvis")
    html = attention(attention_result(n_tokens=5), backend="circuitsvis")
    assert "AttentionHeads" in html and len(html) > 1_000_000
    assert not LOADS.search(html)
    assert html._repr_html_() == html


MARKUP = ["<s>", "</script>", "<b>", "&lt;", "<br>", "a&b", " <script>alert(1)</script>"]


def test_tokens_that_look_like_html_are_labelled_as_they_are():
    result = attention_result(n_tokens=7).assign_coords(token=("key", MARKUP))
    labels = ("&lt;s&gt;", "&lt;/script&gt;", "&lt;b&gt;", "&amp;lt;", "&lt;br&gt;", "a&amp;b", "·&lt;script&gt;aler…")
    figure = attention(result)
    assert figure.layout.xaxis.ticktext == figure.layout.yaxis.ticktext == labels


def test_circuitsvis_gets_every_token_and_none_ends_its_script():
    pytest.importorskip("circuitsvis")
    result = attention_result(n_tokens=7).assign_coords(token=("key", MARKUP))
    html = attention(result, backend="circuitsvis")
    assert html.count("</script>") == 1 and html.endswith("</script>")
    call = html.rpartition("CircuitsVis.AttentionHeads,")[2].removesuffix("</script>").strip().removesuffix(")")
    given = json.loads(call)
    assert given["tokens"] == [*MARKUP[:-1], "·<script>alert(1)</script>"]
    assert given["attentionHeadNames"] == ["head 4", "head 5", "head 6", "head 7"]
    np.testing.assert_array_equal(given["attention"], result["pattern"].values[0])


def test_circuitsvis_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "circuitsvis.utils.render", None)
    with pytest.raises(InputError, match="needs the package circuitsvis"):
        attention(attention_result(), backend="circuitsvis")


def test_bad_choices_are_refused():
    result = attention_result()
    with pytest.raises(InputError, match="unknown backend 'bertviz'"):
        attention(result, backend="bertviz")
    with pytest.raises(InputError, match=r"layer=9 is not in this result; choose one of \[2\]"):
        attention(result, layer=9)
    with pytest.raises(InputError, match=r"heads \[1\] are not in this result"):
        attention(result, heads=(1,))
    with pytest.raises(InputError, match="missing: pattern, token"):
        attention(xr.Dataset({"x": ("key", [1.0])}))
