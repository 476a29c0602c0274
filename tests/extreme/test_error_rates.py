"""Error rates of the rule for waking heads, by simulation: many studies whose truth is known.

The texts share half of the variance of their effects between heads, and have heavy tails (t with 4 degrees of freedom),
as measured effects do. `benchmarks/waking_error_rates.py` runs more of them, whose rates `dormancy` quotes.
"""

import itertools

import numpy as np
import pytest
import xarray as xr

from workbench.extreme.dormancy import Limits, phases
from workbench.extreme.shortlist import shortlist
from workbench.extreme.stopping import can_wake, looks

SD = np.array([0.006, 0.025])
"""Standard deviations over texts of a head's effect in prose and in code, in nats, as measured of a head that wakes."""


def study(n_heads, n_texts, seed, effect=0.0, at_rest=0.0, everywhere=0.0, permutations=200, early=False, few=None):
    """The verdict on one study: head 0 has an effect in code and one in prose, all have one in both; all rest.

    `early` stops heads, `few` chooses so many by attention, which follows the effects as closely as it can.
    """
    rng = np.random.default_rng(seed)
    shared, own = (rng.standard_t(4, (2, n_texts, heads)) / np.sqrt(2) for heads in (1, n_heads))
    change = SD[:, None, None] * (shared + own) / np.sqrt(2) + everywhere
    change[0, :, 0] += at_rest
    change[1, :, 0] += effect
    change = change[:, :, None]
    return judged(change, 0.9 - change if few else np.full(change.shape, 0.9), permutations, early, few)


def judged(change, weight, permutations, early, few=None):
    """The verdict on effects and attention (domain, sequence, layer, head), of which only some are measured."""
    limits, chosen = Limits(n_permutations=permutations), np.ones(change.shape[2:], dtype=bool)
    if few:
        chosen = shortlist(weight, few, limits.asleep)
    n_texts = stopped(change, weight.mean(1), chosen, limits) if early else chosen * change.shape[1]
    dims = ("domain", "sequence", "layer", "head")
    seen = np.arange(change.shape[1])[:, None, None] < n_texts
    data = xr.Dataset(
        {
            "loss_change": (dims, np.where(seen, change, np.nan)),
            "sink_weight": (dims, weight),
            "n_texts": (dims[2:], n_texts),
        },
        {"domain": ["prose", "code"], "layer": np.arange(change.shape[2]), "head": np.arange(change.shape[3])},
        {"n_candidates": chosen.size},
    )
    return phases(data, limits)


def stopped(change, sink, chosen, limits):
    """On how many texts each chosen head that rests somewhere is zeroed where heads are stopped early (layer, head)."""
    n, n_texts = change.shape[1], np.zeros(chosen.shape, dtype=int)
    chosen = chosen & (sink >= limits.asleep).any(0)
    for start, end in itertools.pairwise([0, *looks(n, 4)]):
        if start:
            chosen = chosen & can_wake(change[:, :start], sink, n, chosen.size, limits)
        n_texts[chosen] = end
    return n_texts


def rates(n_studies, n_heads, n_texts, **truth):
    """Shares of the studies in which some head differs, some head wakes, and head 0 wakes in code; share zeroed."""
    differs = wakes = right = zeroed = 0
    for seed in range(n_studies):
        found = study(n_heads, n_texts, seed, **truth)
        p = found["p_corrected"].sel(score="loss_change")
        differs += bool((p < 0.05).any())
        wakes += bool(found["wakes"].any())
        right += bool(found["wakes"].sel(dormant_in="prose", active_in="code")[0, 0])
        zeroed += float(found["n_texts"].mean()) / n_texts
    return differs / n_studies, wakes / n_studies, right / n_studies, zeroed / n_studies


def level(n_studies):
    """Alpha, and what chance adds in so many studies."""
    return 0.05 + 2.6 * (0.05 * 0.95 / n_studies) ** 0.5


@pytest.mark.parametrize("n_texts", [8, 16])
def test_where_no_head_differs_hardly_ever_one_is_said_to_wake(n_texts):
    differs, wakes, *_ = rates(60, 40, n_texts)
    assert differs <= level(60), "the corrected p keeps its level"
    assert wakes <= differs


@pytest.mark.parametrize("options", [{"early": True}, {"few": 10}])
def test_heads_that_are_left_out_or_stopped_make_no_more_errors(options):
    differs, wakes, _, zeroed = rates(30, 40, 16, **options)
    assert wakes <= differs <= level(30)
    assert zeroed < 0.6


def test_heads_that_are_active_in_both_domains_are_not_said_to_wake():
    assert rates(20, 60, 16, everywhere=0.03)[1] == 0
    _, wakes, right, _ = rates(20, 24, 24, effect=0.06, at_rest=0.03)
    assert right == 0, "a difference between two effects is no waking"
    assert wakes <= level(20)


def test_a_clear_waking_is_found():
    assert rates(12, 60, 16, effect=0.05)[2] >= 0.75, "found in 97 % of 120 studies"
    assert rates(12, 60, 16, effect=0.05, early=True)[2] >= 0.75
    assert rates(12, 24, 24, effect=0.03)[2] >= 0.75, "found in 97 % of 120 studies"


def test_attention_too_is_corrected_for_the_heads_that_a_shortlist_leaves_out():
    rng = np.random.default_rng(0)
    change, weight = 0.02 * rng.normal(size=(2, 16, 1, 270)), 0.8 + 0.05 * rng.normal(size=(2, 16, 1, 270))
    every, short = (
        judged(change, weight, 300, False, few)["p_corrected"].sel(score="sink_weight") for few in (None, 24)
    )
    of_short = short.notnull()
    assert int(of_short.sum()) == 24
    assert abs(short - every.where(of_short)).max() < 0.2 and short.min() > 0.05
