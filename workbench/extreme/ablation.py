"""Zero-ablation of every head: the change of the next-token loss with that head's z set to zero.

1. One pass over some sequences keeps the stream in front of each layer and the heads' z.
2. A row is one sequence without one unit. The rows of a layer are run together: attention's output is added up again
   from the kept z without the unit's part, then come the layer's MLP and the blocks above. Blocks below and the
   attention of the layer itself cannot change and are never run again. A long beginning that all sequences share
   (an instruction) is run once per unit, and its keys and values serve all rows.
3. The loss of each row is read from the last stream, a few positions at a time, so that logits over the whole
   vocabulary never lie in memory for all rows.

This equals one forward pass per unit in which a hook sets `hook_z` to zero at all positions (Guo et al., arXiv
2410.13835, section 3.1). While hooks are on the model (an intervention), and for blocks that cannot be added up again
from their parts, each layer is run whole with that hook instead.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache

from workbench.errors import InputError
from workbench.extreme.chosen import chosen_units, named_units, unit_masks
from workbench.models.anatomy import Anatomy, anatomy, require_heads
from workbench.models.attention import has_hooks
from workbench.models.capture import capture
from workbench.models.checks import require_exact
from workbench.models.devices import device_of, devices_of
from workbench.models.exact import block_output, require_original
from workbench.models.forward import hooked, pad, run_from, supports_prefix
from workbench.models.identity import fingerprint, refuse_nan_weights
from workbench.models.state import measures
from workbench.names import HeadUnit
from workbench.prompts.pairs import shared_prefix
from workbench.prompts.templates import beginning
from workbench.prompts.texts import digest, token_sequences
from workbench.protocol import HookedModel
from workbench.runs.batching import Batches, BatchSize
from workbench.runs.progress import hidden
from workbench.runs.run import Run

Tick = Callable[[int], Any]
"""Told how many more rows are done."""
_LOGITS = {"cpu": 2**23, "cuda": 2**28}
"""Logits held at once while losses are read: fewer, and the products mostly wait for W_U."""
_TOKENS = {"cpu": 2**11, "cuda": 2**15}
"""Tokens in one batch of rows, at most: what stays near a CPU's cache, and what keeps a GPU busy."""
_SHARED = 0.25
"""Share of the longest sequence from which a common beginning is run once for all."""


@measures
def zeroing_sweep(
    model: HookedModel,
    texts: Any,
    *,
    unit: HeadUnit = "head",
    layers: Sequence[int] | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
    positions: bool = False,
    column: str = "text",
    at_once: int = 8,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Next-token loss of each text, and how it changes with each head zeroed at all positions.

    Args:
        model: a model from `workbench.load`.
        texts: strings or token sequences of at least two tokens, or a `datasets.Dataset`.
        unit: "head", or "kv_group" for all query heads of a KV head together.
        layers: zero units of these layers alone.
        heads: zero these units alone, (layer, index) each.
        positions: also give the loss of each prediction, by the position that predicts.
        column: which column of a Dataset holds the texts.
        at_once: sequences per base pass; what a run that is stopped may lose.
        batch_size: rows (a sequence without a unit) per forward pass; "auto" measures memory on the first.
        resume: a netCDF file: finished sequences are kept beside it, and a run that was stopped goes on from them.
        progress: show a bar.

    Returns:
        `loss(sequence)` in nats per prediction, `loss_change(sequence, layer, <unit>)` = zeroed − base; with
        `positions` also `prediction_loss(sequence, position)` and `prediction_change(sequence, layer, <unit>,
        position)`, NaN after a sequence's end. Units that were not zeroed are NaN.

    Raises:
        InputError: a text of one token, a layer or head that the model does not have, a loss that is not finite, an
            unknown unit, or a model without heads.
    """
    sequences = token_sequences(model, texts, column=column)
    require_predictions(sequences)
    parts = require_heads(model)
    wanted = chosen_units(unit, parts, layers, heads)
    batches = row_batches(model, max(len(s) for s in sequences), batch_size)
    facts: dict[str, Any] = {
        "method": "zeroing_sweep",
        "model": parts.name,
        "weights": fingerprint(model),
        "texts": digest(sequences),
        "unit": unit,
        "positions": positions,
        "at_once": at_once,
    } | named_units(wanted)

    def work(group: range, tick: Tick) -> xr.Dataset:
        return zeroed_losses(model, [sequences[i] for i in group], unit, wanted, positions, batches, tick)

    with Run(resume, **facts) as run:
        if run.finished is not None:
            return run.finished
        label = "" if hidden(progress) else sweep_label(model, sequences[:2], len(sequences), unit, wanted, batches)
        found = by_groups(run, range(len(sequences)), at_once, work, label, int(wanted.sum()))
        bos = beginning(getattr(model, "tokenizer", None), sequences)
        return run.finish(found.assign_coords(sequence=np.arange(len(sequences))), bos=bos, **parts.facts)


def require_predictions(sequences: Sequence[Sequence[int]]) -> None:
    """Raise where a sequence is too short to predict anything."""
    short = next((i for i, s in enumerate(sequences) if len(s) < 2), None)
    if short is not None:
        raise InputError(
            f"Text {short} has {len(sequences[short])} token: nothing is predicted from it, so it has no loss. Leave "
            "out texts of fewer than two tokens."
        )


def row_batches(model: HookedModel, length: int, batch_size: BatchSize) -> Batches:
    """Batches of rows of at most `length` tokens, small enough for the device."""
    device = device_of(model)
    tokens = _TOKENS.get(device.type, _TOKENS["cpu"])
    return Batches(devices_of(model), batch_size, largest=max(1, tokens // length))


def by_groups(
    run: Run, sequences: range, at_once: int, work: Callable[[range, Tick], xr.Dataset], label: str, n_units: int
) -> xr.Dataset:
    """Apply `work` to groups of sequences, each a piece of the run, and join them; a bar is shown under a label."""
    if at_once < 1:
        raise InputError(f"at_once={at_once} sequences cannot be run; give at least 1.")
    starts = range(sequences.start, sequences.stop, at_once)
    groups = {f"sequences-{start}": range(start, min(start + at_once, sequences.stop)) for start in starts}
    done = sum(len(group) for key, group in groups.items() if key in run.pieces)
    with tqdm(
        total=len(sequences) * n_units, initial=done * n_units, desc=label, unit="row", disable=not label, leave=False
    ) as bar:
        pieces = [run.piece(key, functools.partial(work, group, bar.update)) for key, group in groups.items()]
    return xr.concat(pieces, "sequence", join="outer")


def sweep_label(
    model: HookedModel,
    some: Sequence[Sequence[int]],
    n: int,
    unit: HeadUnit,
    chosen: Bool[np.ndarray, "layer unit"],
    batches: Batches,
) -> str:
    """What a bar says of a sweep over n sequences, with an estimate of its time from one unit of the outermost layers.

    The time of a unit falls linearly with its layer, since the layers below it are not run.
    """
    layers = np.flatnonzero(chosen.any(1))
    seconds = {}
    for layer in {int(layers[0]), int(layers[-1])}:
        one = np.zeros_like(chosen)
        one[layer, chosen[layer].argmax()] = True
        for measured in (False, True):
            began = time.perf_counter()
            zeroed_losses(model, some, unit, one & measured, False, batches)
            seconds[layer, measured] = time.perf_counter() - began
    of_unit = [max(0.0, seconds[int(layer), True] - seconds[int(layer), False]) for layer in (layers[0], layers[-1])]
    each = np.interp(np.argwhere(chosen)[:, 0], [layers[0], layers[-1]], of_unit)
    total = each.sum() * n / len(some)
    told = f"{total:.0f} s" if total < 90 else f"{total / 60:.0f} min" if total < 5400 else f"{total / 3600:.1f} h"
    return f"zeroing {int(chosen.sum())} {unit}s on {n} texts, about {told}"


@dataclass(frozen=True)
class Base:
    """What the pass with nothing zeroed gives.

    Attributes:
        tokens: right-padded.
        real: which positions predict a token of their own sequence, all but the last.
        resid: the stream in front of each layer.
        z: the heads' outputs in each layer; empty where layers are run whole.
        loss: the loss of each prediction, 0 where there is none.
        shared: how many tokens at the beginning are run once for all rows.
    """

    tokens: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch prediction"]
    resid: list[Float[Tensor, "batch pos d_model"]]
    z: list[Float[Tensor, "batch pos head d_head"]]
    loss: Float[Tensor, "batch prediction"]
    shared: int


@torch.no_grad()
def zeroed_losses(
    model: HookedModel,
    sequences: Sequence[Sequence[int]],
    unit: HeadUnit,
    chosen: Bool[np.ndarray, "layer unit"],
    positions: bool,
    batches: Batches,
    tick: Tick = lambda n: None,
) -> xr.Dataset:
    """Losses of some sequences and their changes, as `zeroing_sweep` gives them, without provenance."""
    parts = anatomy(model)
    masks = unit_masks(unit, parts).to(device_of(model))
    base = base_pass(model, parts, sequences)
    n_rows, n_units = len(base.tokens), len(masks)
    shape = (n_rows, parts.n_layers, n_units)
    change = np.full((*shape, base.real.shape[1]) if positions else shape, np.nan)
    for layer in np.flatnonzero(chosen.any(1)).tolist():
        rows_units = [(row, number) for number in np.flatnonzero(chosen[layer]).tolist() for row in range(n_rows)]
        for batch, losses in batches.over(rows_units, _work(model, parts, base, masks, layer)):
            rows, units = (list(index) for index in zip(*batch, strict=True))
            away = losses.double() - base.loss[rows].double()
            change[rows, layer, units] = _reduced(away, base.real[rows], positions).cpu().numpy()
            tick(len(batch))
    return _dataset(base, change, unit, positions)


@torch.no_grad()
def zeroed_predictions(
    model: HookedModel, sequences: Sequence[Sequence[int]], layer: int, head: int, batches: Batches
) -> tuple[Float[Tensor, "batch prediction"], Float[Tensor, "batch prediction"]]:
    """Loss of each prediction and its change with one head zeroed; NaN after a sequence's end."""
    parts = anatomy(model)
    base = base_pass(model, parts, sequences)
    masks = unit_masks("head", parts).to(device_of(model))
    work = _work(model, parts, base, masks, layer)
    losses = torch.cat([found for _, found in batches.over([(row, head) for row in range(len(base.tokens))], work)])
    plain, zeroed = (_reduced(loss.double(), base.real, True) for loss in (base.loss, losses))
    return plain, zeroed - plain


def base_pass(model: HookedModel, parts: Anatomy, sequences: Sequence[Sequence[int]]) -> Base:
    """Run sequences with nothing zeroed.

    Raises:
        InputError: a loss that is not finite.
    """
    require_original(model)
    layers = range(parts.n_layers)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in layers]
    z_names = [f"blocks.{layer}.attn.hook_z" for layer in layers] if recomputed(model) else []
    end = f"blocks.{parts.n_layers - 1}.hook_resid_post"
    seen = capture(model, sequences, {name: lambda t: t for name in [*names, *z_names, end]})
    tokens, last = pad([list(s) for s in sequences], device_of(model))
    real = torch.arange(tokens.shape[1] - 1, device=tokens.device) < last[:, None]
    loss = next_token_loss(parts, seen[end], tokens, real)
    _refuse_nan(model, tokens, loss)
    shared = shared_tokens(model, sequences) if z_names else 0
    return Base(tokens, real, [seen[name] for name in names], [seen[name] for name in z_names], loss, shared)


def recomputed(model: HookedModel) -> bool:
    """Whether a layer can be added up again from its parts, rather than run whole with a hook on z."""
    if has_hooks(model):
        return False
    try:
        require_exact(model)
    except InputError:
        return False
    return True


def _work(
    model: HookedModel, parts: Anatomy, base: Base, masks: Tensor, layer: int
) -> Callable[[list[tuple[int, int]]], Tensor]:
    """The losses `[row, prediction]` of one batch of (row, unit) in a layer."""

    def end(rows: Tensor, units: Tensor, span: slice, past: Any = None) -> Tensor:
        """The last stream of rows, over the positions of a span; `past` holds what stands before them."""
        zeroed = masks[units][:, None, :, None]
        before = base.resid[layer][rows, span]
        if not base.z:
            hook = {f"blocks.{layer}.attn.hook_z": lambda z: z.masked_fill(zeroed.to(z.device), 0)}
            return _last_stream(model, parts, layer, before, base.tokens[rows, span], hook)
        z = base.z[layer][rows, span].masked_fill(zeroed, 0)
        after = block_output(parts, layer, before, parts.blocks[layer].attn_out(z))
        return _last_stream(model, parts, layer + 1, after, base.tokens[rows, span], {}, past)

    def work(batch: list[tuple[int, int]]) -> Tensor:
        rows, units = torch.tensor(batch, device=masks.device).T
        if not base.shared:
            return next_token_loss(parts, end(rows, units, slice(None)), base.tokens[rows], base.real[rows])
        distinct, place = units.unique(return_inverse=True)
        first, past = torch.zeros_like(distinct), empty_cache(model)
        start = end(first, distinct, slice(base.shared), past)
        _select(past, layer, base.shared, start, place)
        rest = torch.cat([start[place, -1:], end(rows, units, slice(base.shared, None), past)], 1)
        inner = base.shared - 1
        of_start = next_token_loss(parts, start, base.tokens[first, : base.shared], base.real[first, :inner])
        of_rest = next_token_loss(parts, rest, base.tokens[rows, inner:], base.real[rows, inner:])
        return torch.cat([of_start[place], of_rest], 1)

    return work


def _last_stream(
    model: HookedModel,
    parts: Anatomy,
    layer: int,
    resid: Tensor,
    tokens: Tensor,
    hooks: dict[str, Any],
    past: Any = None,
) -> Tensor:
    if layer == parts.n_layers:
        return resid
    ends: list[Tensor] = []
    name = f"blocks.{parts.n_layers - 1}.hook_resid_post"
    with hooked(model, hooks), hooked(model, {name: lambda t: ends.append(t)}):
        run_from(model, layer, resid, tokens, past)
    return ends[0].to(resid.device)


def shared_tokens(model: HookedModel, sequences: Sequence[Sequence[int]]) -> int:
    """Tokens at the beginning of all sequences that are worth running once for all; 0 where it does not pay."""
    first, *others = sequences
    n = min([shared_prefix(first, other) for other in others], default=0)
    n = min(n, *(len(s) - 1 for s in sequences))
    return n if supports_prefix(model) and n >= _SHARED * max(len(s) for s in sequences) else 0


def empty_cache(model: HookedModel) -> Any:
    """A cache that holds nothing yet, of the kind that the model itself makes."""
    return DynamicCache(config=model.original_model.config)


def _select(past: Any, layer: int, length: int, like: Tensor, place: Tensor) -> None:
    """Make the keys and values of the units' beginnings those of the rows.

    Layers that were not run are told only how long the beginning is: positions and masks are made from that.
    """
    for lower in past.layers[: layer + 1]:
        nothing = like.new_zeros(len(like), 1, length, 1)
        lower.update(nothing, nothing)
    past.batch_select_indices(place.cpu())


def next_token_loss(
    parts: Anatomy,
    stream: Float[Tensor, "batch pos d_model"],
    tokens: Int[Tensor, "batch pos"],
    real: Bool[Tensor, "batch prediction"],
) -> Float[Tensor, "batch prediction"]:
    """Cross entropy in nats of each token given those before it, 0 where `real` is False.

    Args:
        parts: the model's anatomy.
        stream: after the last layer.
        tokens: right-padded.
        real: which positions predict; the others are not computed.
    """
    inputs, targets = stream[:, :-1][real], tokens[:, 1:][real]
    step = max(1, _LOGITS.get(stream.device.type, _LOGITS["cpu"]) // parts.d_vocab)
    found = []
    for start in range(0, len(inputs), step):
        logits = parts.unembed(inputs[start : start + step])
        of_targets = logits.gather(-1, targets[start : start + step, None])[:, 0]
        found.append(logits.logsumexp(-1) - of_targets)
    losses = torch.cat(found)
    return torch.zeros(real.shape, dtype=losses.dtype, device=losses.device).masked_scatter(real, losses)


def _reduced(losses: Tensor, real: Tensor, positions: bool) -> Tensor:
    """Losses as they are with NaN where there is none, or their mean over each row's predictions."""
    return losses.masked_fill(~real, torch.nan) if positions else (losses * real).sum(-1) / real.sum(-1)


def _dataset(base: Base, change: np.ndarray, unit: HeadUnit, positions: bool) -> xr.Dataset:
    dims = ("sequence", "layer", unit)
    loss = _reduced(base.loss.double(), base.real, False).cpu().numpy()
    count = base.real.sum(-1).cpu().numpy()
    variables: dict[str, Any] = {"loss": ("sequence", loss), "n_predictions": ("sequence", count)}
    coords = {"layer": np.arange(change.shape[1]), unit: np.arange(change.shape[2])}
    if positions:
        each = _reduced(base.loss.double(), base.real, True).cpu().numpy()
        variables["prediction_loss"] = (("sequence", "position"), each)
        variables["prediction_change"] = ((*dims, "position"), change)
        coords["position"] = np.arange(change.shape[3])
        counts = (~np.isnan(change)).sum(-1)
        change = np.where(counts, np.nansum(change, axis=-1) / np.maximum(counts, 1), np.nan)
    return xr.Dataset(variables | {"loss_change": (dims, change)}, coords)


def _refuse_nan(model: HookedModel, tokens: Tensor, loss: Tensor) -> None:
    bad = (~torch.isfinite(loss)).any(-1).nonzero().flatten().tolist()
    if bad:
        refuse_nan_weights(model)
        raise InputError(
            f"The loss of the sequence that begins with the token ids {tokens[bad[0], :6].tolist()} is NaN or infinite "
            "although the weights are finite: activations overflow in this dtype. Load the model in a wider one "
            "(dtype='float32' or 'bfloat16')."
        )
