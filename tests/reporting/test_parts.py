"""Parts of a page: how their data are shown, escaped and kept from running scripts of others."""

import base64
import hashlib
import re

import plotly.graph_objects as go

from workbench.papers.recipes import Panel
from workbench.plot.html import Html, environment, policy
from workbench.reporting import page
from workbench.reporting.parts import Choice, Facts, Figure, Folded, Heading, Items, Raw, Row, Section, Table, Text


def shown(*parts):
    section = Section("here", "Label", "A title", "An intro.", parts)
    values = {"names": "", "heading": "", "lede": "", "short": [], "made": ""}
    return page.document("report", "T", plots=False, sections=[section], **values)


def test_columns_of_numbers_stand_right_and_failures_stand_out():
    table = Table({"Check": ["a", "b"], "Value": ["1,200", "\u22125 %"], "Mixed": [3, "failed (0.5)"]}, "What")
    assert table.head == [("Check", False), ("Value", True), ("Mixed", False)]
    assert table.rows[1] == [("b", ""), ("\u22125 %", "wb-num"), ("failed (0.5)", "wb-bad")]
    assert Table({"n": [1200, True]}).rows == [[("1,200", "wb-num")], [("True", "wb-num")]]
    html = shown(table)
    assert '<td class="wb-bad">failed (0.5)</td>' in html and "<caption>What</caption>" in html


def test_texts_are_escaped_and_made_html_is_not():
    bad = "<script>x</script>"
    html = shown(Text([bad]), Items([bad]), Facts({bad: bad}), Heading(bad, bad), Folded(bad, [Text([bad])]))
    assert "<script>" not in html and html.count("&lt;script&gt;") == 8
    assert "<b>kept</b>" in shown(Raw(Html("<b>kept</b>")))


def test_every_figure_has_its_own_identifier_and_its_numbers_behind_it():
    figure = go.Figure(go.Scatter(x=[1], y=[2], name="</script>"))
    panel = Panel(figure, "A sentence.", "A label", {"x": [1]}, "units")
    html = shown(Row([Figure(panel, "one"), Figure(panel, caption=False)]))
    assert re.findall(r'class="wb-plot" id="([^"]+)"', html) == ["figure-1", "figure-2"]
    assert 'aria-label="A label for one. A sentence."' in html and 'aria-label="A label. A sentence."' in html
    assert html.count("<figcaption>") == 1 and html.count("The numbers as a table") == 2
    assert html.count("</script>") == 2


def test_one_panel_is_chosen_first():
    html = shown(Choice("score", "Score:", "b", {"a": ("A", [Text(["one"])]), "b": ("B", [Text(["two"])])}))
    assert re.findall(r'value="(\w)"( checked)?', html) == [("a", ""), ("b", " checked")]
    assert re.findall(r'data-name="(\w)"', html) == ["a", "b"]


def test_the_contents_link_to_the_sections():
    html = shown()
    assert '<a href="#here">Label</a>' in html and '<section id="here" aria-labelledby="here-title">' in html


def test_the_policy_lets_only_the_page_s_own_scripts_run():
    html = page.document("single", "T", content=Html("<p>text</p>"))
    said = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert said is not None
    rules = said[1].replace("&#39;", "'")
    scripts = re.findall(r"<script>(.*?)</script>\n", html, flags=re.S)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert len(scripts) == 2 and rules == policy(*scripts)
    assert f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}'; style-src" in rules
    assert rules.startswith("default-src 'none';") and "http:" not in rules and "https:" not in rules
    assert "script-src 'none'" in page.document("single", "T", plots=False, content="").replace("&#39;", "'")


def test_templates_escape_by_default():
    assert environment("workbench.reporting").autoescape is True and environment("workbench.plot").autoescape is True
