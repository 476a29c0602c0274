"""Pictures of inactive heads hold the numbers that they were given."""

import numpy as np
import pytest
import xarray as xr

from tests.inactive_heads.test_cutoffs import drawn
from workbench.errors import InputError
from workbench.inactive_heads import overlap
from workbench.papers.inactive_heads.published import published
from workbench.plot import inactive


def curves():
    return published().sel(model="Llama-3.1-8B-Instruct")


def test_the_leading_scores_of_the_paper_s_figure_are_drawn_over_realised_shares():
    figure = inactive.accuracy_curves(curves())
    names = [trace.name for trace in figure.data]
    assert names == ["AHON (LN)", "AWFT", "LTHON (LN)", "random"]
    one = curves().sel(score="AWFT")
    order = np.argsort(one["share"].values, kind="stable")
    np.testing.assert_allclose(figure.data[1].x, 100 * one["share"].values[order])
    np.testing.assert_allclose(figure.data[1].y, 100 * one["accuracy"].values[order])
    lines = sorted(shape.y0 for shape in figure.layout.shapes)
    np.testing.assert_allclose(lines, [67.324, 68.324])


def test_intervals_are_drawn_where_there_are_any():
    found = curves()
    found["accuracy_low"], found["accuracy_high"] = found["accuracy"] - 0.02, found["accuracy"] + 0.03
    with_bars = inactive.accuracy_curves(found, scores=["AHON_LN"]).data[0]
    np.testing.assert_allclose(with_bars.error_y.array, 3)
    np.testing.assert_allclose(with_bars.error_y.arrayminus, 2)
    assert inactive.accuracy_curves(found, scores=["AHON_LN"], interval=False).data[0].error_y.array is None


def test_ranks_are_ordered_by_their_mean_and_one_s_own_model_is_set_off():
    ranks = xr.DataArray([[1, 2, 3], [2, 1, 3]], dims=("model", "score"), coords={"score": ["AWFT", "AHON_LN", "AVVN"]})
    figure = inactive.auc_ranks(ranks.assign_coords(model=["theirs", "mine"]), own=["mine"])
    assert list(figure.data[0].y) == ["theirs", "<b>mine</b>"]
    assert figure.data[0].x[-1] == "AVVN" and np.array(figure.data[0].z)[:, -1].tolist() == [3, 3]


def test_maps_hold_frequencies_and_crosses_hold_differences():
    frequency = np.random.default_rng(0).random((2, 3, 4))
    p_corrected = np.ones((1, 3, 4))
    p_corrected[0, 1, 2] = 0.01
    found = xr.Dataset(
        {
            "frequency": (("domain", "layer", "head"), frequency),
            "p_corrected": (("pair", "layer", "head"), p_corrected),
        },
        coords={"domain": ["prose", "code"], "pair": ["prose − code"]},
        attrs={"group_size": 2},
    )
    maps = [trace for trace in inactive.domain_maps(found).data if trace.type == "heatmap"]
    np.testing.assert_allclose([np.array(one.z) for one in maps], frequency)
    [crosses] = [trace for trace in inactive.domain_maps(found).data if trace.type == "scatter"]
    assert (list(crosses.x), list(crosses.y)) == ([2], [1])


def test_overlap_shows_its_table():
    scores = drawn(20)
    found = overlap(scores, 0.2)
    np.testing.assert_allclose(inactive.score_overlap(found).data[0].z, found["iou"])
    np.testing.assert_allclose(inactive.score_overlap(found, "precision").data[0].z, found["precision"])


def test_what_was_not_measured_is_named():
    with pytest.raises(InputError, match="'FHON' was not measured; the curves hold AWFT"):
        inactive.accuracy_curves(curves(), scores=["FHON"])
    with pytest.raises(InputError, match="measure='dice' must be 'iou' or 'precision'"):
        inactive.score_overlap(overlap(drawn(4)), "dice")
