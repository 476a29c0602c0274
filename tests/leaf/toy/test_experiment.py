"""The whole pipeline on shipped models, and the trial's gates on the record that comes with the package."""

import shutil

import numpy as np
import pytest

from workbench.errors import InputError
from workbench.leaf.toy import experiment, regimes
from workbench.leaf.toy import measures as cell
from workbench.leaf.toy import records as shelf
from workbench.leaf.toy.measures import Size
from workbench.leaf.toy.task import problems

TINY = Size(
    steps=3, batch=16, detect=20, test=100, arms=("KD", "LeaF", "misled, half", "released", "released everywhere")
)


@pytest.fixture
def small_corpus(monkeypatch):
    monkeypatch.setattr(
        regimes.Regime, "problems", lambda self, seed: problems(240, 0.6, 7_000_000 + seed, in_response=0.2)
    )


def test_one_cell_from_end_to_end(small_corpus, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    for name in ("teacher", "B"):
        shutil.copy(regimes.SHIPPED / f"{name}-1.safetensors", tmp_path / "models")
    monkeypatch.setattr(experiment, "side_by_side", in_this_process)
    found = experiment.run(tmp_path / "found.nc", ("B",), (1,), size=TINY, progress=False)
    one = found.isel(regime=0, seed=0)
    hit = one["hit"].sel(level="instruction")
    assert float(hit.sel(score="gradient_difference")) > 2 * float(hit.sel(score="random"))
    rescued = one["rescued"]
    assert rescued.sel(selector="instruction oracle") >= rescued.sel(selector="instruction gradient_difference")
    assert rescued.sel(selector="instruction gradient_difference") >= rescued.sel(selector="instruction random")
    assert one["arm"].values.tolist() == list(TINY.arms)
    assert np.isfinite(one["value"]).all() and np.isfinite(one["share"]).all()
    share = one["share"].sel(look="attention", tokens="planted")
    assert share.sel(reader="student") > share.sel(reader="teacher")
    monkeypatch.setattr(cell, "measure_run", None)
    assert experiment.run(tmp_path / "found.nc", ("B",), (1,), size=TINY).equals(found)
    with pytest.raises(InputError, match="another configuration"):
        experiment.run(tmp_path / "found.nc", ("B",), (1,), size=Size())


def in_this_process(work, calls, processes, what, progress, done=lambda call, result: None):
    for call in calls:
        done(call, work(*call))


def test_the_trials_gates_hold_on_fresh_students():
    found = shelf.measured().sel(regime="B")
    hit, auroc = (found[name].sel(level="instruction") for name in ("hit", "auroc"))
    ours = hit.sel(score="gradient_difference").mean("seed")
    assert ours > 2 * hit.sel(score="random").mean("seed") and ours > 2 * hit.sel(score="perplexity").mean("seed")
    assert auroc.sel(score="gradient_difference").mean("seed") > 0.75
    rescued = found["rescued"].mean("seed")
    oracle, leaf, chance = (
        float(rescued.sel(selector=f"instruction {name}")) for name in ("oracle", "gradient_difference", "random")
    )
    assert oracle >= leaf >= chance


def test_no_cells_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least one regime, one seed and one process"):
        experiment.run(tmp_path / "x.nc", (), (1,))
