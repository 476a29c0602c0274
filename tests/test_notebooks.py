"""The notebooks as files to run and as sources to read."""

from pathlib import Path

import jupytext
import pytest

SOURCES = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_holds_the_cells_of_its_source(source):
    cells, mine = (
        [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]
        for path in (source, source.with_suffix(".ipynb"))
    )
    assert mine == cells, f"jupytext --to ipynb --update {source.name}"
