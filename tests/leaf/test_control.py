"""Random spans beside the found ones: where they lie, how many tries they have, and how often the interval is right."""

import numpy as np
import pytest

from tests.leaf.made import answered_by, pair
from tests.leaf.test_confounding import CLUE, NEAR, TRAP, planted
from workbench.leaf.confounding import confounders
from workbench.leaf.control import random_counterfactuals
from workbench.leaf.examples import Example
from workbench.leaf.pruning import prune, spans


def asked(n=40, fixed=()):
    """One example of so many tokens, some of which may not be pruned."""
    return Example((1,) * n, (2,), tuple(0 < i < n - 1 and i not in fixed for i in range(n)))


@pytest.mark.parametrize("how", ["span", "collective"])
def test_random_spans_are_as_long_prunable_and_clear_of_the_found_ones(how):
    one, found = asked(fixed=(9, 20)), [3, 4, 5, 11, 24, 25]
    wanted = prune([one], [found], how=how)
    drawn = random_counterfactuals([one], wanted, draws=50, seed=3)
    places = set()
    for row in drawn:
        groups = [set(p.removed) for p in row]
        for group, like in zip(groups, wanted, strict=True):
            assert len(group) == len(like.removed)
            assert group <= set(one.positions) and not group & set(found)
            # A run may touch another one of its set, so runs are counted by their longest.
            assert max(map(len, spans(group))) >= max(map(len, spans(like.removed)))
        assert sum(map(len, groups)) == len(set().union(*groups))  # none overlaps another of its draw
        places |= {min(g) for g in groups}
    assert len(places) > 15
    assert drawn == random_counterfactuals([one], wanted, draws=50, seed=3)
    assert drawn != random_counterfactuals([one], wanted, draws=50, seed=4)


def test_where_a_span_has_no_other_place_the_control_is_no_easier():
    one = Example((1,) * 6, (2,), (False, True, True, True, True, False))
    [[beside]] = random_counterfactuals([one], prune([one], [[1, 2, 3]]), draws=1)
    assert beside.removed in ((1, 2, 3), (2, 3, 4))
    alone = Example((1,) * 8, (2,), (False, True, True, True, False, True, True, False))
    drawn = random_counterfactuals([alone], prune([alone], [[1, 2, 3]]), draws=4)
    assert {row[0].removed for row in drawn} == {(1, 2, 3)}


def test_a_span_that_two_thresholds_find_is_tried_once_in_both_arms():
    one = asked()
    twice = prune([one], [[3]]) + prune([one], [[3]]) + prune([one], [[3, 4]])
    for row in random_counterfactuals([one], twice, draws=20):
        assert row[0] == row[1] and len(row[2].removed) == 2


def test_planted_spans_are_found_and_random_ones_rescue_nobody(monkeypatch):
    answered_by(monkeypatch, lambda name, t: CLUE in t and (name == "teacher" or TRAP not in t))
    found = confounders(*pair(), planted(), score=NEAR, threshold=(0.1, 0.3), draws=8, progress=False)
    assert found["tried"].values.tolist() == ["0.1", "0.3", "any"]
    assert found["rescued_share"].values.tolist() == [1, 1, 1]
    assert found["chance_share"].values.tolist() == [0, 0, 0]  # they keep clear of the trap, so only it rescues
    assert (found["excess_low"].values > 0.4).all() and (found["excess_high"].values <= 1).all()
    control = found["control_removed"].values
    assert (control.sum(-1) == found["removed"].values.sum(-1)).all()
    # The verdicts of the control, counted again from the tokens that are left.
    for row, origin in enumerate(found["origin"].values):
        for draw in range(8):
            left = [t for t, gone in zip(planted()[origin].context, control[draw, row], strict=False) if not gone]
            assert bool(found["control_accepted"][draw, row]) == (CLUE in left and TRAP not in left)


def test_where_nothing_misleads_the_excess_covers_zero(monkeypatch):
    """Each removal turns a fifth of the answers, whatever it takes out: the more tries, the more are rescued."""
    answered_by(monkeypatch, lambda name, t: name == "teacher" or (len(t) < 30 and hash(t) % 5 == 0))
    rng = np.random.default_rng(1)
    some = [
        Example((1, *rng.integers(50, 90, 28).tolist(), 3), (7, 2), (False, *[True] * 28, False)) for _ in range(80)
    ]
    found = confounders(*pair(), some, score=NEAR, threshold=(0.05, 0.1, 0.2), draws=5, progress=False)
    several = found.sel(tried="any")
    assert float(several["rescued_share"]) > float(found["rescued_share"][0]) + 0.2  # more tries, more rescues
    assert float(several["chance_share"]) > float(found["chance_share"][0]) + 0.2  # and as many for the control
    assert (found["excess_low"].values < 0).all() and (found["excess_high"].values > 0).all()
    for row in range(4):
        one = found.isel(tried=row)
        difference = one["rescued"].values.astype(float).mean() - one["rescued_by_chance"].values.mean()
        assert float(one["excess"]) == pytest.approx(difference)
