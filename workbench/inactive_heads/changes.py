"""How the set of inactive heads changes with the kind of text, training, the model, and the score.

1. `frequency`: on what share of the sequences is a head inactive?
2. `by_domain`: is that another share on another kind of text, beyond what two halves of one kind differ by?
3. `over_training`: which heads become dormant or active again between checkpoints?
4. `distances`: how far apart are the scores of two models, beyond what two halves of one model's texts differ by?
5. `overlap`: do two scores name the same heads?  6. `transfer`: does a threshold select as much elsewhere?

All of it is about what the scores select while nothing is zeroed. LN scores can be compared between models and kinds
of text; the raw ones depend on widths and lengths.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from workbench.errors import InputError
from workbench.inactive_heads.cutoffs import halves, inactive, inactive_head_thresholds
from workbench.inactive_heads.definitions import HeadScore, scores_named
from workbench.inactive_heads.scores import head_scores
from workbench.models.checkpoints import measure_checkpoints
from workbench.models.state import measures
from workbench.names import HeadScoreName
from workbench.prompts.texts import token_sequences
from workbench.protocol import HookedModel
from workbench.statistics import mean_differences, split_half_floor

SHARE = 0.1
"""The share of heads that a threshold is fitted to select where none is given."""
USUALLY = 0.5
"""A head is dormant at a checkpoint if it is inactive on more than this share of the sequences."""


def frequency(scores: xr.DataArray, tau: xr.DataArray | float) -> xr.DataArray:
    """Share of the sequences on which each head is inactive.

    Args:
        scores: from `head_scores`.
        tau: from `inactive_head_thresholds`, or one number.
    """
    return inactive(scores, tau).mean("sequence").rename("frequency")


@measures
def by_domain(
    model: HookedModel,
    domains: Mapping[str, Any],
    score: HeadScoreName | HeadScore = "AHON_LN",
    *,
    share: float = SHARE,
    tau: float | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Which heads are inactive on which kind of text, under one threshold for all.

    Every text is cut to the length of the shortest, since scores of attention depend on the length.

    Args:
        model: a TransformerLens model.
        domains: at least two kinds with their texts, at least four of each.
        score: by which heads are judged.
        share: of all heads on all texts together that the threshold selects.
        tau: or the threshold itself.
        max_tokens: texts are cut after so many tokens at most; shorter ones set the length for all.
        seed: of the noise floors and permutations.
        progress: show a bar.

    Returns:
        `frequency(domain, layer, head)`, its `floor` (what two halves of the same texts differ by in 19 of 20 cases),
        and per pair of domains `difference`, `p_value` and `p_corrected` for the number of heads.

    Raises:
        InputError: fewer than two kinds of text, or fewer than four texts of one.
    """
    sequences = {name: token_sequences(model, texts, max_tokens=max_tokens) for name, texts in domains.items()}
    few = [f"{name} ({len(found)})" for name, found in sequences.items() if len(found) < 4]
    if len(sequences) < 2 or few:
        raise InputError(
            "Comparing kinds of text needs two kinds or more, with four texts each; "
            + (f"too few of: {', '.join(few)}." if few else f"given {list(sequences)}.")
        )
    length = min(len(ids) for found in sequences.values() for ids in found)
    found = {
        name: head_scores(model, texts, score, max_tokens=length, progress=progress).isel(score=0)
        for name, texts in sequences.items()
    }
    if tau is None:
        pooled = xr.concat([one.expand_dims("score") for one in found.values()], dim="sequence", combine_attrs="drop")
        tau = inactive_head_thresholds(pooled, [share])["tau"].item()
    masks = {name: inactive(one, tau).transpose("layer", "head", "sequence").values for name, one in found.items()}
    first = next(iter(found.values()))
    dims = ("domain", "layer", "head")
    out = xr.Dataset(
        {
            "frequency": (dims, np.stack([mask.mean(-1) for mask in masks.values()])),
            "floor": (dims, np.stack([split_half_floor(mask, seed=seed) for mask in masks.values()])),
        },
        coords={"domain": list(masks), "n_sequences": ("domain", [mask.shape[-1] for mask in masks.values()])},
        attrs=first.attrs | {"score": str(first["score"].item()), "tau": tau, "share": share, "length": length},
    )
    return out.merge(_pairs(masks, seed)).assign_attrs(out.attrs)


def _pairs(masks: Mapping[str, np.ndarray], seed: int) -> xr.Dataset:
    """Tests between each two kinds of text."""
    pairs = list(itertools.combinations(masks, 2))
    tests = [mean_differences(masks[a].astype(float), masks[b].astype(float), n=1000, seed=seed) for a, b in pairs]
    dims = ("pair", "layer", "head")
    return xr.Dataset(
        {
            name: (dims, np.stack([getattr(t, name) for t in tests]))
            for name in ("difference", "p_value", "p_corrected")
        },
        coords={"pair": [f"{a} − {b}" for a, b in pairs]},
    )


def over_training(
    checkpoints: Mapping[int, Any],
    texts: Any,
    score: HeadScoreName | HeadScore = "AHON_LN",
    *,
    share: float = SHARE,
    tau: float | None = None,
    usually: float = USUALLY,
    max_tokens: int | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    device: Any = None,
    progress: bool = True,
) -> xr.Dataset:
    """Dormancy along training: how many heads are dormant at each checkpoint, which become dormant, which active again.

    Args:
        checkpoints: step to a source of `workbench.load` (a folder, "model@revision"), a loaded model, or a function
            that gives one; one is held at a time.
        texts: the same for all.
        score: by which heads are judged.
        share: of the last checkpoint's scores that the threshold selects; it is the same at every step.
        tau: or the threshold itself.
        usually: a head is dormant where it is inactive on more than this share of the texts.
        max_tokens: texts are cut after so many tokens.
        seed: of the split halves that give the noise floor of the distances.
        resume: a netCDF file: the scores of finished checkpoints are kept beside it, and a run that was stopped goes
            on from them.
        device: where to load.
        progress: show a bar.

    Returns:
        Per step `frequency(step, layer, head)`, its mean `share_inactive`, `dormant`, `share_dormant`, `births` and
        `deaths` since the step before, `persistence`: the share of its dormant heads that are dormant at the last
        step, `switches(layer, head)`: how often a head changed, and `distance`: how far the scores are from those of
        the last step (Wasserstein), with the `floor` that two halves of the last step's texts differ by.

    Raises:
        InputError: fewer than two checkpoints, or a resume file of another run.
    """
    steps = sorted(int(step) for step in checkpoints)
    if len(steps) < 2:
        raise InputError(f"Changes over training need two checkpoints or more; got steps {steps}.")
    wanted = scores_named(score)[0]

    def score_heads(model: HookedModel, texts: Any) -> xr.Dataset:
        found = head_scores(model, texts, wanted, max_tokens=max_tokens, progress=False)
        return found.isel(score=0).to_dataset().assign_attrs(found.attrs)

    score_heads.__qualname__ = f"head_scores {wanted.name} {max_tokens}"
    found = measure_checkpoints(
        checkpoints, texts, score_heads, method="over_training", resume=resume, device=device, progress=progress
    )
    scores = found["value"]
    if tau is None:
        tau = inactive_head_thresholds(scores.isel(step=-1).expand_dims("score"), [share])["tau"].item()
    facts = {"score": wanted.name, "tau": tau, "usually": usually, "fitted_on": f"step {steps[-1]}"}
    final = scores.isel(step=-1)
    distance = [_wasserstein(scores.isel(step=i), final) for i in range(len(steps))]
    lives = _lives(frequency(scores, tau).drop_vars("length", errors="ignore"), usually)
    lives = lives.assign(distance=("step", distance), floor=_wasserstein(*halves(final, seed)))
    return lives.assign_attrs(found.attrs | facts)


def _lives(often: xr.DataArray, usually: float) -> xr.Dataset:
    """When heads are dormant and active, from their frequencies (step, layer, head)."""
    dormant = often > usually
    before = dormant.shift(step=1, fill_value=False)
    last = dormant.isel(step=-1, drop=True)
    return xr.Dataset(
        {
            "frequency": often,
            "share_inactive": often.mean(["layer", "head"]),
            "dormant": dormant,
            "share_dormant": dormant.mean(["layer", "head"]),
            "births": (dormant & ~before).sum(["layer", "head"]),
            "deaths": (~dormant & before).sum(["layer", "head"]),
            "persistence": (dormant & last).sum(["layer", "head"]) / dormant.sum(["layer", "head"]),
            "switches": abs(dormant.astype(int).diff("step")).sum("step"),
        }
    )


def distances(groups: Mapping[str, xr.DataArray], *, seed: int = 0) -> xr.Dataset:
    """Wasserstein distances between the scores of models (or of texts), pooled over sequences, layers and heads.

    Args:
        groups: names with `head_scores` of the same scores; for models of other sizes take LN scores.
        seed: of the halves.

    Returns:
        `distance(score, first, second)` and `floor(score, first)`: the distance of two halves of one's own sequences.
    """
    names = list(groups)
    if len(names) < 2:
        raise InputError(f"Distances need two groups of scores or more; got {names}.")
    kinds = [str(s) for s in next(iter(groups.values()))["score"].values]
    table = np.zeros((len(kinds), len(names), len(names)))
    floor = np.zeros((len(kinds), len(names)))
    for k, kind in enumerate(kinds):
        pooled = {name: group.sel(score=kind) for name, group in groups.items()}
        for (i, a), (j, b) in itertools.combinations(enumerate(names), 2):
            table[k, i, j] = table[k, j, i] = _wasserstein(pooled[a], pooled[b])
        for i, name in enumerate(names):
            floor[k, i] = _wasserstein(*halves(pooled[name], seed))
    return xr.Dataset(
        {"distance": (("score", "first", "second"), table), "floor": (("score", "first"), floor)},
        coords={"score": kinds, "first": names, "second": names},
    )


def _wasserstein(a: xr.DataArray, b: xr.DataArray) -> float:
    return float(stats.wasserstein_distance(a.values.ravel(), b.values.ravel()))


def overlap(scores: xr.DataArray, share: float = SHARE) -> xr.Dataset:
    """Do two scores select the same heads on the same texts, each with a threshold for the same share?

    Args:
        scores: from `head_scores`.
        share: of heads that each threshold selects.

    Returns:
        `iou(score, other)`, the selected heads in common over those that either selects, `precision(score, other)`,
        the share of the score's heads that the other selects too, and `chance`, the IoU of random sets of these sizes.
    """
    masks = inactive(scores, inactive_head_thresholds(scores, [share])["tau"].isel(threshold=0, drop=True))
    flat = masks.transpose("score", ...).values.reshape(masks.sizes["score"], -1).astype(float)
    both, size = flat @ flat.T, flat.sum(-1)
    either = size[:, None] + size[None, :] - both
    by_chance = size[:, None] * size[None, :] / flat.shape[1]
    names = scores["score"].values
    dims = ("score", "other")
    with np.errstate(invalid="ignore", divide="ignore"):
        return xr.Dataset(
            {
                "iou": (dims, both / either),
                "precision": (dims, both / size[:, None]),
                "chance": (dims, by_chance / (size[:, None] + size[None, :] - by_chance)),
            },
            coords={"score": names, "other": names},
            attrs=scores.attrs | {"share": share},
        )


def transfer(groups: Mapping[str, xr.DataArray], quantiles: Sequence[float | int] = (SHARE,)) -> xr.Dataset:
    """What share of heads a threshold selects on other texts (or in another model) than those that it was fitted on.

    Args:
        groups: names with `head_scores` of the same scores.
        quantiles: shares that the thresholds are fitted to.

    Returns:
        `tau(fit, score, threshold)` and `selected(fit, applied, score, threshold)`.
    """
    fitted = {name: inactive_head_thresholds(group, quantiles) for name, group in groups.items()}
    names = list(groups)
    rows = [
        xr.concat([inactive(groups[b], fitted[a]["tau"]).mean(["sequence", "layer", "head"]) for b in names], "applied")
        for a in names
    ]
    selected = xr.concat(rows, "fit").assign_coords(fit=names, applied=names)
    tau = xr.concat([fitted[a]["tau"] for a in names], "fit").assign_coords(fit=names)
    return xr.Dataset({"tau": tau, "selected": selected})
