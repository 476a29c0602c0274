"""Counterfactual examples: the same question and gold response without the candidate tokens.

collective   one counterfactual without all candidates
span         one counterfactual for each run of consecutive candidates; the other candidates stay

Tokens are deleted by id and all others stay as they are. On request the shorter text is tokenized again instead, as the
released code does it; then tokens may merge across the cut, and `Pruned.round_trip` says where that happened.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, get_args

import numpy as np
import xarray as xr

from workbench.errors import InputError, check_known
from workbench.leaf.examples import Example, check_examples
from workbench.leaf.tokenized_examples import reword
from workbench.names import PruneBy
from workbench.protocol import HookedModel, TextTokenizer


@dataclass(frozen=True)
class Pruned:
    """A counterfactual and where it comes from.

    Attributes:
        example: the shorter example.
        origin: index of the original among the examples that were given.
        removed: positions of the original's context that were deleted.
        round_trip: whether the shorter text has the same tokens; None where there is no text.
    """

    example: Example
    origin: int
    removed: tuple[int, ...]
    round_trip: bool | None = None


def spans(positions: Iterable[int]) -> list[tuple[int, ...]]:
    """The maximal runs of consecutive positions, in order."""
    runs = groupby(enumerate(sorted(positions)), lambda pair: pair[1] - pair[0])
    return [tuple(position for _, position in run) for _, run in runs]


def prune(
    examples: Sequence[Example],
    candidates: xr.DataArray | Sequence[Iterable[Any]],
    *,
    how: PruneBy = "span",
    retokenize: HookedModel | TextTokenizer | None = None,
) -> list[Pruned]:
    """Counterfactuals of examples.

    Args:
        examples: the originals.
        candidates: booleans (example, position) from `workbench.leaf.candidates`, or the positions of each example.
        how: "span" or "collective".
        retokenize: a model or tokenizer that tokenizes the shorter text anew; None deletes ids. Needs examples that
            were made from text.

    Returns:
        None or more per example, in the order of the examples. A counterfactual that would delete everything that may
        be pruned is left out.

    Raises:
        InputError: an unknown way, candidates for another number of examples, one that may not be pruned, or nothing
            left of any example.
    """
    examples = check_examples(examples)
    check_known("how", how, get_args(PruneBy))
    chosen = _positions(candidates)
    if len(chosen) != len(examples):
        raise InputError(f"There are {len(examples)} examples and candidates for {len(chosen)}; give one row for each.")
    made, whole = [], 0
    for origin, (example, positions) in enumerate(zip(examples, chosen, strict=True)):
        groups = spans(positions) if how == "span" else [tuple(positions)] if positions else []
        for group in groups:
            if len(group) == len(example.positions):
                whole += 1
                continue
            made.append(pruned(example, origin, group, retokenize))
    if whole and not made:
        raise InputError(
            f"Pruning would delete everything that may be pruned in each of {whole} counterfactuals, so nothing of the "
            "questions would be left. Lower the threshold."
        )
    return made


def pruned(
    example: Example, origin: int, group: tuple[int, ...], retokenize: HookedModel | TextTokenizer | None
) -> Pruned:
    """One counterfactual: an example, which is the `origin`-th, without the positions of a group."""
    shorter = example.without(group)
    if retokenize is None:
        return Pruned(shorter, origin, group)
    anew = reword(shorter, retokenize)
    return Pruned(anew, origin, group, anew.tokens == shorter.tokens)


def _positions(candidates: xr.DataArray | Sequence[Iterable[Any]]) -> list[list[int]]:
    if not isinstance(candidates, xr.DataArray):
        return [sorted({int(p) for p in row}) for row in candidates]
    if candidates.ndim != 2:
        raise InputError(
            f"candidates has the dimensions {', '.join(map(str, candidates.dims))}; take one threshold, such as "
            "candidates.sel(threshold=0.1)."
        )
    return [[int(p) for p in np.flatnonzero(row)] for row in candidates.transpose("example", ...).values]
