"""Which heads are worth zeroing? Those whose attention on the sink differs most between kinds of text.

1. A head can only be dormant where it rests on the sink, so heads that rest in no domain are left out.
2. The others are ranked by the largest difference between two domains of their attention on the sink, over its standard
   error: one forward pass for all heads of all layers.

The attention only chooses: what is chosen is then zeroed exactly, and the correction counts all heads, so that the
choice makes no error more likely. It misses many: of the 16 heads of SmolLM2-135M that wake between prose and code on
96 texts of each, 48 heads chosen by 16 other texts of 64 tokens hold 9, 72 hold 11 and 96 hold 14
(`python benchmarks/real_heads.py recall`). First-order estimates of the effect (minus z times the gradient of the loss)
choose worse: head 6 of layer 18, which is dormant in prose and active in code, has rank 40 to 48 by attention and 139
to 149 by the gradient, since the effect of a whole head is not linear in it.
"""

import itertools

import numpy as np
from jaxtyping import Bool, Float

from workbench.errors import InputError


def shortlist(
    weights: Float[np.ndarray, "domain sequence layer unit"], n: int, asleep: float
) -> Bool[np.ndarray, "layer unit"]:
    """The n units that rest in some domain and whose attention on the sink differs most between two domains.

    Args:
        weights: mean attention on the sink.
        n: how many; fewer where fewer rest anywhere.
        asleep: mean attention on the sink from which a unit rests.

    Raises:
        InputError: n below 1, or no unit that rests in any domain.
    """
    if n < 1:
        raise InputError(f"shortlist={n} heads; give at least 1, or leave it out to zero all.")
    mean, error = weights.mean(1), weights.var(1, ddof=1) / weights.shape[1]
    rests = (mean >= asleep).any(0)
    if not rests.any():
        raise InputError(
            f"No head pays {asleep:.0%} of its attention to the sink in any domain, so none can be dormant. Choose "
            "other sinks=, or a smaller asleep in Limits."
        )
    pairs = itertools.combinations(range(len(mean)), 2)
    tiny = np.finfo(float).tiny
    score = np.max([abs(mean[i] - mean[j]) / np.sqrt(error[i] + error[j] + tiny) for i, j in pairs], axis=0)
    best = np.argsort(-np.where(rests, score, -np.inf), axis=None, kind="stable")[: min(n, int(rests.sum()))]
    chosen = np.zeros(rests.shape, dtype=bool)
    chosen.flat[best] = True
    return chosen
