"""Pictures of what changes dormancy hold the numbers that they were given."""

import numpy as np
import pytest
import xarray as xr

from tests.inactive_heads.test_cutoffs import drawn
from workbench.inactive_heads import distances, inactive_head_thresholds, transfer
from workbench.plot import inactive_scores as dormancy


def test_training_shows_births_above_and_deaths_below():
    found = xr.Dataset(
        {
            "share_dormant": ("step", [0.0, 0.2, 0.1]),
            "share_inactive": ("step", [0.0, 0.1, 0.05]),
            "distance": ("step", [0.3, 0.1, 0.0]),
            "floor": 0.02,
            "persistence": ("step", [np.nan, 0.5, 1.0]),
            "births": ("step", [0, 4, 1]),
            "deaths": ("step", [0, 0, 3]),
        },
        coords={"step": [0, 10, 20]},
        attrs={"usually": 0.25},
    )
    traces = {trace.name: trace for trace in dormancy.training_curves(found).data}
    assert list(traces["became dormant"].y) == [4, 1] and list(traces["became active"].y) == [0, -3]
    np.testing.assert_allclose(traces["dormant heads"].y, [0, 20, 10])
    np.testing.assert_allclose(traces["of these dormant at the end"].y[1:], [10, 10])
    np.testing.assert_allclose(traces["distance"].y, [0.3, 0.1, 0])


def test_transfer_shows_every_pair_and_other_halves():
    scores = drawn(20)
    groups = {"a": scores, "b": scores * 0.5}
    moved = transfer(groups, [0.2])
    dots = {trace.name: trace for trace in dormancy.threshold_transfer(moved).data}
    at = list(dots["fitted on a"].y).index("AHON")
    wanted = 100 * moved["selected"].sel(fit="a", applied="b", score="AHON").item()
    assert dots["fitted on a"].x[at] == pytest.approx(wanted)
    halves = [inactive_head_thresholds(one, [0.2], held_out=True)["selected"] for one in groups.values()]
    moved["held_out"] = xr.concat(halves, "fit").assign_coords(fit=list(groups))
    last = dormancy.threshold_transfer(moved).data[-1]
    found = dict(zip(last.y, last.x, strict=True))
    assert found["AHON"] == pytest.approx(100 * moved["held_out"].sel(score="AHON", fit="b").item())


def test_changes_of_accuracy_stand_at_their_quantiles():
    dims = ("score", "threshold")
    found = xr.Dataset(
        {"change": (dims, [[0.01, -0.02]]), "change_low": (dims, [[0, -0.03]]), "change_high": (dims, [[0.02, 0]])},
        coords={"score": ["AHON_LN"], "threshold": [0.1, 0.2]},
    )
    [line] = dormancy.accuracy_changes(found).data
    assert list(line.x) == [10, 20] and line.name == "AHON (LN)"
    np.testing.assert_allclose(line.y, [1, -2])
    np.testing.assert_allclose(line.error_y.arrayminus, [1, 1])


def test_distributions_and_distances_are_drawn_against_the_first_model():
    groups = {"first": drawn(30), "same": drawn(30, seed=1), "moved": drawn(30) + 1}
    lines = dormancy.score_distributions({name: one.sel(score="AHON") for name, one in groups.items()}).data
    half = int(np.argmin(abs(np.array(lines[0].y) - 50)))
    assert lines[2].x[half] == pytest.approx(lines[0].x[half] + 1)
    found = distances(groups)
    traces = {trace.name: trace for trace in dormancy.score_distances(found).data}
    np.testing.assert_allclose(traces["moved"].x, 1)
    assert list(traces) == ["two halves of one model's texts", "same", "moved"]
