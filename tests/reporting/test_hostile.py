"""In a browser without a network no text of a model, prompt or token runs, and a page's own scripts do."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.papers.synthetic import model
from tests.plot.synthetic import attention_result
from tests.plot.test_confounders import result
from workbench.papers.measured import Measured
from workbench.plot.confounders import confounders
from workbench.plot.export import _browser_path, save_figure
from workbench.plot.tokens import attention
from workbench.reporting import page
from workbench.reporting.build import html

OWNED = "top.postMessage('owned', '*')"
NAME = f'<img src=x onerror="{OWNED}"><svg onload="{OWNED}"><b>&lt;{{{{7*7}}}}'
TEXT = f'</script></style></title><script>{OWNED}</script>{NAME}" onmouseover="{OWNED}"\u2028]]>-->'
WATCH = "<title>safe</title><script>addEventListener('message', e => { document.title = e.data; });</script>"

pytestmark = pytest.mark.skipif(_browser_path() is None, reason="no Chrome or Chromium is installed")


def shown(file: Path) -> str:
    """The document that a browser makes of a page."""
    browser = str(_browser_path())
    alone = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    limits = ["--virtual-time-budget=4000", f"--user-data-dir={file.parent / 'profile'}", "--dump-dom"]
    asked = [browser, *alone, *limits, file.as_uri()]
    return subprocess.run(asked, check=True, capture_output=True, text=True, timeout=120).stdout


def framed(folder: Path, pages: dict[str, str]) -> str:
    """The title of a page that shows others in frames, any of whose scripts could change it."""
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    frames = "".join(f'<iframe src="{name}.html" width=900 height=600></iframe>' for name in pages)
    (folder / "frames.html").write_text(f"<!doctype html>{WATCH}{frames}")
    return shown(folder / "frames.html").split("<title>")[1].split("</title>")[0]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report, the confounders of two prompts, a figure and a CircuitsVis view, all of hostile texts."""
    folder = tmp_path_factory.mktemp("pages")
    one = model(NAME, planted={(2, 4): -0.8})
    parts = dict(one.parts)
    talks = parts["dialogues"]
    said = json.dumps([{"role": role, "content": TEXT} for role in ("system", "user", "assistant", "user")])
    evil = {n: said if str(n).endswith("_messages") else TEXT for n in talks}
    words = result()
    words = words.assign({n: v.copy(data=np.where(v == "", "", TEXT)) for n, v in words.items() if v.dtype == object})
    words = words.assign_attrs(student=NAME, teacher=TEXT)
    parts["dialogues"] = talks.assign({n: talks[n].copy(data=np.full(talks[n].shape, evil[n], object)) for n in talks})
    tokens = attention_result(n_tokens=4).assign_coords(token=("key", [TEXT, NAME, "</script>", "\u2028"]))
    figure = attention(tokens, title=TEXT)
    figure.update_layout(meta={"sentence": TEXT})
    drawn = save_figure(figure, folder / "figure", ("html",))[0][0]
    return folder, {
        "report": html([Measured(NAME, parts)], made=TEXT, confounders=words),
        "single": page.document("single", TEXT, plots=False, content=confounders(words)),
        "figure": drawn.read_text(encoding="utf-8"),
        "circuitsvis": attention(tokens, backend="circuitsvis"),
    }


def test_no_text_runs(pages):
    folder, texts = pages
    assert framed(folder, texts) == "safe"


def test_the_policy_stops_what_escaping_would_let_through(pages, tmp_path):
    _, texts = pages
    through = f'<script>{OWNED}</script><img src=x onerror="{OWNED}"></body>'
    caught = {name: texts[name].replace("</body>", through) for name in ("single", "figure")}
    assert framed(tmp_path, caught) == "safe"
    bare = {name: text.replace("Content-Security-Policy", "nothing") for name, text in caught.items()}
    assert framed(tmp_path, bare) == "owned", "without the policy it must run"


def test_the_page_s_own_scripts_draw_its_figures(pages):
    folder, texts = pages
    (folder / "report.html").write_text(texts["report"], encoding="utf-8")
    assert "main-svg" in shown(folder / "report.html")
