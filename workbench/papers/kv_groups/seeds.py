"""A model among its training seeds: what path patching found in every seed of a recipe.

The numbers come from the models' cards, so nothing is computed again. They are the only ground for saying
anything about kinds of attention, since a model that is shipped was chosen and is one draw.
"""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.models.embedded import embedded
from workbench.papers.kv_groups.sentences import p_words
from workbench.papers.recipes import Panel
from workbench.plot import strips
from workbench.plot.effects import number
from workbench.statistics import permutation_test

LAYER = "strongest group: layer"
SHOWN = (
    "strongest head",
    "strongest group",
    "strongest group / strongest head",
    "kurtosis (Pearson)",
    "top 4 % mass",
    LAYER,
)
"""What a card tells of each seed that is worth a figure, where the card has it."""


def seed_runs(names: Sequence[str]) -> xr.Dataset | None:
    """A row per training seed of the embedded models among `names`, from their cards; None where there is none."""
    cards = {}
    for name in names:
        with suppress(InputError, OSError):
            if provider := embedded(name):
                cards[name] = provider.card()
    found = {name: card["circuit"] for name, card in cards.items() if card.get("circuit")}
    if not found:
        return None
    shared = [m for m in next(iter(found.values())) if all(m in circuit for circuit in found.values())]
    shared = [m for m in SHOWN if m in shared] or shared
    rows = [(name, seed) for name, circuit in found.items() for seed in circuit[shared[0]]["seeds"]]
    return xr.Dataset(
        {m: ("run", [float(found[name][m]["seeds"][seed]) for name, seed in rows]) for m in shared},
        coords={
            "kind": ("run", [name for name, _ in rows]),
            "seed": ("run", [int(seed) for _, seed in rows]),
            "shipped": ("run", [int(seed) == int(cards[name]["seed"]) for name, seed in rows]),
        },
    )


def seeds_line(runs: xr.Dataset, measure: str) -> str:
    """Where the shipped seeds lie among the others, and whether the kinds differ beyond chance."""
    kinds = list(dict.fromkeys(runs["kind"].values.astype(str)))
    shown = (lambda value: f"{value:g}") if measure == LAYER else (lambda value: number(float(value)))
    values = {kind: runs[measure].values[runs["kind"].values == kind] for kind in kinds}
    parts = []
    for kind in kinds:
        mine = runs.where(runs["kind"] == kind, drop=True)
        chosen = mine[measure].values[mine["shipped"].values.astype(bool)]
        place = f", the shipped one {shown(chosen[0])}" if len(chosen) else ""
        parts.append(
            f"{kind} {shown(np.median(values[kind]))} (median of {len(values[kind])} seeds, "
            f"{shown(values[kind].min())} to {shown(values[kind].max())}{place})"
        )
    text = f"{measure[0].upper()}{measure[1:]}: {'; '.join(parts)}."
    fixed = [kind for kind in kinds if len(values[kind]) > 1 and np.ptp(values[kind]) == 0]
    if fixed:
        return text + f" It is the same in every seed of {fixed[0]}, so there is nothing to test."
    if len(kinds) == 2 and min(len(v) for v in values.values()) >= 2:
        first, second = sorted(kinds, key=lambda kind: -float(values[kind].mean()))
        test = permutation_test(values[first], values[second])
        verdict = "differ" if test.p_two_sided < 0.05 else "cannot be told apart"
        text += f" Over these seeds {first} and {second} {verdict} (permutation p = {p_words(test.p_two_sided)})."
    return text


def seeds_panel(runs: xr.Dataset, measure: str) -> Panel:
    """One measure of every training seed that `seed_runs` gives, a dot each."""
    return Panel(strips.distribution(runs, measure), seeds_line(runs, measure), f"{measure} of every training seed")
