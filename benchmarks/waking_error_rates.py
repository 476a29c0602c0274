"""Error rates of the rule for waking heads, from 200 simulated studies of each kind; prints a table.

    OMP_NUM_THREADS=1 python benchmarks/waking_error_rates.py simulated
    OMP_NUM_THREADS=1 python benchmarks/waking_error_rates.py real      # heads like SmolLM2's
    OMP_NUM_THREADS=1 python benchmarks/waking_error_rates.py skewed    # effects without a mean that are not symmetric

Columns: the share of the studies in which some head is said to differ between the domains, some head is said to wake,
and head 0, the only one with an effect of its own, is said to wake; and the share of heads and texts that are zeroed.
Without an effect all that is found is an error.
"""

import itertools
import sys

import numpy as np
import tyro
from common import print_table
from scipy import stats

from tests.extreme.test_error_rates import judged, rates
from workbench.papers.active_dormant.real_figures import record as measured

STUDIES = {
    "none": [(270, 8, {}), (270, 16, {})],
    "+0.03 everywhere": [(270, 16, {"everywhere": 0.03})],
    "+0.06 and +0.03": [(48, 18, {"effect": 0.06, "at_rest": 0.03})],
    "+0.02": [(270, 8, {"effect": 0.02}), (270, 16, {"effect": 0.02}), (48, 18, {"effect": 0.02})],
    "+0.03": [(270, 16, {"effect": 0.03}), (48, 18, {"effect": 0.03})],
    "+0.05": [(270, 8, {"effect": 0.05}), (270, 16, {"effect": 0.05}), (48, 18, {"effect": 0.05})],
}
"""Effects in nats, of head 0 in code where nothing else is said, and the heads and texts per domain of the studies."""
WAYS = {"all": {}, "stopped early": {"early": True}, "shortlist of 48": {"few": 48}}


def simulated(n: int = 200) -> None:
    """Simulate n studies of each kind."""
    rows = []
    for effect, studies in STUDIES.items():
        for heads, texts, truth in studies:
            for way, options in WAYS.items() if heads > 48 else [("all", {})]:
                shares = rates(n, heads, texts, permutations=300, **truth, **options)
                rows.append([effect, str(heads), str(texts), way, *(f"{share:.3f}" for share in shares)])
    print_table(["effect", "heads", "texts", "zeroed", "differs", "wakes", "head 0 wakes", "share zeroed"], rows)


def real(n: int = 40) -> None:
    """Simulate n studies with the means, standard deviations and attention of SmolLM2's heads on prose and code."""
    record = measured("screen").transpose("domain", "layer", "head", ...)
    texts = record.sizes["sequence"]
    reach = stats.t.ppf((1 + record.attrs["limit_level"]) / 2, texts - 1) / texts**0.5
    mean, sink = record["effect"].values.astype(float)[:, None], record["sink"].values.astype(float)[:, None]
    spread = (record["effect_high"].values.astype(float)[:, None] - mean) / reach
    rows = []
    for each in (16, 24):
        found = []
        for seed in range(n):
            heavy = np.random.default_rng(seed).standard_t(4, (2, each, *mean.shape[2:])) / np.sqrt(2)
            change, weight = mean + spread * heavy, np.broadcast_to(sink, (2, each, *mean.shape[2:]))
            every, early = (judged(change, weight, 300, stop) for stop in (False, True))
            wake, woken = (x["wakes"].any(["dormant_in", "active_in"]).values for x in (every, early))
            zeroed = early["n_texts"].values
            found.append([wake.sum(), (wake & (zeroed == each)).sum(), woken.sum(), zeroed.mean() / each])
        rows.append([str(each), *(f"{x:.2f}" for x in np.mean(found, axis=0))])
    print_table(["texts", "all: heads that wake", "of these not stopped", "stopped early", "share zeroed"], rows)


def skewed(n: int = 100, heads: int = 270) -> None:
    """Simulate n studies of effects of mean zero and skewness 2 in both domains: all that is found is an error."""
    rows = []
    for texts, shared in itertools.product((8, 16, 96), (0.5, 0.0)):
        found = []
        for seed in range(n):
            rng = np.random.default_rng(seed)
            own, common = (rng.exponential(size=(2, texts, 1, k)) - 1 for k in (heads, 1))
            change = np.array([0.006, 0.025])[:, None, None, None] * (shared**0.5 * common + (1 - shared) ** 0.5 * own)
            told = judged(change, np.full_like(change, 0.9), 300, False)
            differ = told["p_corrected"].sel(score="loss_change") < told.attrs["limit_alpha"]
            found.append([bool(differ.any()), bool(told["wakes"].any())])
        rows.append([str(texts), f"{shared:.0%}", *(f"{share:.3f}" for share in np.mean(found, axis=0))])
    print_table(["texts", "variance shared", "differs", "wakes"], rows)


if __name__ == "__main__":
    sys.exit(tyro.extras.subcommand_cli_from_dict({"simulated": simulated, "real": real, "skewed": skewed}))
