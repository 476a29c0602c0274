"""Error rates of the rule for waking heads, by simulation: many studies whose truth is known.

The texts share half of the variance of their effects between heads, and have heavy tails (t with 4 degrees of freedom),
as measured effects do. `benchmarks/waking_error_rates.py` runs more of them, whose rates `dormancy` quotes.
"""

import numpy as np
import pytest
import xarray as xr

from workbench.extreme.dormancy import Limits, phases

SD = np.array([0.006, 0.025])
"""Standard deviations over texts of a head's effect in prose and in code, in nats, as measured of a head that wakes."""


def study(n_heads, n_texts, seed, effect=0.0, at_rest=0.0, everywhere=0.0, permutations=200):
    """The verdict on one study: head 0 has an effect in code and one in prose, all have one in both; all rest."""
    rng = np.random.default_rng(seed)
    shared, own = (rng.standard_t(4, (2, n_texts, heads)) / np.sqrt(2) for heads in (1, n_heads))
    change = SD[:, None, None] * (shared + own) / np.sqrt(2) + everywhere
    change[0, :, 0] += at_rest
    change[1, :, 0] += effect
    dims = ("domain", "sequence", "layer", "head")
    data = xr.Dataset(
        {"loss_change": (dims, change[:, :, None]), "sink_weight": (dims, np.full(change[:, :, None].shape, 0.9))},
        {"domain": ["prose", "code"], "layer": [0], "head": np.arange(n_heads)},
    )
    return phases(data, Limits(n_permutations=permutations))


def rates(n_studies, n_heads, n_texts, **truth):
    """Shares of the studies in which some head differs, some head wakes, and head 0 wakes in code."""
    differs = wakes = right = 0
    for seed in range(n_studies):
        found = study(n_heads, n_texts, seed, **truth)
        p = found["p_corrected"].sel(score="loss_change")
        differs += bool((p < 0.05).any())
        wakes += bool(found["wakes"].any())
        right += bool(found["wakes"].sel(dormant_in="prose", active_in="code")[0, 0])
    return differs / n_studies, wakes / n_studies, right / n_studies


def level(n_studies):
    """Alpha, and what chance adds in so many studies."""
    return 0.05 + 2.6 * (0.05 * 0.95 / n_studies) ** 0.5


@pytest.mark.parametrize("n_texts", [8, 16])
def test_where_no_head_differs_hardly_ever_one_is_said_to_wake(n_texts):
    differs, wakes, _ = rates(60, 40, n_texts)
    assert differs <= level(60), "the corrected p keeps its level"
    assert wakes <= differs


def test_heads_that_are_active_in_both_domains_are_not_said_to_wake():
    assert rates(20, 60, 16, everywhere=0.03)[1] == 0
    _, wakes, right = rates(20, 24, 24, effect=0.06, at_rest=0.03)
    assert right == 0, "a difference between two effects is no waking"
    assert wakes <= level(20)


def test_a_clear_waking_is_found():
    assert rates(12, 60, 16, effect=0.05)[2] >= 0.75, "found in 97 % of 120 studies"
    assert rates(12, 24, 24, effect=0.03)[2] >= 0.75, "found in 97 % of 120 studies"
