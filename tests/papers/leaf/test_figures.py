import numpy as np
import pytest
import xarray as xr

from workbench.leaf import toy
from workbench.papers.catalogue import recipe
from workbench.papers.leaf.comparisons import PAIRS, comparisons
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


def planted(gains):
    """A record in which `released` has a gain over every other way, by kind, on six students of different strength."""
    rng, ways = np.random.default_rng(0), sorted({name for pair in PAIRS for name in pair})
    value = rng.uniform(0.4, 0.6, (len(gains), 6))[:, :, None] + rng.normal(0, 0.005, (len(gains), 6, len(ways)))
    value[:, :, ways.index("released")] += np.array(gains)[:, None]
    dims = ("regime", "seed", "arm")
    record = xr.DataArray(value, dims=dims, coords={"regime": list("BANPD")[: len(gains)], "arm": ways})
    return xr.Dataset({"value": record.expand_dims(measure=["conflict"])})


def test_a_gain_in_one_kind_alone_is_found_there_and_not_over_kinds():
    found = {(one.arm, one.rival): one for one in comparisons(planted((0.2, 0, 0, 0, 0)))}
    one = found["released", "misled, half"]
    assert one.more == ("B",) and not one.less and one.low < 0 < one.high and one.named and one.kinds == 5
    assert found["LeaF", "KD"].more == () and not found["LeaF", "KD"].named


def test_a_loss_is_told_from_a_gain():
    one = next(one for one in comparisons(planted((-0.2, 0, 0, 0, 0))) if (one.arm, one.rival) == ("released", "KD"))
    assert one.less == ("B",) and not one.more and "by itself less in B" in one.sentence()


def test_a_gain_in_every_kind_is_found_over_kinds():
    one = {(one.arm, one.rival): one for one in comparisons(planted((0.1, 0.12, 0.09, 0.11, 0.1)))}
    assert one["released", "disagreeing, half"].low > 0.05
    assert one["released", "disagreeing, half"].more == tuple("BANPD")
