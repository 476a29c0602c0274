"""Attribution patching: activation patching estimated by gradients, for all units at once.

1. Run base and source once (`suffix.py`).
2. Take the gradient of each answer's logit with respect to the site's activation in every layer:
   - at base (`steps=1`; Nanda 2023; Kramár et al., arXiv 2403.00745);
   - averaged over points between base and source (`steps` above 1). With `integrate="inputs"` the embeddings that
     enter layer 0 go that way, and one pass gives the gradients of all layers (EAP-IG: Hanna et al., arXiv 2403.17806,
     at midpoints). With `integrate="layers"` each layer's own activation goes it while all else is base's, so that the
     estimates of a layer's units add up to the effect of the whole layer, at the price of passes for each layer.
3. A unit's estimate is (source - base) times that gradient, summed over what belongs to the unit; the metrics follow
   from the estimated logits (`scores.py`).
4. The units that matter most, and as many at random, are patched exactly, and the agreement stands beside the result.

An estimate that takes as many passes as exact patching is announced as such.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import xarray as xr
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError, WorkbenchWarning, suggest
from workbench.models.anatomy import Anatomy
from workbench.models.checks import require_hooks
from workbench.models.devices import devices_of
from workbench.models.forward import HookFn
from workbench.models.state import measures
from workbench.models.weights import require_gradients
from workbench.names import Hook, HookUnit, Integrate, Metric
from workbench.patching.activation import patch_cells, require_writable
from workbench.patching.answers import (
    Reads,
    answer_metrics,
    coverage,
    differentiable_sequences,
    patching_result,
    reads,
    refuse_nan,
    scored_cells,
)
from workbench.patching.record import Record
from workbench.patching.scores import metrics_of
from workbench.patching.sites import Grid, Site, grid, site
from workbench.patching.statistics import compare_estimates
from workbench.patching.suffix import Suffix, suffix
from workbench.prompts.pairs import PromptPairs
from workbench.protocol import HookedModel
from workbench.runs.batching import Batches
from workbench.runs.progress import hidden
from workbench.runs.run import Run

UNNOTICED = 16
"""Forward passes over one example whose time nobody minds."""
METHODS: dict[Integrate, str] = {"inputs": "EAP-IG", "layers": "layer-wise integrated gradients"}


@measures
def attribution_patch(
    model: HookedModel,
    pairs: PromptPairs,
    *,
    hook: Hook = "z",
    unit: HookUnit | None = None,
    steps: int = 1,
    integrate: Integrate = "inputs",
    metrics: Sequence[Metric] | None = None,
    verify: int = 16,
    seed: int = 0,
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Gradient estimate of `activation_patch` at all positions.

    Args:
        model: a model from `workbench.load`.
        pairs: base and source prompts with their answers.
        hook: q, k, v, z, pattern, attn_out, mlp_out, resid_pre or resid_post.
        unit: as in `activation_patch`.
        steps: points at which the gradient is taken; 1 is base itself.
        integrate: what goes from base to source over several steps: "inputs" (the embeddings: EAP-IG) or "layers" (each
            layer's own activation).
        metrics: any of "logit_ratio", "logit_diff", "prob"; by default all that the answers allow.
        verify: how many units to patch exactly too: half of them the largest estimates, half at random. 0 for none.
        seed: of the random choice.
        resume: a netCDF file: finished examples are kept beside it, and a run that was stopped goes on from them.
        progress: show a bar.

    Returns:
        The variables of `activation_patch`, all estimated but base and source; with `verify`, `exact(metric, layer,
        <unit>)` where it was measured (NaN elsewhere), and `agreement_*(metric)` between the two. The attribute
        `estimate` names the method.

    Raises:
        InputError: as `activation_patch`; steps below 1; an unknown `integrate`.
    """
    if steps < 1:
        raise InputError(f"steps={steps} must be at least 1: the number of points where the gradient is taken.")
    if integrate not in get_args(Integrate):
        raise InputError(f"integrate={integrate!r} is unknown; {suggest(integrate, get_args(Integrate))}")
    parts = require_hooks(model)
    require_gradients(model)
    pairs.check_model(model)
    metrics = answer_metrics(pairs, metrics)
    where = site(hook, unit, parts)
    require_writable(model, parts, where)
    way = "gradient at base" if steps == 1 else METHODS[integrate]
    cells = grid(where, parts.n_layers, "all", 1, where.layers(model, parts))
    facts = {
        "hook": hook,
        "unit": where.unit,
        "positions": "all",
        "steps": steps,
        "estimate": way,
        "verified": verify,
        "seed": seed,
    }
    _warn_of_cost(pairs, parts, cells, steps, integrate)
    with Record(model, parts, pairs, metrics, resume, method="attribution_patch", **facts) as run:
        if run.finished is not None:
            return run.finished
        bar = tqdm(pairs, desc=f"attribution, {hook}", unit="example", disable=hidden(progress), leave=False)
        pieces = [
            run.piece(f"example-{i}", partial(_estimate, model, parts, pair, where, steps, integrate))
            for i, pair in enumerate(bar)
        ]
        found = xr.concat(pieces, "example").isel(cell=cells.cells())
        result = patching_result(found, cells.dims, cells.coords, metrics, np.array(cells.cells()))
        return run.finish(_verified(run, model, parts, pairs, cells, result, verify, seed) if verify else result)


def _warn_of_cost(pairs: PromptPairs, parts: Anatomy, cells: Grid, steps: int, integrate: Integrate) -> None:
    """Warn where exact patching takes no more forward passes over all layers; a backward pass counts as two."""
    layers, _, _ = cells.place(cells.cells())
    exact = float((parts.n_layers - layers).sum()) / parts.n_layers
    one = 1 + 2 * len(reads(pairs[:1]).passes)
    through = np.unique(layers) if steps > 1 and integrate == "layers" else np.zeros(1)
    estimate = steps * one * float((parts.n_layers - through).sum()) / parts.n_layers
    if estimate >= max(exact, UNNOTICED):
        warnings.warn(
            f"This estimate takes about {estimate:.0f} forward passes for each example, and exact patching of its "
            f"{len(layers)} cells {exact:.0f}: activation_patch gives the exact numbers in no more time.",
            WorkbenchWarning,
            stacklevel=4,
        )


def _estimate(
    model: HookedModel, parts: Anatomy, pair: PromptPairs, where: Site, steps: int, integrate: Integrate
) -> xr.Dataset:
    """Answer scores of one example, of base and source and estimated ones of each cell, and coverage.

    What is estimated to first order is the change of each answer sequence's logit or log-probability; the answers'
    scores are made of those.
    """
    read = reads(pair)
    n_read = 1 + max(read.back)
    seen = [suffix(model, parts, b, s, where, n_read) for b, s in zip(read.base, read.source, strict=True)]
    ends = [read.ends(number, s.length) for number, s in enumerate(seen)]
    each = list(zip(seen, ends, strict=True))
    streams = torch.stack(
        [torch.cat([s.resid[-1][at] for s, at in each]), torch.cat([s.source_end[at] for s, at in each])]
    )
    with torch.no_grad():
        of_base, of_source = (differentiable_sequences(parts, s, read).double().cpu().numpy() for s in streams)
        covered = coverage(parts, streams, read)
    change = torch.zeros(len(of_base), parts.n_layers, where.n_units, dtype=torch.float64)
    for number, (s, at) in enumerate(each):
        rows = [i for i, sequence in enumerate(read.sequence) if sequence == number]
        change += _change(parts, s, where, read.rows(rows), at, steps, integrate)
    moved = of_base + rearrange(change.numpy(), "sequence layer unit -> (layer unit) sequence")
    patched = read.join(moved)
    refuse_nan(patched, parts)
    return scored_cells(read.join(of_base), read.join(of_source), patched, covered)


def _change(
    parts: Anatomy, seen: Suffix, where: Site, read: Reads, at: list[int], steps: int, integrate: Integrate
) -> Float[Tensor, "sequence layer unit"]:
    """Estimated change of each answer sequence's score for each unit, through one of the runs."""
    change = torch.zeros(len(read.passes), parts.n_layers, where.n_units, dtype=torch.float64)
    points = [0.0] if steps == 1 else [(k + 0.5) / steps for k in range(steps)]
    if steps == 1 or integrate == "inputs":
        found = [_gradients(parts, seen, where, read, at, list(seen.base), [point], "inputs") for point in points]
    else:
        found = [_gradients(parts, seen, where, read, at, [layer], points, "layers") for layer in seen.base]
    for one in found:
        for layer, gradients in one.items():
            change[:, layer] += _units(where, gradients, seen, layer) / steps
    return change


def _gradients(
    parts: Anatomy,
    seen: Suffix,
    where: Site,
    read: Reads,
    at: list[int],
    layers: Sequence[int],
    points: list[float],
    moves: Integrate,
) -> dict[int, Float[Tensor, "sequence *activation"]]:
    """Gradient of each answer sequence's score, summed over the points, for the site in each of some layers."""
    start = 0 if moves == "inputs" else min(layers)
    knobs: dict[int, Tensor] = {}

    def between(base: Tensor, source: Tensor) -> Tensor:
        return (source - base) * base.new_tensor(points).view(-1, *[1] * (base.dim() - 1))

    def turn(layer: int) -> HookFn:
        moved = 0.0 if moves == "inputs" else between(seen.base[layer], seen.source[layer])

        def hook(activation: Tensor) -> Tensor:
            knobs[layer] = torch.zeros_like(activation, requires_grad=True)
            shift = moved.to(activation.device) if isinstance(moved, Tensor) else moved
            return activation + shift + knobs[layer]

        return hook

    with torch.enable_grad():
        stream = repeat(seen.resid[start], "pos d_model -> step pos d_model", step=len(points))
        stream = stream + between(seen.resid[:1], seen.source_start[None]) if moves == "inputs" else stream
        final = seen.final_stream(start, stream, {where.name(layer): turn(layer) for layer in layers})
        scores = torch.stack([differentiable_sequences(parts, row[at], read) for row in final]).sum(0)
        grads = [torch.autograd.grad(score, list(knobs.values()), retain_graph=True) for score in scores]
    return {layer: torch.stack([g[i].sum(0, keepdim=True) for g in grads]) for i, layer in enumerate(knobs)}


def _units(where: Site, gradients: Tensor, seen: Suffix, layer: int) -> Float[Tensor, "sequence unit"]:
    """Gradient times change, summed over each unit of a layer; positions without a partner do not change."""
    change = (seen.source[layer] - seen.base[layer]).to(gradients.device)
    product = gradients.double() * change.double()
    if where.owners is None:
        return product.flatten(1).sum(1)[:, None].cpu()
    axes = "1 owner query key" if where.hook == "pattern" else "1 pos owner d_head"
    rest = axes.replace("owner ", "")
    per_owner = rearrange(product, f"answer {axes} -> answer ({rest}) owner").sum(1)
    return per_owner.cpu() @ torch.from_numpy(where.owners.T.astype(float))


def _verified(
    run: Run,
    model: HookedModel,
    parts: Anatomy,
    pairs: PromptPairs,
    cells: Grid,
    result: xr.Dataset,
    verify: int,
    seed: int,
) -> xr.Dataset:
    """Add the exact values of some units, and how well the estimates agree with them."""
    metrics = metrics_of(result)
    estimates = result["contribution"].stack(cell=cells.dims, create_index=False)
    ranking = estimates.sel(metric="logit_diff" if "logit_diff" in metrics else metrics[0])
    order = np.argsort(-np.abs(ranking.values), kind="stable")[: len(cells.cells())]
    top = order[: (verify + 1) // 2]
    rest = np.random.default_rng(seed).permutation(order[len(top) :])[: verify // 2]
    chosen = sorted(int(c) for c in [*top, *rest])
    batches = Batches(devices_of(model), "auto", largest=256)
    pieces = [
        run.piece(f"exact-{i}", partial(patch_cells, model, parts, pair, cells, chosen, batches))
        for i, pair in enumerate(pairs)
    ]
    found = patching_result(xr.concat(pieces, "example"), ["cell"], {"cell": chosen}, metrics)["contribution"]
    exact = np.full(estimates.shape, np.nan)
    exact[:, chosen] = found.values
    scores = compare_estimates(found.copy(data=estimates.values[:, chosen]), found, ratio=0.25)
    renamed = {name: f"agreement_{name}" for name in scores.data_vars}
    return result.assign(exact=result["contribution"].copy(data=exact.reshape(result["contribution"].shape))).merge(
        scores.rename(renamed).drop_attrs(), compat="override", join="left"
    )
