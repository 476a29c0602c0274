"""Intervals and tests for means over texts, examples or training seeds; the last axis is always the sample.

`permutation_test` compares one number per seed, `mean_differences` many quantities at once (the heads of a model),
corrected for their number by the largest statistic of each permutation (Westfall and Young 1993), and
`paired_differences` does so where the samples spread unequally.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from workbench.errors import InputError, check_known

Numbers = np.ndarray | np.floating
_CHUNK = 2**22  # numbers held at once while resampling, 32 MiB


class Interval(NamedTuple):
    """Both ends of an interval, in the shape of the means."""

    low: np.ndarray
    high: np.ndarray


class PermutationTest(NamedTuple):
    """How unusual the difference of two samples is among all ways to divide their values.

    Attributes:
        statistic: the observed difference, first sample minus second.
        p_two_sided: chance of one as large in either direction, when both samples have one distribution.
        p_greater: chance of one as large in the first sample's favour.
        n_permutations: divisions that were compared.
        exact: whether those were all of them.
    """

    statistic: float
    p_two_sided: float
    p_greater: float
    n_permutations: int
    exact: bool


class MeanDifferences(NamedTuple):
    """How unusual differences of means are among all ways to divide the two samples.

    Attributes:
        difference: mean of the first sample minus mean of the second.
        statistic: the difference over its standard error (Welch).
        p_value: two-sided chance of a statistic as large, each quantity by itself.
        p_corrected: chance that any of the quantities has one as large.
        n_permutations: divisions that were compared.
        exact: whether those were all of them.
    """

    difference: np.ndarray
    statistic: np.ndarray
    p_value: np.ndarray
    p_corrected: np.ndarray
    n_permutations: int
    exact: bool


def resamples(n_examples: int, n: int, seed: int) -> np.ndarray:
    """Weights of the examples in each resample, (resample, example), each row with sum 1."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_examples, np.full(n_examples, 1 / n_examples), size=n) / n_examples


def percentiles(values: np.ndarray, level: float) -> np.ndarray:
    """Lower and upper end, stacked, of the middle `level` of the values along the last axis."""
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=-1)


def mean_interval(values: np.ndarray, n: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile interval of the mean over `n` resamples of the examples, for every quantity of `[..., sample]`."""
    flat = _at_least(values, 1, "An interval").reshape(-1, values.shape[-1])
    weights = resamples(flat.shape[-1], n, seed).T
    parts = [percentiles(some @ weights, level) for some in _in_chunks(flat, n)]
    low, high = np.concatenate(parts, axis=-1).reshape(2, *values.shape[:-1])
    return Interval(low, high)


def t_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Student's interval of the mean, for every quantity of `[..., sample]`; the value itself where there is but one.

    NaN gives NaN.
    """
    n, mean = values.shape[-1], values.mean(-1)
    if n == 1:
        return Interval(mean, mean)
    reach = values.std(-1, ddof=1) / math.sqrt(n) * stats.t.ppf((1 + level) / 2, n - 1)
    return Interval(mean - reach, mean + reach)


def matched_interval(differences: np.ndarray, level: float = 0.95) -> Interval:
    """Interval of the mean difference of matched proportions, for every quantity of `[..., pair]`.

    Agresti and Min (2005): as if there were two more pairs, of which one succeeds on one side alone and one on the
    other, each with half its weight. So it has a width where all pairs agree, and covers what it should from about five
    pairs on, which resampling does not. Here either side may be a share of several trials of its pair.

    Args:
        differences: of the two sides of each pair, from -1 to 1.
        level: of the interval.
    """
    values = _at_least(differences, 1, "An interval")
    n = values.shape[-1] + 2
    centre = values.sum(-1) / n
    spread = np.sqrt((values**2).sum(-1) + 1 - n * centre**2) / n
    reach = stats.norm.ppf((1 + level) / 2) * spread
    return Interval(np.maximum(centre - reach, -1), np.minimum(centre + reach, 1))


def split_half_floor(values: np.ndarray, n_splits: int = 200, seed: int = 0, level: float = 0.95) -> np.ndarray:
    """How far apart the means of two random halves of one sample lie, for every quantity of `[..., sample]`.

    Both halves come from one population, so a difference below this is what noise makes of nothing: `level` of the
    `n_splits` halvings have one of at most the floor.
    """
    n = _at_least(values, 2, "Two halves").shape[-1]
    flat, half = values.reshape(-1, n), n // 2
    signs = np.r_[np.full(half, 1 / half), np.full(half, -1 / half), np.zeros(n - 2 * half)]
    order = np.random.default_rng(seed).permuted(np.tile(signs, (n_splits, 1)), axis=1).T
    parts = [np.quantile(np.abs(some @ order), level, axis=-1) for some in _in_chunks(flat, n_splits)]
    return np.concatenate(parts).reshape(values.shape[:-1])


def mean_differences(first: np.ndarray, second: np.ndarray, n: int = 5000, seed: int = 0) -> MeanDifferences:
    """Permutation test of the difference of two means, for every quantity of `[..., sample]` at once.

    The statistic is studentized, so that quantities of any scale can be compared for the correction, and so that
    unequal spreads of the two samples don't pass for unequal means. `n` random divisions are compared, or all of them
    where there are no more.
    """
    first, second = (_at_least(x, 2, "A comparison of two means") for x in (first, second))
    if first.shape[:-1] != second.shape[:-1]:
        raise InputError(f"The two samples hold other quantities: {first.shape[:-1]} and {second.shape[:-1]}.")
    both = np.concatenate([first, second], axis=-1).reshape(-1, first.shape[-1] + second.shape[-1])
    rounding = 8 * np.finfo(float).eps * np.abs(both).max(axis=-1, keepdims=True)
    both = both - both.mean(axis=-1, keepdims=True)
    both[np.abs(both) <= rounding] = 0.0
    n_first, size = first.shape[-1], both.shape[-1]
    observed = _welch(both, np.arange(size)[None] < n_first)[0]
    divisions = _divisions(size, n_first, n, seed, max(1, _CHUNK // max(both.shape)))
    drawn = (_welch(both, members) for members in divisions)
    exact = math.comb(size, n_first) <= n
    return _compared(first.mean(-1) - second.mean(-1), observed, drawn, exact)


def paired_differences(first: np.ndarray, second: np.ndarray, n: int = 5000, seed: int = 0) -> MeanDifferences:
    """Test of the difference of two means by exchanging the partners of pairs, for every quantity of `[..., sample]`.

    Examples are paired in their order, and a division exchanges both of some pairs. Differences within pairs are
    symmetric where both samples have one distribution, or symmetric ones of any spread. So the test keeps its level
    where one sample spreads more than the other, which `mean_differences` does not among many quantities. `n` random
    exchanges are compared, or all of them where there are no more.
    """
    first, second = (_at_least(x, 2, "A comparison of two means") for x in (first, second))
    if first.shape != second.shape:
        raise InputError(f"Pairs need two samples of one shape; given {first.shape} and {second.shape}.")
    rounding = 8 * np.finfo(float).eps * np.maximum(np.abs(first), np.abs(second)).max(-1, keepdims=True)
    away = first - second
    away = np.where(np.abs(away) <= rounding, 0.0, away).reshape(-1, first.shape[-1])
    size = away.shape[-1]
    observed = _student(away, np.ones((1, size)))[0]
    drawn = (_student(away, signs) for signs in _exchanges(size, n, seed, max(1, _CHUNK // max(away.shape))))
    return _compared((first - second).mean(-1), observed, drawn, 2**size <= n)


def _compared(difference: Numbers, observed: np.ndarray, drawn: Iterator[np.ndarray], exact: bool) -> MeanDifferences:
    """P-values of statistics `[quantity]` among drawn ones `[division, quantity]`, all of them or random ones."""
    sure, as_large, largest, total = np.abs(observed) * (1 - 1e-9), np.zeros(len(observed)), np.zeros(len(observed)), 0
    for some in map(np.abs, drawn):
        as_large += (some >= sure).sum(axis=0)
        largest += (some.max(axis=1, keepdims=True) >= sure).sum(axis=0)
        total += len(some)
    p_value, p_corrected = ((count / total if exact else (count + 1) / (total + 1)) for count in (as_large, largest))
    shaped = (numbers.reshape(difference.shape) for numbers in (observed, p_value, p_corrected))
    return MeanDifferences(np.asarray(difference), *shaped, total, exact)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of all p-values of an array together (Holm 1979)."""
    flat = np.asarray(p_values, dtype=float).ravel()
    order = np.argsort(flat, kind="stable")
    stepped = np.maximum.accumulate(flat[order] * np.arange(len(flat), 0, -1))
    corrected = np.empty_like(flat)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected.reshape(np.shape(p_values))


def permutation_test(
    a: Sequence[float | int] | np.ndarray,
    b: Sequence[float | int] | np.ndarray,
    statistic: str = "mean difference",
    n: int = 10_000,
    seed: int = 0,
) -> PermutationTest:
    """Whether one kind of model has larger values than another, over their training seeds, one number for each.

    `statistic` is "mean difference" or "median difference". `n` random divisions are compared, or all if there are no
    more.
    """
    centres = {"mean difference": np.mean, "median difference": np.median}
    check_known("statistic", statistic, centres)
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if min(first.size, second.size) < 2 or not np.isfinite([*first, *second]).all():
        raise InputError(
            f"A permutation test needs at least 2 finite values on each side; given {first.tolist()} and "
            f"{second.tolist()}."
        )

    def difference(x: np.ndarray, y: np.ndarray, axis: int = -1) -> Numbers:
        return centres[statistic](x, axis=axis) - centres[statistic](y, axis=axis)

    ways = math.comb(first.size + second.size, first.size)
    two_sided, greater = (
        stats.permutation_test(
            (first, second),
            difference,
            alternative=side,
            n_resamples=n,
            vectorized=True,
            rng=np.random.default_rng(seed),
        )
        for side in ("two-sided", "greater")
    )
    return PermutationTest(
        float(two_sided.statistic), float(two_sided.pvalue), float(greater.pvalue), min(n, ways), ways <= n
    )


def _at_least(values: np.ndarray, n: int, what: str) -> np.ndarray:
    """The values as floats, once there are enough of them and all are finite."""
    values = np.asarray(values, dtype=float)
    if values.shape[-1] < n or not np.isfinite(values).all():
        found = f"{values.shape[-1]} examples" if values.shape[-1] < n else "values that are NaN or infinite"
        raise InputError(f"{what} needs at least {n} finite values per quantity; given {found}.")
    return values


def _in_chunks(flat: np.ndarray, draws: int) -> Iterator[np.ndarray]:
    """Rows of which so many draws are held at once."""
    step = max(1, _CHUNK // draws)
    return (flat[i : i + step] for i in range(0, len(flat), step))


def _divisions(size: int, n_first: int, n: int, seed: int, step: int) -> Iterator[np.ndarray]:
    """Which examples the first sample gets, (division, example): all divisions if they are few, else random ones."""
    if math.comb(size, n_first) <= n:
        chosen = list(itertools.combinations(range(size), n_first))
        members = np.zeros((len(chosen), size), dtype=bool)
        members[np.arange(len(chosen))[:, None], chosen] = True
        yield from (members[i : i + step] for i in range(0, len(members), step))
        return
    rng = np.random.default_rng(seed)
    labels = np.arange(size) < n_first
    for i in range(0, n, step):
        yield rng.permuted(np.tile(labels, (min(step, n - i), 1)), axis=1)


def _welch(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Difference of means over its standard error, (division, quantity); 0 where nothing differs at all."""
    squares, moments = values**2, []
    for inside in (members.astype(float), (~members).astype(float)):
        count = inside.sum(axis=1, keepdims=True)
        mean = inside @ values.T / count
        moments.append((mean, np.maximum(inside @ squares.T / count - mean**2, 0) / (count - 1)))
    (first, error), (second, other) = moments
    difference, scale = first - second, np.sqrt(error + other)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / scale)


def _exchanges(size: int, n: int, seed: int, step: int) -> Iterator[np.ndarray]:
    """The sign of each pair's difference, (exchange, pair): all exchanges if they are few, else random ones."""
    if 2**size <= n:
        yield 1.0 - 2.0 * (np.arange(2**size)[:, None] >> np.arange(size) & 1)
        return
    rng = np.random.default_rng(seed)
    for i in range(0, n, step):
        yield rng.choice([-1.0, 1.0], size=(min(step, n - i), size))


def _student(values: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Mean over its standard error with signs changed, (exchange, quantity); 0 where nothing differs at all."""
    n = values.shape[-1]
    mean = signs @ values.T / n
    scale = np.sqrt(np.maximum((values**2).mean(-1) - mean**2, 0) / (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mean == 0, 0.0, mean / scale)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """P(a positive scores above a negative), ties one half (Mann and Whitney); NaN where there is only one kind."""
    n, others = int(positive.sum()), int((~positive).sum())
    ranks = stats.rankdata(scores)[positive].sum() - n * (n + 1) / 2
    return float(ranks / (n * others)) if n and others else math.nan


def share_of(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48
