"""Ways to distil against each other on the planted task's conflicts: as data, over kinds of students and in each.

Over kinds, each kind's mean is one observation of the kinds that there may be (random effects, equal weights), with
Student's interval. With weights by precision (DerSimonian and Laird's variance, Hartung and Knapp's interval) the
interval of five kinds with six runs each would cover 90 % instead of 95.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import stats

from workbench.statistics import holm, t_interval

ARMS = {
    "misled": "misled added",
    "misled, half": "misled up-weighted",
    "disagreeing, half": "most disagreeing up-weighted",
    "released": "misled, found spans ignored",
    "released, four times as strongly": "misled, found spans ignored (4x)",
    "released at random": "misled, random spans ignored",
    "released, oracle": "misled, planted spans ignored",
    "released everywhere": "found spans ignored everywhere",
    "released everywhere at random": "random spans ignored everywhere",
    "released everywhere + misled": "found spans ignored everywhere, misled",
    "few misled, half": "30 misled up-weighted",
    "few released": "30 misled, found spans ignored",
}
"""Ways to distil in words, where their names in the record do not say it; the last two know few misled examples."""
PAIRS = (
    *((arm, "KD") for arm in ("LeaF", "oracle", "misled, half", "disagreeing, half", "released")),
    ("released", "misled, half"),
    ("released", "disagreeing, half"),
    ("released", "released at random"),
    ("few released", "few misled, half"),
    ("released everywhere", "KD"),
)
"""What is compared: LeaF and up-weighting with plain distillation; ours with the same examples without the found spans,
with examples chosen without spans or labels, and with spans at random."""
NAMED = (("released", "misled, half"), ("released everywhere", "KD"))
"""Those that were named before any fresh student was trained."""


@dataclass(frozen=True)
class Comparison:
    """One way to distil against another.

    Attributes:
        arm, rival: the two ways, by name.
        difference, low, high: in accuracy, over kinds of students.
        more, less: kinds in which it is not 0, corrected (Holm) for all kinds and for all comparisons of its family.
        kinds: how many there are.
        named: whether it is of the family that was named before the first student was trained.
    """

    arm: str
    rival: str
    difference: float
    low: float
    high: float
    more: tuple[str, ...]
    less: tuple[str, ...]
    kinds: int
    named: bool

    def sentence(self) -> str:
        """As text, without what is common to all."""
        sides = (("more", self.more), ("less", self.less))
        alone = " and ".join(f"{word} in {', '.join(kinds)}" for word, kinds in sides if kinds)
        return (
            f"{ARMS.get(self.arm, self.arm)} over {ARMS.get(self.rival, self.rival)}: {self.difference:+.3f} "
            f"({self.low:+.3f} to {self.high:+.3f}), by itself {alone or 'in no kind'}"
        )


def comparisons(found: xr.Dataset) -> list[Comparison]:
    """`PAIRS`, as far as a record of `workbench.leaf.toy.run` holds them, paired by student (`seed`)."""
    values = found["value"].sel(measure="conflict", drop=True).transpose("arm", "regime", "seed")
    pairs = [pair for pair in PAIRS if set(pair) <= set(values["arm"].values.tolist())]
    kinds = [str(kind) for kind in values["regime"].values]
    gaps = np.stack([(values.sel(arm=arm) - values.sel(arm=rival)).values for arm, rival in pairs])
    p_values = stats.ttest_1samp(gaps, 0, axis=-1).pvalue
    named = np.array([pair in NAMED for pair in pairs])
    for family in (named, ~named):
        p_values[family] = holm(p_values[family])
    means = gaps.mean(-1)
    low, high = t_interval(means)
    more, less = (
        [tuple(k for k, yes in zip(kinds, row, strict=True) if yes) for row in (p_values < 0.05) & side]
        for side in (means > 0, means < 0)
    )
    return [
        Comparison(*pair, *map(float, (means[i].mean(), low[i], high[i])), more[i], less[i], len(kinds), bool(named[i]))
        for i, pair in enumerate(pairs)
    ]
