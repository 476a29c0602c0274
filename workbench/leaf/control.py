"""The control of verified spans: random spans of the same lengths in the same prompts, verified alike.

The student was wrong on every prompt, so that taking out anything at all turns some answers right.

1. For every counterfactual of a prompt, in each of some draws, a random one: runs as long, placed uniformly where
   tokens may be pruned. They keep clear of all spans that were found in the prompt and of the draw's other random
   spans, as far as there is room, and nowhere else are they chosen.
2. Both models answer without them, as they do without the found ones.
3. A prompt is rescued where both are right without any of its k spans, and by chance in the share of draws in which
   they are so without any of the k random ones: best of k against best of k, also over several thresholds.
4. The excess is the mean over prompts of the difference, with an interval for matched proportions
   (`workbench.statistics.matched_interval`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.leaf.examples import Example
from workbench.leaf.pruning import Pruned, pruned, spans
from workbench.protocol import HookedModel, TextTokenizer
from workbench.statistics import matched_interval


def check_draws(draws: int) -> None:
    """Refuse a control without draws."""
    if draws < 1:
        raise InputError(
            f"draws={draws} leaves the result without a control: examples that the student gets wrong turn right at "
            "times whatever is taken out. Give at least 1."
        )


def random_counterfactuals(
    examples: Sequence[Example],
    found: Sequence[Pruned],
    draws: int,
    seed: int = 0,
    retokenize: HookedModel | TextTokenizer | None = None,
) -> list[list[Pruned]]:
    """For each draw one random counterfactual per found one, which deletes runs of the same lengths.

    Counterfactuals that were found twice, by two thresholds, have the same random one.

    Args:
        examples: the originals.
        found: their counterfactuals, from `prune`.
        draws: how many times all of them are drawn.
        seed: of the draws.
        retokenize: as for `prune`.
    """
    of_prompt: dict[int, list[tuple[int, ...]]] = {}
    for one in found:
        of_prompt.setdefault(one.origin, []).append(one.removed)
    drawn = []
    for draw in range(draws):
        made: dict[tuple[int, tuple[int, ...]], Pruned] = {}
        for origin, removed in of_prompt.items():
            rng, taken = np.random.default_rng((seed, draw, origin)), set[int]()
            for one in dict.fromkeys(removed):
                group = _placed(examples[origin], one, set().union(*removed), taken, rng)
                taken |= set(group)
                made[origin, one] = pruned(examples[origin], origin, group, retokenize)
        drawn.append([made[one.origin, one.removed] for one in found])
    return drawn


def _placed(
    example: Example, removed: tuple[int, ...], found: set[int], taken: set[int], rng: np.random.Generator
) -> tuple[int, ...]:
    """Random runs as long as those of `removed`; `removed` itself where they have no room."""
    chosen: set[int] = set()
    for length in sorted(map(len, spans(removed)), reverse=True):
        for avoided in (found | taken, found, set[int]()):
            free = spans(set(example.positions) - avoided - chosen)
            starts = [start for run in free for start in run[: max(0, len(run) - length + 1)]]
            if starts:
                break
        else:
            return removed
        start = int(rng.choice(starts))
        chosen |= set(range(start, start + length))
    return tuple(sorted(chosen))


def against_chance(result: xr.Dataset) -> xr.Dataset:
    """How many prompts are rescued by each threshold's spans, and by all together, beside random spans.

    Args:
        result: `origin`, `removed`, `accepted`, `span_threshold` and `control_accepted` (draw, span) per span, with the
            coordinates `example` and `threshold`.

    Returns:
        Per `tried`, the thresholds by name and, where there are several, "any": `n_spans` and `n_accepted`, the
        different ones; `rescued` (tried, example), `rescued_by_chance` (tried, example), the share of draws;
        `rescued_share`, `chance_share` and `excess`, with `excess_low` and `excess_high` (95 %).
    """
    thresholds = [float(t) for t in result["threshold"].values]
    members = {f"{t:g}": np.isclose(result["span_threshold"].values, t) for t in thresholds}
    if len(members) > 1:
        members["any"] = np.ones(result.sizes["span"], dtype=bool)
    of_prompt = result["origin"].values == result["example"].values[:, None]
    accepted, control = result["accepted"].values.astype(bool), result["control_accepted"].values.astype(bool)
    names = ("n_spans", "n_accepted", "rescued", "rescued_by_chance")
    made: dict[str, list[Any]] = {name: [] for name in names}
    for inside in members.values():
        made["n_spans"].append(_different(result, inside))
        made["n_accepted"].append(_different(result, inside & accepted))
        made["rescued"].append((of_prompt & inside & accepted).any(-1))
        made["rescued_by_chance"].append((of_prompt[:, None] & inside & control).any(-1).mean(-1))
    counted = xr.Dataset(
        {name: (("tried", "example")[: np.ndim(rows)], np.array(rows)) for name, rows in made.items()},
        coords={"tried": list(members)},
    )
    difference = counted["rescued"] - counted["rescued_by_chance"]
    low, high = matched_interval(difference.values)
    return counted.assign(
        rescued_share=counted["rescued"].mean("example"),
        chance_share=counted["rescued_by_chance"].mean("example"),
        excess=difference.mean("example"),
        excess_low=("tried", low),
        excess_high=("tried", high),
    )


def _different(result: xr.Dataset, inside: np.ndarray) -> int:
    """How many different spans are among some."""
    rows = np.flatnonzero(inside)
    return len({(int(result["origin"][row]), result["removed"].values[row].tobytes()) for row in rows})
