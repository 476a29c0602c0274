"""Only heads whose attention differs are zeroed."""

import numpy as np
import pytest

from tests.extreme.sleeper import sleeper, texts
from workbench.errors import InputError
from workbench.extreme import active_dormant, waking_sentences
from workbench.extreme.dormancy import Limits
from workbench.extreme.shortlist import shortlist

QUICK = Limits(n_permutations=200)


def test_heads_that_rest_nowhere_are_left_out_and_the_rest_is_ranked_by_sure_differences():
    rng = np.random.default_rng(0)
    means = np.array([[[0.9, 0.9], [0.8, 0.3]], [[0.6, 0.8], [0.8, 0.1]]])[:, None]
    spread = np.array([[0.2, 0.01], [0.01, 0.001]])
    weights = means + spread * rng.normal(size=(2, 6, 2, 2))
    assert np.argwhere(shortlist(weights, 1, 0.5)).tolist() == [[0, 1]], "sure, if not the largest"
    assert np.argwhere(shortlist(weights, 2, 0.5)).tolist() == [[0, 0], [0, 1]]
    assert np.argwhere(~shortlist(weights, 10, 0.5)).tolist() == [[1, 1]], "it rests in no domain"
    with pytest.raises(InputError, match="shortlist=0 heads"):
        shortlist(weights, 0, 0.5)
    with pytest.raises(InputError, match="No head pays 50% of its attention"):
        shortlist(weights * 0, 1, 0.5)


def test_only_the_sleeper_is_zeroed_and_the_other_head_still_counts():
    domains = {"plain": texts(12, 24, False), "triggered": texts(12, 24, True, seed=1)}
    found = active_dormant(sleeper(), domains, length=24, shortlist=1, limits=QUICK, progress=False)
    assert waking_sentences(found).values.tolist() == [["dormant in plain, active in triggered", "not measured"]]
    assert found["n_texts"].values.tolist() == [[12, 0]]
    assert found.attrs["n_candidates"] == 2 and found.attrs["shortlist"] == 1
    whole = active_dormant(sleeper(), domains, length=24, limits=QUICK, progress=False)
    np.testing.assert_array_equal(whole["loss_change"].sel(head=0), found["loss_change"].sel(head=0))
    np.testing.assert_array_equal(whole["sink_weight"], found["sink_weight"])
    assert np.isnan(found["loss_change"].sel(head=1)).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"shortlist": 1, "heads": [(0, 0)]}, "leave out layers= and heads="),
        ({"heads": [(0, 0)], "layers": [0]}, "Both layers= and heads= are given"),
        ({"heads": [(0, 5)]}, r"no head in \(0, 5\)"),
        ({"layers": []}, "nothing to zero"),
    ],
)
def test_choices_that_cannot_be_made_are_refused(options, match):
    domains = {"plain": texts(6, 24, False), "triggered": texts(6, 24, True)}
    with pytest.raises(InputError, match=match):
        active_dormant(sleeper(), domains, length=24, **options)
