"""Baselines for LeaF's distillation with as many training examples and updates: other pruning, up-weighting.

1. `matched` prunes as many tokens as the paper's score selects, but those that another score names (random,
   perplexity), or those that are known to be planted (an oracle), and verifies them alike.
2. `upweighted` copies misled originals unpruned, as many as there are counterfactuals (`workbench.leaf.hardest`
   finds without labels what else could be up-weighted).
3. `compare` distils one student with every arm, on the same originals, with the same number of updates and of lessons
   in each, over several seeds, and measures each model.
4. `paired` gives the differences to one arm within seeds, with their t-intervals.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from workbench.errors import InputError, suggest
from workbench.leaf.distillation_pairs import Mix
from workbench.leaf.distilling import distill
from workbench.leaf.examples import Example
from workbench.leaf.pruning import Pruned, prune
from workbench.leaf.thresholds import candidates
from workbench.leaf.verification import verify
from workbench.models.state import measures
from workbench.names import PruneBy, TokenScoreName
from workbench.protocol import HookedModel
from workbench.runs.run import Run


class Arm(NamedTuple):
    """One way to distil: counterfactuals, mix, what ignored positions count, other lessons on the originals."""

    counterfactuals: Sequence[Any] = ()
    mix: Mix = "concat"
    attention: float | int = 0.0
    originals: Sequence[Any] | None = None


def matched(
    examples: Sequence[Example],
    found: xr.Dataset,
    score: TokenScoreName | Sequence[Iterable[int]],
    *,
    like: str = "gradient_difference",
    threshold: float = 0.10,
    how: PruneBy = "span",
) -> list[Pruned]:
    """Counterfactuals by another score, of as many tokens per example as `like` selects.

    Args:
        examples: the misled examples.
        found: their `sensitivity`, with both scores.
        score: its name; or the positions of each example that an oracle knows.
        like: the score whose numbers are matched.
        threshold: of `like`.
        how: "span" or "collective".
    """
    if not isinstance(score, str):
        return prune(examples, score, how=how)
    ours = candidates(found, like, threshold=threshold)
    return prune(examples, ours if score == like else candidates(found, score, like=ours), how=how)


@measures
def verified(
    student: HookedModel, teacher: HookedModel, pruned: Sequence[Pruned], **asking: Any
) -> tuple[list[Pruned], xr.Dataset]:
    """The counterfactuals that both models answer correctly, and the record of all (`asking` goes to `verify`)."""
    proved = verify(student, teacher, pruned, **asking)
    return [one for one, right in zip(pruned, proved["accepted"].values, strict=True) if right], proved


def upweighted(misled: Sequence[Example], n: int, seed: int = 0) -> list[Example]:
    """Unpruned misled originals, `n` of them: shuffled passes over all."""
    if not misled:
        raise InputError("There are no misled examples to up-weight.")
    rng, made = np.random.default_rng(seed), []
    while len(made) < n:
        made += [misled[i] for i in rng.permutation(len(misled))]
    return made[:n]


@measures
def compare(
    student: HookedModel,
    teacher: HookedModel,
    examples: Sequence[Example],
    arms: Mapping[str, Arm],
    measure: Callable[[Any], Mapping[str, float]],
    *,
    steps: int,
    seeds: Sequence[int] = (0,),
    resume: Any = None,
    **options: Any,
) -> xr.Dataset:
    """Distil with every arm and measure what comes out.

    Args:
        student: a bridge from `workbench.load`.
        teacher: another.
        examples: the originals, the same in all arms.
        arms: by name.
        measure: takes a distilled model and returns numbers by name.
        steps: updates of every arm.
        seeds: of the order of the lessons; all arms see each of them.
        resume: the netCDF file of the result; finished models are measured once and a stopped run goes on.
        options: further arguments of `workbench.leaf.distill`, the same for all arms.

    Returns:
        `value` (arm, seed, measure), the student's own `before` (measure), `lessons(arm)`, the number of
        counterfactuals, and `final_loss(arm, seed)`.

    Raises:
        InputError: no arms, or what `distill` refuses.
    """
    if not arms or not len(seeds):
        raise InputError("Give at least one arm and one seed to compare.")
    facts = {
        "method": "leaf compare",
        "arms": {k: [len(a.counterfactuals), a.mix, a.attention] for k, a in arms.items()},
        "steps": steps,
        "n_examples": len(examples),
        "options": {k: v for k, v in options.items() if k != "progress"},
    }

    def made(arm: Arm, seed: int) -> xr.Dataset:
        own: dict[str, Any] = {"mix": arm.mix, "attention": arm.attention, "steps": steps, "seed": seed}
        originals = examples if arm.originals is None else arm.originals
        one = distill(student, teacher, originals, arm.counterfactuals, **own, **options)
        measured, final = measure(one.model), float(one.record["loss"].values[-10:].mean())
        values = ("measure", np.array(list(measured.values()), float))
        return xr.Dataset({"value": values, "final_loss": final}, {"measure": list(measured)})

    with Run(resume, **facts) as run:
        if run.finished is not None:
            return run.finished
        before = dict(measure(student))
        pieces = {
            (name, seed): run.piece(f"{name} {seed}", partial(made, arm, seed))
            for name, arm in arms.items()
            for seed in seeds
        }
        grid = [xr.concat([pieces[name, seed] for seed in seeds], "seed") for name in arms]
        found = xr.concat(grid, "arm").assign_coords(arm=list(arms), seed=list(seeds))
        found["before"] = ("measure", [before[str(m)] for m in found["measure"].values])
        found["lessons"] = ("arm", [len(arm.counterfactuals) for arm in arms.values()])
        return run.finish(found)


def paired(values: xr.DataArray, reference: str, *, over: str = "seed", level: float = 0.95) -> xr.Dataset:
    """Differences to one arm within each seed: mean, t-interval, and on how many seeds the arm was better.

    Args:
        values: over `arm`, `over` and anything else.
        reference: the arm that the others are compared with.
        over: the dimension of the independent runs.
        level: of the interval.

    Returns:
        `difference`, `low`, `high`, `better` (the share of runs with a positive difference), `p` (two-sided paired
        t-test) and `runs`, their number; intervals and p are NaN where there is only one.

    Raises:
        InputError: no such arm.
    """
    known = [str(name) for name in values["arm"].values]
    if reference not in known:
        raise InputError(f"There is no arm {reference!r}; {suggest(reference, known)}")
    apart = (values - values.sel(arm=reference, drop=True)).transpose(..., over)
    n, mean = apart.count(over), apart.mean(over)
    error = apart.std(over, ddof=1) / np.sqrt(n)
    freedom = np.maximum(n - 1, 1)
    half = xr.where(n > 1, stats.t.ppf((1 + level) / 2, freedom), np.nan) * error
    statistic = abs(mean / error.where(error > 0))
    return xr.Dataset(
        {
            "difference": mean,
            "low": mean - half,
            "high": mean + half,
            "better": (apart > 0).sum(over) / n,
            "p": xr.where(n > 1, 2 * stats.t.sf(statistic, freedom), np.nan),
            "runs": n,
        }
    )
