import numpy as np
import pytest

from workbench.leaf import toy
from workbench.papers.catalogue import recipe
from workbench.papers.leaf.figures import RECIPES, findings
from workbench.papers.recipes import FigureRequest


@pytest.mark.parametrize("name", [one.name for one in RECIPES])
def test_every_figure_is_drawn_from_the_shipped_record(name, tmp_path):
    drawn = recipe(name).make(FigureRequest(tmp_path))
    assert drawn.figure.data and drawn.sentence.endswith(".")
    assert "nan" not in drawn.sentence.lower()


def test_what_is_said_is_computed_from_the_record():
    found = toy.measured()
    hit = found["hit"].sel(level="instruction", score="gradient_difference", regime="B").mean("seed")
    assert f"gradient difference {float(hit):.2f} (B)" in findings(found)[0]
    changed = found.assign(hit=found["hit"] * 0)
    assert "gradient difference 0.00 (B)" in findings(changed)[0]


def test_one_student_alone_has_no_intervals():
    told = findings(toy.measured("development"))
    assert told[-1].startswith("Conflicts: KD") and not any(np.isnan(float(w)) for w in told[-1].split() if w == "nan")
