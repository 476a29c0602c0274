import numpy as np
import pytest
import xarray as xr

from workbench.leaf.toy.detection import detected


def test_hits_and_areas_are_those_of_the_definitions():
    rng = np.random.default_rng(0)
    values = rng.random((2, 5, 9))
    values[:, :, 7:] = np.nan
    truth = [[1, 2], [0], [3, 4], [5, 6], [2]]
    found = xr.Dataset(
        {"sensitivity": (("score", "example", "position"), values), "confounding": ("score", ["low", "high"])},
        {"score": ["down", "up"]},
    )
    got = detected(found, truth)
    for row, sign in ((0, -1), (1, 1)):
        hits, areas = [], []
        for one, at in zip(sign * values[row, :, :7], truth, strict=True):
            planted = np.isin(np.arange(7), at)
            hits.append(planted[one.argmax()])
            areas.append(np.mean([a > b for a in one[planted] for b in one[~planted]]))
        assert float(got["hit"][row]) == pytest.approx(np.mean(hits))
        assert float(got["auroc"][row]) == pytest.approx(np.mean(areas))
