"""Activation patching: the total effect of an activation, with everything downstream recomputed.

1. Run base and source once (`suffix.py`): what they share at the beginning is never run again.
2. For each cell of the grid (`sites.py`): write the source's activation into base at the cell's layer, unit and
   positions, and run from that layer on. Layers below and positions before the first patched one cannot change and are
   not run: base's keys and values stand there. The cells of a layer share one forward pass, a row each; the last layer
   computes queries, output projection and MLP only where answers are read.
3. Score the answer logits of each cell (`scores.py`).

Definition: Vig et al., arXiv 2004.12265; Meng et al., arXiv 2202.05262. Unlike path patching, later attention layers
react to the patch.
"""

import warnings
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError, WorkbenchWarning
from workbench.models.anatomy import Anatomy, heads_by_unit
from workbench.models.checks import require_hooks
from workbench.models.devices import device_of, devices_of
from workbench.models.forward import hooked, run
from workbench.models.state import measures
from workbench.names import Hook, HookUnit, Metric, Positions
from workbench.patching.answers import answer_metrics, cell_scores, patching_result, reads
from workbench.patching.record import Record
from workbench.patching.sites import Grid, Site, grid, site
from workbench.patching.suffix import Suffix, suffix
from workbench.prompts.pairs import PromptPairs, shared_prefix
from workbench.protocol import HookedModel
from workbench.runs.batching import Batches, BatchSize
from workbench.runs.progress import hidden


@measures
def activation_patch(
    model: HookedModel,
    pairs: PromptPairs,
    *,
    hook: Hook = "z",
    unit: HookUnit | None = None,
    layers: Sequence[int] | None = None,
    units: Sequence[int] | None = None,
    positions: Positions | Sequence[int] = "all",
    metrics: Sequence[Metric] | None = None,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Total effect on the answer logits of writing source's activations into base.

    Args:
        model: a model from `workbench.load`.
        pairs: base and source prompts with their answers; suffixes after the shared prefix are aligned from the
            right.
        hook: q, k, v, z, pattern, attn_out, mlp_out, resid_pre or resid_post.
        unit: "head", "kv_group" or "layer" for q, z and pattern; "kv_group", "kv_head" or "layer" for k and v, whose
            rows are per KV head; "layer" for the rest. By default the first that fits of "kv_group" and "layer".
        layers: those to patch; by default all.
        units: the units of each layer to patch, by their numbers; by default all.
        positions: "all" at once, the "last" only, "each" in a cell of its own (adds the dimension `position`, counted
            back from the end), or a list of such positions, such as (-1, -3), each in a cell of its own.
        metrics: any of "logit_ratio", "logit_diff", "prob"; by default all that the answers allow.
        batch_size: cells per forward pass; "auto" measures memory on the first.
        resume: a netCDF file: finished examples are kept beside it, and a run that was stopped goes on from them.
        progress: show a bar.

    Returns:
        base, source `(metric, example)`, patched `(metric, layer, <unit>, <position>, example)`, contribution,
        stderr; NaN in layers that do not have the hook, such as z in layers without heads.

    Raises:
        InputError: an unknown hook, a unit, layer or position that it does not have, patterns of prompts of unequal
            length, an architecture where the write has no effect.
    """
    parts = require_hooks(model)
    pairs.check_model(model)
    metrics = answer_metrics(pairs, metrics)
    where = site(hook, unit, parts)
    cells = grid(where, parts.n_layers, positions, _width(pairs), where.layers(model, parts), layers, units)
    require_writable(model, parts, where)
    facts = {"hook": hook, "unit": where.unit, "positions": cells.positions}
    chosen = {dim: labels.tolist() for dim, labels in cells.coords.items()}
    batches = Batches(devices_of(model), batch_size, largest=256)

    def work(pair: PromptPairs) -> xr.Dataset:
        return patch_cells(model, parts, pair, cells, cells.cells(), batches)

    with Record(model, parts, pairs, metrics, resume, method="activation_patch", cells=chosen, **facts) as run:
        if run.finished is not None:
            return run.finished
        bar = tqdm(pairs, desc=f"activation patching, {hook}", unit="example", disable=hidden(progress), leave=False)
        pieces = [run.piece(f"example-{i}", partial(work, pair)) for i, pair in enumerate(bar)]
        found = xr.concat(pieces, "example")
        return run.finish(patching_result(found, cells.dims, cells.coords, metrics, np.array(cells.cells())))


def _width(pairs: PromptPairs) -> int:
    """The longest suffix after a shared prefix: positions before it cannot have an effect."""
    longest = 1
    for pair in pairs:
        read = reads(pair)
        for base, source in zip(read.base, read.source, strict=True):
            longest = max(longest, len(base) - shared_prefix(base, source))
    return longest


@torch.no_grad()
def patch_cells(
    model: HookedModel, parts: Anatomy, pair: PromptPairs, cells: Grid, chosen: Sequence[int], batches: Batches
) -> xr.Dataset:
    """Answer logits of one example, of base and source `(answer, example)` and with each chosen cell patched."""
    read = reads(pair)
    streams = []
    for number, (base, source) in enumerate(zip(read.base, read.source, strict=True)):
        if cells.where.hook == "pattern" and len(base) != len(source):
            raise InputError(
                f"hook='pattern' needs prompts of equal length, and a pair has {len(base)} and {len(source)} "
                "tokens: a row of attention has one weight per token. Patch z instead, or use pairs of equal length."
            )
        seen = suffix(model, parts, base, source, cells.where, 1 + max(read.back))
        at = read.ends(number, seen.length)
        patched = _patched(seen, cells, chosen, batches, at)
        streams.append(torch.cat([seen.resid[-1][at][None], patched, seen.source_end[at][None]]))
    return cell_scores(parts, torch.cat(streams, dim=1), read)


def _patched(
    seen: Suffix, cells: Grid, chosen: Sequence[int], batches: Batches, at: list[int]
) -> Float[Tensor, "cell read d_model"]:
    """The final stream at the read positions for each chosen cell."""
    layer_of, unit_of, position_of = cells.place(chosen)
    written = np.repeat(seen.partner.cpu().numpy()[None], len(chosen), axis=0)
    if cells.positions != "all":
        written &= np.arange(-seen.length, 0) == position_of[:, None]
    final = repeat(seen.resid[-1][at], "row d_model -> cell row d_model", cell=len(chosen)).clone()
    length = seen.length
    for start, group in _from_first(written):
        seen = seen.behind(start - (length - seen.length))
        reached = [i for i, position in enumerate(at) if position >= start]
        rows = [at[i] - (length - seen.length) for i in reached]
        for layer in np.unique(layer_of[group]):

            def work(batch: list[int], layer: int = int(layer), seen: Suffix = seen, rows: list[int] = rows) -> Tensor:
                mask = torch.from_numpy(cells.where.mask(unit_of[batch], written[batch, -seen.length :]))
                return _run_patched(seen, cells.where, layer, mask.to(seen.resid.device), rows)

            for batch, stream in batches.over(group[layer_of[group] == layer].tolist(), work):
                final[torch.tensor(batch)[:, None], torch.tensor(reached)] = stream
    return final


def _from_first(written: Bool[np.ndarray, "cell pos"]) -> Iterator[tuple[int, Int[np.ndarray, " cell"]]]:
    """Cells grouped by the first position that they write, and from where each group must be run.

    A group holds cells whose first positions lie close together, at most an eighth of what is left to run.
    """
    cells = np.flatnonzero(written.any(1))
    first = written[cells].argmax(1)
    left = np.unique(first)
    while len(left):
        start = int(left[0])
        own = left <= start + (written.shape[1] - start) // 8
        yield start, cells[np.isin(first, left[own])]
        left = left[~own]


def _run_patched(
    seen: Suffix, where: Site, layer: int, mask: Tensor, rows: list[int]
) -> Float[Tensor, "cell read d_model"]:
    """The final stream at some rows, of cells of one layer, each with source's activation where its mask says."""
    start = layer + 1 if where.hook == "resid_post" else layer
    resid = repeat(seen.resid[start], "pos d_model -> cell pos d_model", cell=len(mask))

    def write(activation: Tensor) -> Tensor:
        device = activation.device
        return torch.where(mask.to(device), seen.source[layer].to(device), activation)

    if where.hook.startswith("resid"):
        return seen.patched_stream(start, write(resid), None, rows)
    return seen.patched_stream(layer, resid, write, rows)


@torch.no_grad()
def require_writable(model: HookedModel, parts: Anatomy, where: Site) -> None:
    """Prove by an intervention that what is written at this hook reaches the output, once for each model and hook.

    Raises:
        InputError: it does not; some architectures compute attention elsewhere and only show a copy at the hook.
    """
    if where.hook.startswith("resid") or where.hook in _writable.get(model, ()):
        return
    tokens = [3 % parts.d_vocab, 5 % parts.d_vocab, 4 % parts.d_vocab]
    seen = suffix(model, parts, tokens, tokens[::-1], where)
    positions = 2 if where.hook == "pattern" else 1
    first = where.layers(model, parts)[0]
    rows = seen.base[first].shape[3 - positions]
    if where.owners is not None and rows != where.owners.shape[1]:
        raise InputError(
            f"{parts.architecture} shows {rows} rows at hook_{where.hook} and has {where.owners.shape[1]}: something "
            "else lies there beside heads, such as a gate, so none can be patched alone. Patch z, or another hook."
        )

    def disturb(activation: Tensor) -> Tensor:
        return 1.5 * activation.roll(1, dims=positions)

    changed = seen.final_stream(first, seen.resid[first : first + 1], {where.name(first): disturb})
    if torch.equal(changed[0], seen.resid[-1]):
        raise InputError(
            f"{parts.architecture} ignores what is written at hook_{where.hook}: TransformerLens shows a copy there "
            "that the model does not read, so patching it would report 0 for everything. Patch z or attn_out "
            "instead."
        )
    if where.hook in ("q", "k") and where.n_units > 1 and not _acts_alone(model, parts, where, tokens):
        warnings.warn(
            f"{parts.architecture} passes the {'queries' if where.hook == 'q' else 'keys'} of all heads through one "
            f"norm behind hook_{where.hook}, so what is written for one head rescales those of the others. Patch z, v "
            "or pattern for effects of one head alone.",
            WorkbenchWarning,
            stacklevel=4,
        )
        return
    _writable.setdefault(model, set()).add(where.hook)


_writable: weakref.WeakKeyDictionary[Any, set[Hook]] = weakref.WeakKeyDictionary()


def _acts_alone(model: HookedModel, parts: Anatomy, where: Site, tokens: list[int]) -> bool:
    """Whether queries or keys that are written for one unit change z of no head of another."""
    first = where.layers(model, parts)[0]
    batch = torch.tensor([tokens, tokens], device=device_of(model))
    mask = torch.from_numpy(where.mask(np.zeros(1, int), np.ones((1, len(tokens)), bool)))
    told: list[Tensor] = []

    def disturb(activation: Tensor) -> Tensor:
        changed = torch.where(mask.to(activation.device), 1.5 * activation.roll(1, dims=1) + 0.5, activation)
        return torch.cat([activation[:1], changed[1:]])

    with hooked(model, {where.name(first): disturb, f"blocks.{first}.attn.hook_z": lambda z: told.append(z.clone())}):
        run(model, batch)
    others = heads_by_unit(where.n_units, parts.n_heads)[1:].any(0)
    plain, other = told[0][..., torch.from_numpy(others), :].double()
    return float((other - plain).norm()) <= 1e-4 * float(plain.norm())
