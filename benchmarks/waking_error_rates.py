"""Error rates of the rule for waking heads, from 200 simulated studies of each kind; prints a table.

    OMP_NUM_THREADS=1 python benchmarks/waking_error_rates.py

Columns: the share of the studies in which some head is said to differ between the domains, some head is said to wake,
and head 0, the only one with an effect of its own, is said to wake; and the share of heads and texts that are zeroed.
Without an effect all that is found is an error.
"""

import tyro
from common import print_table

from tests.extreme.test_error_rates import rates

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


def main(n: int = 200) -> None:
    """Simulate n studies of each kind."""
    rows = []
    for effect, studies in STUDIES.items():
        for heads, texts, truth in studies:
            for way, options in WAYS.items() if heads > 48 else [("all", {})]:
                shares = rates(n, heads, texts, permutations=300, **truth, **options)
                rows.append([effect, str(heads), str(texts), way, *(f"{share:.3f}" for share in shares)])
    print_table(["effect", "heads", "texts", "zeroed", "differs", "wakes", "head 0 wakes", "share zeroed"], rows)


if __name__ == "__main__":
    tyro.cli(main)
