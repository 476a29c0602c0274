"""Which heads can still be found to wake, once some of the texts are measured? The others are stopped for futility.

1. After k of n texts the mean over all n lies, with the probability `SURE` on each side, within t s √(1/k − 1/n) of the
   mean so far, where s is the standard deviation over texts and t Student's quantile for k − 1 degrees of freedom: a
   prediction interval for the final mean of a sample of normal values.
2. A head can still wake from one domain to another if the favourable ends of these intervals meet each of dormancy's
   conditions: it rests in the one (known from attention on all texts); its final effect there can have an interval
   within what is negligible; its final effect in the other can be at least that with an interval that excludes zero;
   and their difference can reach the Student statistic whose p, multiplied by the number of heads and of pairs of
   domains, is alpha. In all of these the standard deviation so far stands for the final one; where chance made it
   large after few texts, a head is stopped that would have gone on.

Stopping can lose a head that wakes but finds none: what is found was measured on all texts, and stopped heads still
count in its correction (see `dormancy`). `benchmarks/waking_error_rates.py` simulates what is lost.
"""

import itertools
import math

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from workbench.extreme.dormancy import Limits

SURE = 0.975
"""Of a final mean lying below the upper end of its prediction interval, and above the lower end."""
PARTS = 4
"""Looks at what was measured, after as many equal parts of the texts."""


def looks(n: int, fewest: int) -> list[int]:
    """After how many of n texts per domain heads are stopped, and n itself."""
    return sorted({max(fewest, math.ceil(n * part / PARTS)) for part in range(1, PARTS + 1)})


def can_wake(
    change: Float[np.ndarray, "domain sequence layer unit"],
    sink: Float[np.ndarray, "domain layer unit"],
    n: int,
    n_candidates: int,
    limits: Limits,
) -> Bool[np.ndarray, "layer unit"]:
    """Which heads may still be found to wake between some two domains.

    Args:
        change: of the loss, on the texts so far; NaN for heads that were not zeroed, which cannot wake.
        sink: mean attention on the sink over all texts.
        n: texts per domain in the end.
        n_candidates: heads that the tests are corrected for.
        limits: what counts as dormant, active and decided.
    """
    k, domains = change.shape[1], range(len(change))
    reach = stats.t.ppf(SURE, k - 1) * math.sqrt(1 / k - 1 / n)
    error = stats.t.ppf((1 + limits.level) / 2, n - 1) / math.sqrt(n)
    pairs = math.comb(len(change), 2)
    needed = stats.t.isf(limits.alpha / (2 * n_candidates * pairs), n - 1) / math.sqrt(n)
    mean, spread = np.abs(change.mean(1)), change.std(1, ddof=1)
    quiet = np.maximum(0, mean - reach * spread) + error * spread <= limits.negligible
    works = mean + reach * spread >= np.maximum(limits.negligible, error * spread)
    dormant, active = quiet & (sink >= limits.asleep), works
    found = np.zeros(mean.shape[1:], dtype=bool)
    for one, other in itertools.permutations(domains, 2):
        away = change[one] - change[other]
        differs = np.abs(away.mean(0)) >= (needed - reach) * away.std(0, ddof=1)
        found |= dormant[one] & active[other] & differs
    return found
