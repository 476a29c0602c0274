import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.plot.synthetic import both
from workbench.errors import InputError
from workbench.plot import export, heatmap, layer_sums, plotted_numbers, save_figure, table
from workbench.plot.html import policy

needs_chrome = pytest.mark.skipif(export.missing_chrome() is not None, reason="no Chrome or Chromium")


def test_pages_share_one_plotly_and_load_nothing_else(tmp_path):
    heads, groups = both()
    for name, result in (("a", heads), ("b", groups)):
        files, message = save_figure(heatmap(result), tmp_path / "sycophancy" / name, ("html",), root=tmp_path)
        assert message is None and [f.name for f in files] == [f"{name}.html"]
    scripts = list(tmp_path.rglob("*.js"))
    assert [p.relative_to(tmp_path).as_posix() for p in scripts] == ["assets/plotly.min.js"]
    page = (tmp_path / "sycophancy" / "a.html").read_text()
    assert len(page) < 100_000
    assert re.findall(r'src="([^"]+)"', page) == ["../assets/plotly.min.js"]
    assert not re.search(r"""(?:src|href)=["']https?:""", page)
    [drawing] = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    said = policy(drawing, sources="'self' file:").replace("'", "&#39;")
    assert f'http-equiv="Content-Security-Policy" content="{said}"' in page


def test_json_holds_the_plotted_numbers_and_not_the_styling(tmp_path):
    heads, _ = both()
    save_figure(heatmap(heads, title="Map"), tmp_path / "map", ("json",))
    content = json.loads((tmp_path / "map.json").read_text())
    trace = content["traces"][0]
    np.testing.assert_allclose(trace["z"], heads["contribution"].sel(metric="logit_ratio") * 100)
    np.testing.assert_allclose(np.array(trace["hover"]["low"]) <= np.array(trace["z"]), True)
    assert trace["hover"]["kv_group"][0] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert content["title"] == "Map" and "colorscale" not in json.dumps(content)


def test_tables_and_bars_become_columns():
    assert plotted_numbers(table({"Model": ["a"], "Heads": [64]}))["traces"][0]["columns"] == {
        "Model": ["a"],
        "Heads": ["64"],
    }
    heads, _ = both()
    bars = plotted_numbers(layer_sums(heads))["traces"][0]
    assert bars["x"] == [0, 1, 2, 3] and len(bars["y"]) == 4


def test_what_is_not_finite_becomes_null():
    heads, _ = both()
    heads["stderr"][:] = np.nan
    numbers = plotted_numbers(heatmap(heads))
    assert numbers["traces"][0]["hover"]["low"][0][0] is None
    json.dumps(numbers, allow_nan=False)


@needs_chrome
def test_png_and_pdf_are_drawn(tmp_path):
    heads, _ = both()
    files, message = save_figure(layer_sums(heads), tmp_path / "sums", ("png", "pdf"), width="column")
    assert message is None
    png, pdf = (f.read_bytes() for f in files)
    assert png.startswith(b"\x89PNG") and pdf.startswith(b"%PDF")
    assert int.from_bytes(png[16:20], "big") == 800


@needs_chrome
@pytest.mark.parametrize(("width", "points"), [("column", 234), ("page", 486)])
def test_pictures_are_as_wide_as_they_are_printed(tmp_path, width, points):
    files, _ = save_figure(layer_sums(both()[0]), tmp_path / "sums", ("png", "pdf"), width=width)
    png, pdf = (f.read_bytes() for f in files)
    [box] = re.findall(rb"MediaBox \[([^\]]*)\]", pdf)
    assert float(box.split()[2]) == pytest.approx(points, abs=1)
    assert png[37:41] == b"pHYs"
    pixels, per_metre = int.from_bytes(png[16:20], "big"), int.from_bytes(png[41:45], "big")
    assert pixels / per_metre / 0.0254 * 72 == pytest.approx(points, abs=0.1)


def test_the_caption_lies_beside_the_figure(tmp_path):
    figure = layer_sums(both()[0]).update_layout(meta={"sentence": "Layer 2 holds most."})
    files, _ = save_figure(figure, tmp_path / "sums", ("html",))
    assert [f.name for f in files] == ["sums.html", "sums.caption.txt"]
    assert files[1].read_text() == "Layer 2 holds most.\n" and "<p>Layer 2 holds most.</p>" in files[0].read_text()


def test_without_a_browser_the_rest_is_written_and_one_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nowhere"))
    heads, _ = both()
    files, message = save_figure(layer_sums(heads), tmp_path / "sums")
    assert [f.suffix for f in files] == [".html", ".json"]
    assert message is not None and "no Chrome or Chromium was found" in message and "apt install chromium" in message


def test_unknown_format_is_refused(tmp_path):
    heads, _ = both()
    with pytest.raises(InputError, match="unknown figure format 'svg'; choose from html, json, png, pdf"):
        save_figure(layer_sums(heads), tmp_path / "x", ("svg",))


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken(file, *_, **__):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", broken)
    with pytest.raises(InputError, match=r"Cannot write .*disk full"):
        save_figure(heatmap(both()[0]), tmp_path / "x", ("json",))
    assert list(tmp_path.iterdir()) == []
