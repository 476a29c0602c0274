"""Is a head dormant, active, or does it wake? One rule on what `active_dormant` measured, without running a model.

1. Per domain: the mean effect of zeroing the head on the loss with its t interval, and its mean attention on the sink.
2. The phase of a head in a domain: *dormant* where it rests on the sink and the interval of its effect lies within what
   is negligible, *active* where its effect is not negligible and the interval excludes zero, *idle* where the effect is
   negligible although the head looks elsewhere, else *undecided*.
3. Between two domains: a permutation test over texts of the difference in effect, which exchanges the partners of
   pairs, since effects spread more where a head works; corrected for the number of heads by the largest statistic of
   each permutation, and for the number of pairs of domains. Heads that a shortlist left out or that were stopped early
   have no p but count: independent normal differences stand in their place. The statistic does not depend on scale;
   heavy tails and heads that go together make its largest smaller. The test is exact for differences that are symmetric
   where there is no effect; skewed ones make it err more often.
4. A head *wakes* from one domain to another if all four `CONDITIONS` hold: dormant in one (it rests, it has no effect),
   active in the other, and the corrected p below `alpha`. There is no other threshold; which conditions fail is kept
   for every head, and `near_misses` lists the heads that one alone fails.

Error rates, from 200 simulated studies each (benchmarks/waking_error_rates.py) of effects with heavy tails, half of
their variance shared between heads, and a standard deviation over texts of 0.006 nats in one domain and 0.025 in the
other: among 270 heads of which none differs, one is said to wake in 5.5 % of the studies with 8 texts per domain and in
7.5 % with 16 (standard error 2 %); where all heads are active in both domains, in none. An effect of 0.03 nats is found
in 70 % with 16 texts, one of 0.02 nats in 17 %, and in 4 % with 8. A permutation of all texts instead of pairs errs in
30 % and 15 % of these studies. With `stop_early` the errors are 2.5 % and 5.5 %, and 0.03 nats are found in 56 %; with
a shortlist of 48 heads 4 %, 5.5 % and 58 %. Skewed effects (skewness 2, mean zero) err more: some head is said to wake
in 7 % with 8 texts, 9 % with 16 and none with 96 where half of their variance is shared, and in 41, 72 and 2 % where
none is. So what wakes on few texts is to be confirmed on others.
"""

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import xarray as xr

from workbench.errors import InputError, suggest
from workbench.names import Correction
from workbench.statistics import holm, paired_differences, t_interval

SCORES = ("loss_change", "sink_weight")
CORRECTIONS = get_args(Correction)
CONDITIONS = {
    "rests": "its mean attention on the sink is at least {asleep:g} in the one domain",
    "no effect at rest": "the interval of its effect there lies within ±{negligible:g} nats",
    "effect when active": "its effect in the other is at least {negligible:g} nats and the interval excludes zero",
    "differs": "the corrected p of the difference in effect is below {alpha:g}",
}
"""What must hold for a head to wake, with the limits to fill in."""


@dataclass(frozen=True)
class Limits:
    """What counts as dormant, active and decided.

    Attributes:
        asleep: mean attention on the sink from which a head rests there; at one half it gets more than all other
            tokens together.
        negligible: change of the loss in nats per prediction that counts as next to nothing; 0.01 is one per cent of
            perplexity.
        alpha: chance of any wrong difference among all candidate heads and pairs of domains, for symmetric differences.
        correction: "max" (largest statistic of each permutation, which uses that heads go together) or "holm" (needs
            more permutations than heads divided by alpha).
        level: of the intervals.
        n_permutations: random exchanges of paired sequences in a test; with fewer than 6 pairs no p is below 0.05.
        seed: of the exchanges.
    """

    asleep: float = 0.5
    negligible: float = 0.01
    alpha: float = 0.05
    correction: Correction = "max"
    level: float = 0.95
    n_permutations: int = 5000
    seed: int = 0

    def __post_init__(self):
        """Refuse limits that nothing or everything meets."""
        for name in ("asleep", "alpha", "level"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must lie between 0 and 1.")
        if self.negligible <= 0 or self.n_permutations < 1:
            raise InputError(f"negligible={self.negligible} and n_permutations={self.n_permutations} must be positive.")
        if self.correction not in CORRECTIONS:
            raise InputError(f"correction={self.correction!r} is unknown; {suggest(self.correction, CORRECTIONS)}")


def phases(measured: xr.Dataset, limits: Limits | None = None) -> xr.Dataset:
    """Add effects, tests, phases and wakings; a Dataset from `active_dormant` can be judged again.

    Units with fewer `n_texts` than there are were stopped early: their effects and intervals are of the texts so far,
    and they have no p-value.

    Adds `effect`, `effect_low`, `effect_high`, `sink`, `dormant_share` and `phase` (domain, layer, <unit>),
    `difference` with `difference_low` and `difference_high`, `p_value` and `p_corrected` (score, pair, layer, <unit>)
    for the scores "loss_change" and "sink_weight", `holds(condition, dormant_in, active_in, layer, <unit>)`: which of
    the `CONDITIONS` hold, and `wakes(dormant_in, active_in, layer, <unit>)`: whether all do. A `phase` is "dormant",
    "active", "idle", "undecided" or, where units were left out, "not measured"; `difference` is first minus second of
    the pair.

    Args:
        measured: with the variables `loss_change` and `sink_weight` (domain, sequence, layer, <unit>); where not all
            units were zeroed on all texts, with `n_texts(layer, <unit>)` and the attribute `n_candidates`, the number
            of units to correct for.
        limits: the default ones if None.
    """
    limits = limits or Limits()
    change = measured["loss_change"].transpose("domain", ..., "sequence")
    weight = measured["sink_weight"].transpose(*change.dims)
    measured = measured.assign(n_texts=texts_zeroed(measured))
    asleep = (weight >= limits.asleep) & (abs(change) <= limits.negligible)
    result = measured.assign(_effects(change, measured["n_texts"], limits)).assign(sink=weight.mean("sequence"))
    result["dormant_share"] = (asleep.sum("sequence") / measured["n_texts"]).where(result["effect"].notnull())
    result["phase"] = _phase(result, limits)
    result = _compare(result.assign_coords(score=list(SCORES)), [change, weight], limits)
    result["holds"] = _conditions(result, limits)
    result["wakes"] = result["holds"].all("condition")
    used = {f"limit_{name}": value for name, value in dataclasses.asdict(limits).items()}
    result.attrs = measured.attrs | used
    return result


def texts_zeroed(found: xr.Dataset) -> xr.DataArray:
    """On how many texts per domain each unit was zeroed (layer, <unit>); on all or none where the result does not say.

    Args:
        found: what `active_dormant` measured, judged or not.
    """
    if "n_texts" in found:
        return found["n_texts"]
    known = found["effect"] if "effect" in found else found["loss_change"].mean("sequence", skipna=False)
    return known.notnull().all("domain") * found.sizes["sequence"]


def _effects(change: xr.DataArray, n_texts: xr.DataArray, limits: Limits) -> dict[str, Any]:
    """Means and intervals over the texts on which each unit was zeroed."""
    dims, counts = change.dims[:-1], n_texts.transpose(*change.dims[1:-1]).values
    found = np.full((3, *change.shape[:-1]), np.nan)
    for n in np.unique(counts[counts > 0]):
        some = change.values[:, counts == n, :n]
        found[:, :, counts == n] = some.mean(-1), *t_interval(some, limits.level)
    return {name: (dims, values) for name, values in zip(("effect", "effect_low", "effect_high"), found, strict=True)}


def _quiet(result: xr.Dataset, limits: Limits) -> xr.DataArray:
    return (result["effect_low"] >= -limits.negligible) & (result["effect_high"] <= limits.negligible)


def _works(result: xr.Dataset, limits: Limits) -> xr.DataArray:
    sure = (result["effect_low"] > 0) | (result["effect_high"] < 0)
    return sure & (abs(result["effect"]) >= limits.negligible)


def _phase(result: xr.Dataset, limits: Limits) -> xr.DataArray:
    rest = xr.where(result["sink"] >= limits.asleep, "dormant", "idle")
    quiet, works = _quiet(result, limits), _works(result, limits)
    phase = xr.where(works & ~quiet, "active", xr.where(quiet, rest, "undecided"))
    return xr.where(result["effect"].notnull(), phase, "not measured")


def _compare(result: xr.Dataset, scores: list[xr.DataArray], limits: Limits) -> xr.Dataset:
    """Tests of all pairs of domains: effects of units that were zeroed on all texts, attention of all zeroed ones."""
    names = [str(name) for name in result["domain"].values]
    pairs = list(itertools.combinations(range(len(names)), 2))
    dims = ("score", "pair", *scores[0].dims[1:-1])
    shape = scores[0].shape[1:-1]
    n_texts = result["n_texts"].transpose(*dims[2:]).values
    complete, zeroed = n_texts == result.sizes["sequence"], n_texts > 0
    candidates = max(int(zeroed.sum()), result.attrs.get("n_candidates", 0))
    columns = {name: np.full((len(scores), len(pairs), *shape), np.nan) for name in _COLUMNS}
    for s, (score, known) in enumerate(zip(scores, (complete, zeroed), strict=True)):
        absent = candidates - int(known.sum())
        for p, (i, j) in enumerate(pairs if known.any() else ()):
            for name, values in _test(score.values[i][known], score.values[j][known], absent, limits).items():
                columns[name][s, p][known] = values
        if limits.correction == "max":
            columns["p_corrected"][s] = np.minimum(1.0, len(pairs) * columns["p_corrected"][s])
        else:
            every = np.pad(columns["p_value"][s][:, known], ((0, 0), (0, absent)), constant_values=1)
            columns["p_corrected"][s][:, known] = holm(every)[:, : known.sum()]
    coords = {
        "pair": [f"{names[i]} − {names[j]}" for i, j in pairs],
        "first": ("pair", [names[i] for i, _ in pairs]),
        "second": ("pair", [names[j] for _, j in pairs]),
    }
    return result.assign({name: (dims, values) for name, values in columns.items()}).assign_coords(coords)


_COLUMNS = ("difference", "difference_low", "difference_high", "p_value", "p_corrected")


def _test(first: np.ndarray, second: np.ndarray, absent: int, limits: Limits) -> dict[str, np.ndarray]:
    """Differences of means `[unit]` of `[unit, sequence]` with their intervals and p-values.

    In the correction independent normal differences stand in for `absent` units, not zeroed on all texts.
    """
    like = np.random.default_rng(limits.seed).normal(size=(absent, first.shape[-1]))
    every = np.concatenate([first, like]), np.concatenate([second, np.zeros_like(like)])
    test = paired_differences(*every, limits.n_permutations, limits.seed)
    difference, *p_values = (x[: len(first)] for x in (test.difference, test.p_value, test.p_corrected))
    columns = (difference, *t_interval(first - second, limits.level), *p_values)
    return dict(zip(_COLUMNS, columns, strict=True))


_BOTH = ("dormant_in", "active_in")


def _conditions(result: xr.Dataset, limits: Limits) -> xr.DataArray:
    """Whether each condition holds, for every ordered pair of domains."""
    dormant, active = ({"domain": name} for name in _BOTH)
    one = result[["sink", "effect", "effect_low", "effect_high"]]
    asleep, awake = one.rename(dormant), one.rename(active)
    units = result["effect"].dims[1:]
    everywhere = xr.zeros_like(asleep["effect"] * awake["effect"], dtype=bool).transpose(*_BOTH, *units)
    differs = everywhere.copy()
    p = result["p_corrected"].sel(score="loss_change", drop=True).transpose("pair", ...)
    for pair in range(p.sizes["pair"]):
        i, j = str(result["first"].values[pair]), str(result["second"].values[pair])
        differs.loc[i, j] = differs.loc[j, i] = p.values[pair] < limits.alpha
    different = everywhere["dormant_in"] != everywhere["active_in"]
    found = [asleep["sink"] >= limits.asleep, _quiet(asleep, limits), _works(awake, limits), differs]
    holds = xr.concat([(test | everywhere) & different for test in found], "condition")
    dims = ("condition", *_BOTH, *units)
    return holds.assign_coords(condition=list(CONDITIONS)).transpose(*dims).rename("holds")


def waking_table(judged: xr.Dataset, *, failing: int = 0) -> xr.Dataset:
    """The heads that wake, or that all but `failing` conditions say so of, the smallest p first.

    Args:
        judged: from `phases` or `active_dormant`.
        failing: how many conditions fail; 1 gives the near misses.

    Returns:
        Over `row`: `dormant_in`, `active_in`, `layer`, the unit, `effect` in the domain where it is active with
        `effect_low`, `effect_high`, `rest_effect`, `rest_low`, `rest_high` and `rest_sink` where it is dormant,
        `active_sink`, `p_value`, `p_corrected` and `failed`, the conditions that fail.
    """
    holds = judged["holds"]
    unit = str(holds.dims[-1])
    measured = (texts_zeroed(judged) == judged.sizes["sequence"]).transpose("layer", unit).values
    failed = (~holds).sum("condition").values
    rows: list[dict[str, Any]] = []
    for at in np.argwhere((failed == failing) & measured):
        asleep, awake = (str(holds[d].values[i]) for d, i in zip(("dormant_in", "active_in"), at[:2], strict=True))
        if asleep == awake:
            continue
        here = judged.isel({"layer": at[2], unit: at[3]})
        rest, work = here.sel(domain=asleep), here.sel(domain=awake)
        pair = np.flatnonzero([{asleep, awake} == {*map(str, both)} for both in zip(*_sides(judged), strict=True)])[0]
        test = here.sel(score="loss_change").isel(pair=pair)
        missing = holds["condition"].values[~holds.values[:, *at]]
        rows.append(
            {"dormant_in": asleep, "active_in": awake, "layer": int(here["layer"]), unit: int(here[unit])}
            | {name: float(work[name]) for name in ("effect", "effect_low", "effect_high")}
            | {f"rest_{name}": float(rest[f"effect_{name}"]) for name in ("low", "high")}
            | {
                "rest_effect": float(rest["effect"]),
                "rest_sink": float(rest["sink"]),
                "active_sink": float(work["sink"]),
            }
            | {name: float(test[name]) for name in ("p_value", "p_corrected")}
            | {"failed": ", ".join(missing)}
        )
    rows.sort(key=lambda row: (row["p_corrected"], row["p_value"], -abs(row["effect"])))
    names = ("dormant_in", "active_in", "layer", unit, "effect", "effect_low", "effect_high", "rest_effect", "rest_low")
    names += ("rest_high", "rest_sink", "active_sink", "p_value", "p_corrected", "failed")
    kinds = {"dormant_in": str, "active_in": str, "failed": str, "layer": int, unit: int}
    return xr.Dataset({n: ("row", np.array([row[n] for row in rows], dtype=kinds.get(n, float))) for n in names})


def near_misses(judged: xr.Dataset) -> xr.Dataset:
    """The heads that all conditions but one say wake, the smallest p first; the columns of `waking_table`.

    Args:
        judged: from `phases` or `active_dormant`.
    """
    return waking_table(judged, failing=1)


def _sides(judged: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return judged["first"].values, judged["second"].values


def waking_sentences(judged: xr.Dataset) -> xr.DataArray:
    """What `phases` found of each head, in words: "dormant in X, active in Y" and its like (layer, <unit>).

    A clause names only domains that were all told apart. Heads without a waking are "active in all", "dormant in all",
    "dormant in all (stopped after 4 texts)", "not decided", "stopped after 4 texts", or "not measured".

    Args:
        judged: from `phases` or `active_dormant`.
    """
    return xr.apply_ufunc(
        functools.partial(_sentence, judged["domain"].values.astype(object), judged.sizes["sequence"]),
        judged["wakes"],
        judged["phase"],
        texts_zeroed(judged),
        input_core_dims=[["dormant_in", "active_in"], ["domain"], []],
        vectorize=True,
        output_dtypes=[object],
    ).astype(str)


def _sentence(names: np.ndarray, n: int, wakes: np.ndarray, phase: np.ndarray, n_texts: np.integer) -> str:
    clauses: dict[tuple[str, ...], list[str]] = {}
    for name, awake in zip(names, wakes, strict=True):
        if awake.any():
            clauses.setdefault(tuple(names[awake]), []).append(name)
    if clauses:
        return "; ".join(f"dormant in {', '.join(xs)}, active in {', '.join(ys)}" for ys, xs in clauses.items())
    if set(phase) <= {"not measured"}:
        return "not measured"
    same = set(phase) <= {"dormant"} or set(phase) <= {"active"}
    stopped = "" if n_texts == n else f"stopped after {n_texts} texts"
    if same:
        return f"{phase[0]} in all" + f" ({stopped})" * bool(stopped)
    return stopped or "not decided"
