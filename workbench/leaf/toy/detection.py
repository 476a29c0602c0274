"""Do the scores find the planted tokens? Hit rate and AUROC of every score.

hit    the share of examples whose most confounding token is planted (ties share)
auroc  the chance that a planted token looks more confounding than another prunable token of its example
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import xarray as xr

from workbench.leaf.asking import ask
from workbench.leaf.examples import Example
from workbench.leaf.thresholds import oriented
from workbench.leaf.toy.task import EOS, Problems
from workbench.names import TokenScoreName
from workbench.protocol import HookedModel
from workbench.statistics import auroc

DETECTION_SCORES = get_args(TokenScoreName)


def planted_positions(drawn: Problems) -> list[list[int]]:
    """Where the distractor clause stands, per problem."""
    return [np.flatnonzero(row).tolist() for row in drawn.planted]


def detected(found: xr.Dataset, truth: Sequence[Sequence[int]]) -> xr.Dataset:
    """Hit and AUROC of every score of a `sensitivity`, averaged over examples with the planted positions `truth`.

    Returns:
        `hit(score)` and `auroc(score)`.
    """
    names = [str(name) for name in found["score"].values]
    rows = [[_one(row, at) for row, at in zip(oriented(found, n).values, truth, strict=True)] for n in names]
    means = np.nanmean(np.array(rows, float), axis=1)
    return xr.Dataset({"hit": ("score", means[:, 0]), "auroc": ("score", means[:, 1])}, {"score": names})


def on_own_output(student: HookedModel, cases: Sequence[Example]) -> list[Example]:
    """The examples with the student's own greedy response in place of the gold one."""
    said = ask(student, cases, batch_size=64, progress=False)
    made = []
    for case, tokens, n in zip(cases, said["tokens"].values, said["n_tokens"].values, strict=True):
        own = tuple(int(token) for token in tokens[:n]) or (EOS,)
        made.append(replace(case, response=case.response[: case.prefix] + own))
    return made


def _one(values: np.ndarray, at: Sequence[int]) -> tuple[float, float]:
    """Hit and AUROC of one example; low values are confounding."""
    there = np.flatnonzero(~np.isnan(values))
    values, planted = values[there], np.isin(there, at)
    if planted.all() or not planted.any():
        return np.nan, np.nan
    return float(planted[values == values.min()].mean()), auroc(-values, planted)
