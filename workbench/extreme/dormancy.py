"""Is a head dormant, active, or is it undecided? Tests on what `active_dormant` measured, without running a model.

1. Per domain: the mean effect of zeroing the head with its bootstrap interval, its mean attention on the sink, and the
   share of sequences in which it is dormant.
2. The phase of a head in a domain: *dormant* where it rests on the sink and taking it away changes next to nothing,
   *active* where taking it away changes the loss, *idle* where it changes next to nothing although the head looks
   elsewhere, else *undecided*.
3. Between two domains: a permutation test over sequences of the difference in effect (and in attention on the sink),
   corrected for the number of heads and of pairs, and the noise floor from split halves of one domain.
4. A head "wakes" between two domains if it is dormant in one and active in the other, the corrected test is passed
   and the difference is above the noise floors of both. `waking_sentences` puts phases and wakings into words.
"""

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import get_args

import numpy as np
import xarray as xr

from workbench.errors import InputError, suggest
from workbench.names import Correction
from workbench.statistics import holm, mean_differences, mean_interval, split_half_floor

SCORES = ("loss_change", "sink_weight")
CORRECTIONS = get_args(Correction)


@dataclass(frozen=True)
class Limits:
    """What counts as dormant, active and decided.

    Attributes:
        asleep: mean attention on the sink from which a head rests there; at one half it gets more than all other
            tokens together.
        negligible: change of the loss in nats per prediction that counts as next to nothing; 0.01 is one per cent of
            perplexity.
        alpha: chance of any wrong waking among all heads and pairs of domains.
        correction: "max" (largest statistic of each permutation, which uses that heads go together) or "holm" (needs
            more permutations than heads divided by alpha).
        level: of the intervals, and share of split halves below the noise floor.
        n_permutations: random divisions of the sequences in a test.
        n_resamples: resamples of an interval.
        seed: of divisions, resamples and halvings.
    """

    asleep: float = 0.5
    negligible: float = 0.01
    alpha: float = 0.05
    correction: Correction = "max"
    level: float = 0.95
    n_permutations: int = 5000
    n_resamples: int = 1000
    seed: int = 0

    def __post_init__(self):
        """Refuse limits that nothing or everything meets."""
        for name in ("asleep", "alpha", "level"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must lie between 0 and 1.")
        if self.negligible <= 0 or self.n_permutations < 1 or self.n_resamples < 1:
            raise InputError(
                f"negligible={self.negligible}, n_permutations={self.n_permutations} and n_resamples="
                f"{self.n_resamples} must be positive."
            )
        if self.correction not in CORRECTIONS:
            raise InputError(f"correction={self.correction!r} is unknown; {suggest(self.correction, CORRECTIONS)}")


def phases(measured: xr.Dataset, limits: Limits | None = None) -> xr.Dataset:
    """Add effects, tests, phases and wakings; a Dataset from `active_dormant` can be judged again.

    Adds `effect`, `effect_low`, `effect_high`, `sink`, `dormant_share` and `phase` (domain, layer, <unit>),
    `noise_floor(score, domain, layer, <unit>)`, `difference`, `p_value` and `p_corrected` (score, pair, layer,
    <unit>) for the scores "loss_change" and "sink_weight", and the boolean `wakes(dormant_in, active_in, layer,
    <unit>)`. A `phase` is "dormant", "active", "idle" or "undecided"; `difference` is first minus second of the pair.

    Args:
        measured: with the variables `loss_change` and `sink_weight` (domain, sequence, layer, <unit>).
        limits: the default ones if None.
    """
    limits = limits or Limits()
    change = measured["loss_change"].transpose("domain", ..., "sequence")
    weight = measured["sink_weight"].transpose(*change.dims)
    dims = change.dims[:-1]
    low, high = mean_interval(change.values, limits.n_resamples, limits.seed, limits.level)
    asleep = (weight >= limits.asleep) & (abs(change) <= limits.negligible)
    result = measured.assign(
        effect=change.mean("sequence"),
        effect_low=(dims, low),
        effect_high=(dims, high),
        sink=weight.mean("sequence"),
        dormant_share=asleep.mean("sequence"),
    )
    result["phase"] = _phase(result, limits)
    floors = [split_half_floor(score.values, seed=limits.seed, level=limits.level) for score in (change, weight)]
    result["noise_floor"] = (("score", *dims), np.stack(floors))
    result = _compare(result.assign_coords(score=list(SCORES)), [change, weight], limits)
    result["wakes"] = _wakes(result, limits)
    used = {f"limit_{name}": value for name, value in dataclasses.asdict(limits).items()}
    result.attrs = measured.attrs | used
    return result


def _phase(result: xr.Dataset, limits: Limits) -> xr.DataArray:
    small = limits.negligible
    nothing = (result["effect_low"] >= -small) & (result["effect_high"] <= small)
    something = (result["effect_low"] > small) | (result["effect_high"] < -small)
    quiet = xr.where(result["sink"] >= limits.asleep, "dormant", "idle")
    return xr.where(something, "active", xr.where(nothing, quiet, "undecided"))


def _compare(result: xr.Dataset, scores: list[xr.DataArray], limits: Limits) -> xr.Dataset:
    """Tests of all pairs of domains."""
    names = [str(name) for name in result["domain"].values]
    pairs = list(itertools.combinations(range(len(names)), 2))
    dims = ("score", "pair", *scores[0].dims[1:-1])
    tests = [
        [mean_differences(s.values[i], s.values[j], limits.n_permutations, limits.seed) for i, j in pairs]
        for s in scores
    ]
    columns = {
        name: np.array([[getattr(test, name) for test in of_score] for of_score in tests])
        for name in ("difference", "p_value", "p_corrected")
    }
    if limits.correction == "max":
        columns["p_corrected"] = np.minimum(1.0, len(pairs) * columns["p_corrected"])
    else:
        columns["p_corrected"] = np.stack([holm(p) for p in columns["p_value"]])
    coords = {
        "pair": [f"{names[i]} − {names[j]}" for i, j in pairs],
        "first": ("pair", [names[i] for i, _ in pairs]),
        "second": ("pair", [names[j] for _, j in pairs]),
    }
    return result.assign({name: (dims, values) for name, values in columns.items()}).assign_coords(coords)


def _wakes(result: xr.Dataset, limits: Limits) -> xr.DataArray:
    """Whether a head is dormant in one domain and active in another, and the difference is significant."""
    dormant, active = ((result["phase"] == name).rename(domain=f"{name}_in") for name in ("dormant", "active"))
    wakes = (dormant & active).transpose("dormant_in", "active_in", ...)
    apart = xr.zeros_like(wakes)
    pairs = zip(result["first"].values, result["second"].values, strict=True)
    for (first, second), told in zip(pairs, _apart(result, limits).transpose("pair", ...).values, strict=True):
        apart.loc[first, second] = apart.loc[second, first] = told
    return wakes & apart


def _apart(result: xr.Dataset, limits: Limits) -> xr.DataArray:
    """Whether effects differ by more than chance among all heads, and by more than halves of one domain do."""
    of_loss = result.sel(score="loss_change", drop=True)
    floor = of_loss["noise_floor"]
    floors = xr.concat([floor.sel(domain=of_loss[side], drop=True) for side in ("first", "second")], "side")
    return (of_loss["p_corrected"] < limits.alpha) & (abs(of_loss["difference"]) > floors.max("side"))


def waking_sentences(judged: xr.Dataset) -> xr.DataArray:
    """What `phases` found of each head, in words: "dormant in X, active in Y" and its like (layer, <unit>).

    A clause names only domains that were all told apart. Heads without a waking are "active in all", "dormant in all"
    or "not decided".

    Args:
        judged: from `phases` or `active_dormant`.
    """
    return xr.apply_ufunc(
        functools.partial(_sentence, judged["domain"].values.astype(object)),
        judged["wakes"],
        judged["phase"],
        input_core_dims=[["dormant_in", "active_in"], ["domain"]],
        vectorize=True,
        output_dtypes=[object],
    ).astype(str)


def _sentence(names: np.ndarray, wakes: np.ndarray, phase: np.ndarray) -> str:
    clauses: dict[tuple[str, ...], list[str]] = {}
    for name, awake in zip(names, wakes, strict=True):
        if awake.any():
            clauses.setdefault(tuple(names[awake]), []).append(name)
    if clauses:
        return "; ".join(f"dormant in {', '.join(xs)}, active in {', '.join(ys)}" for ys, xs in clauses.items())
    same = set(phase) <= {"dormant"} or set(phase) <= {"active"}
    return f"{phase[0]} in all" if same else "not decided"
