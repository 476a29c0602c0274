"""A sample of `benchmarks.architectures`: every cell against hooks on plain Hugging Face modules."""

from importlib.metadata import version

import pytest

from benchmarks.architectures import cells
from benchmarks.architectures.__main__ import BEGIN, END, table, write
from benchmarks.architectures.cells import Subject
from benchmarks.architectures.rows import Cell, Row, _cell, row

pytestmark = pytest.mark.skipif(
    version("transformer-lens").startswith("3.9"), reason="the table is that of TransformerLens 4"
)
REFUSED = {
    "DeepseekV3ForCausalLM": set(),
    "Olmo2ForCausalLM": set(),
    "Qwen3NextForCausalLM": {"q, k", "tuning"},
    "Lfm2ForCausalLM": set(),
}
"""Rows of four kinds, and what is refused on them: latent attention, a common norm, a gate, convolutions."""


@pytest.mark.parametrize("name", REFUSED)
def test_every_cell_is_right_or_refused(name, untyped):
    found = row(name)
    assert found.status == "right", found
    assert {key for key, cell in found.cells.items() if cell.status == "refused"} == REFUSED[name]


def test_a_wrong_number_and_another_exception_are_told(monkeypatch):
    subject, own = Subject("LlamaForCausalLM"), cells.wb.head_scores
    assert _cell(cells.scores, subject).status == "right"
    monkeypatch.setattr(cells.wb, "head_scores", lambda *given, **more: 1.01 * own(*given, **more))
    found = _cell(cells.scores, subject)
    assert found.status == "wrong" and found.error == pytest.approx(0.01, rel=0.01)
    monkeypatch.setattr(cells.wb, "head_scores", lambda *_, **__: {}["missing"])
    assert _cell(cells.scores, subject) == Cell("raw", why="KeyError: 'missing'")


def test_the_table_stands_between_the_markers_of_a_page(tmp_path):
    refused = {"load": Cell("right", 1e-7), "tuning": Cell("refused", why="AForCausalLM has no heads.")}
    rows = [Row("AForCausalLM", refused, "rerun"), Row("BLMHeadModel", {"load": Cell("wrong", 0.5)})]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(page, table(rows))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| A | right |" in text and "refused 1" in text and "1. X has no heads." in text
    assert "| B | WRONG 5e-01 |" in text and "1 have a wrong number, 0 another exception" in text
