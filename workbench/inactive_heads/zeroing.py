"""Zeroing heads while a model runs: by a score, by a fixed choice, or at random.

1. In layer order, in one pass: attention, values and z of a layer, already changed by what was zeroed below it.
2. From these the layer's scores, sequence by sequence, on real tokens.
3. A head on the inactive side of the threshold, strictly, gets z = 0 at every position of that sequence.
4. W_O, its bias and the rest of the block go on from there; nothing is remembered for the next pass.

While text is generated every new token changes the scores of the whole sequence, so exact zeroing runs without a cache
of keys and values; `zero_heads_cached` decides once, on the prompt, and is another method.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.inactive_heads.definitions import HeadScore, scores_named
from workbench.inactive_heads.passes import Passes, watching
from workbench.inactive_heads.reading import Reader
from workbench.models.anatomy import Anatomy, require_heads
from workbench.models.devices import device_of
from workbench.models.exact import require_original
from workbench.models.grams import Grams
from workbench.names import HeadScoreName
from workbench.protocol import HookedModel

Heads = Any
"""Pairs (layer, head), or a boolean mask [layer, head] or [sequence, layer, head]."""
Decide = Callable[[int, Tensor], Tensor | None]
"""The layer and its z to the mask [batch, head] of what is zeroed."""


class Zeroed:
    """How many heads were zeroed, counted while the model runs.

    Attributes:
        counts: how often each head was zeroed.
        sequences: how many sequences each layer has seen.
        last: the masks of the last pass by layer, `[batch, head]`.
    """

    def __init__(self, n_layers: int, n_heads: int, device: Any = None):
        self.counts: Int[Tensor, "layer head"] = torch.zeros(n_layers, n_heads, dtype=torch.long, device=device)
        self.sequences: Int[Tensor, " layer"] = torch.zeros(n_layers, dtype=torch.long)
        self.last: dict[int, Tensor] = {}

    def add(self, layer: int, mask: Bool[Tensor, "batch head"]) -> None:
        """Count one layer of one pass."""
        self.last[layer] = mask
        self.counts[layer] += mask.sum(0).to(self.counts.device)
        self.sequences[layer] += len(mask)

    @property
    def frequency(self) -> Float[Tensor, "layer head"]:
        """Share of the sequences on which each head was zeroed; NaN in layers without heads."""
        return self.counts.cpu().double() / self.sequences[:, None]

    @property
    def share(self) -> float:
        """Share of heads zeroed, the mean over layers with heads and sequences; NaN before the model has run."""
        return float(self.frequency.nanmean())


@contextmanager
def zero_heads(
    model: HookedModel,
    *,
    score: HeadScoreName | HeadScore | None = None,
    tau: float | None = None,
    heads: Heads | None = None,
    random: float | Sequence[float | int] | np.ndarray | None = None,
    seed: int = 0,
    padding: int | None = None,
) -> Generator[Zeroed]:
    """Zero heads in every pass of the model inside the `with` block. Blocks may be nested.

    Args:
        model: a TransformerLens model; whatever runs it (perplexity, generation, lm-evaluation-harness) is affected.
        score: zero what is inactive by this score, decided online for each sequence.
        tau: its threshold, from `inactive_head_thresholds`.
        heads: or zero these: pairs (layer, head), or a boolean mask [layer, head] or [sequence, layer, head].
        random: or zero each head of each sequence and pass with this probability, one for all or one per layer,
            drawn in float32.
        seed: of the random draws.
        padding: token id that is padding at the end of a row, where neither a mask nor `pad` says so.

    Yields:
        What was zeroed so far: `share`, `frequency`, `counts`.

    Raises:
        InputError: not exactly one of score, heads and random; a threshold that is no number; heads that the model
            does not have; or, inside the block, a pass on cached keys and values.
    """
    parts = require_heads(model)
    if sum(given is not None for given in (score, heads, random)) != 1 or (score is None) != (tau is None):
        raise InputError(
            "Say in one way which heads to zero: score= with tau=, or heads=, or random=. Thresholds come from "
            "workbench.inactive_head_thresholds(workbench.head_scores(model, texts), quantiles)."
        )
    with watching(model, padding) as passes:
        if score is not None and tau is not None:
            with online(model, scores_named(score), passes, _below(scores_named(score)[0], tau)) as zeroed:
                yield zeroed
        else:
            decide = _fixed(parts, heads) if heads is not None else _random(parts, random, seed)
            with _zeroing(model, parts, passes, {}, decide) as zeroed:
                yield zeroed


@contextmanager
def zero_heads_cached(
    model: HookedModel, *, score: HeadScoreName | HeadScore, tau: float, padding: int | None = None
) -> Generator[Zeroed]:
    """Decide on the prompt which heads are inactive, and keep them zeroed while tokens are added to the cache.

    Faster than `zero_heads` and not the same: what is generated never changes the choice, and the keys and values of
    earlier tokens stay as they were. A pass without a cache decides anew.

    Args:
        model: a TransformerLens model.
        score: as in `zero_heads`.
        tau: as in `zero_heads`.
        padding: as in `zero_heads`.
    """
    kept: dict[int, Tensor] = {}
    wanted = scores_named(score)
    rule = _below(wanted[0], tau)

    def decide(layer: int, found: dict[str, Tensor]) -> Tensor:
        kept[layer] = rule(layer, found)
        return kept[layer]

    with watching(model, padding) as passes, online(model, wanted, passes, decide, kept) as zeroed:
        yield zeroed


@contextmanager
def online(
    model: HookedModel,
    scores: Sequence[HeadScore],
    passes: Passes,
    decide: Callable[[int, dict[str, Tensor]], Tensor | None],
    kept: dict[int, Tensor] | None = None,
) -> Generator[Zeroed]:
    """Compute scores in every watched pass and zero what `decide` chooses by them; None zeroes nothing.

    `decide` takes the layer and its scores by name to a mask `[batch, head]`. `kept` are masks for passes on cached
    keys and values; without them such a pass is refused.
    """
    parts = require_heads(model)
    grams = Grams(parts)
    reader: list[Reader] = []

    def current(activation: Tensor) -> Reader:
        if not reader or reader[0].real is not passes.real(activation):
            reader[:] = [Reader(parts, grams, scores, passes.real(activation))]
        return reader[0]

    def by_scores(layer: int, z: Tensor) -> Tensor | None:
        if not passes.past:
            current(z).z(layer, z)
            if layer not in current(z).found:
                raise InputError(
                    f"{parts.architecture} shows its attention only after z, so these scores come too late to zero "
                    "heads by. Use a score of values or outputs, such as AHON_LN."
                )
            return decide(layer, current(z).found[layer])
        if kept is None or kept[layer].shape[0] != z.shape[0]:
            raise InputError(
                f"This pass goes on from {passes.past} cached positions, but heads are judged by whole sequences. "
                "Generate without a cache (use_cache=False, or use_past_kv_cache=False in TransformerLens), or use "
                "zero_heads_cached, which decides once on the prompt and is another method."
            )
        return kept[layer]

    def pattern(layer: int, activation: Tensor) -> None:
        if not passes.past:
            current(rearrange(activation, "batch head query key -> batch query head key")).pattern(layer, activation)

    def values(layer: int, activation: Tensor) -> None:
        if not passes.past:
            current(activation).values(layer, activation)

    listeners: dict[str, Callable[[int, Tensor], None]] = {}
    if any(s.per_query for s in scores):
        listeners["hook_pattern"] = pattern
    if any("values" in s.reads for s in scores):
        listeners["hook_v"] = values
    with _zeroing(model, parts, passes, listeners, by_scores) as zeroed:
        yield zeroed


@contextmanager
def _zeroing(
    model: HookedModel,
    parts: Anatomy,
    passes: Passes,
    listeners: dict[str, Callable[[int, Tensor], None]],
    decide: Decide,
) -> Generator[Zeroed]:
    """Hooks on every layer: listeners by the hook's name, and z, which is zeroed as decided."""
    require_original(model)
    zeroed = Zeroed(parts.n_layers, parts.n_heads, device_of(model))
    decided: dict[int, tuple[int, Tensor | None]] = {}
    begun = passes.number

    def on_z(layer: int, z: Tensor) -> Tensor | None:
        if decided.get(layer, (-1, None))[0] != passes.number:
            mask = decide(layer, z)
            decided[layer] = (passes.number, mask)
            if mask is not None:
                zeroed.add(layer, mask)
        mask = decided[layer][1]
        return None if mask is None else z.masked_fill(mask[:, None, :, None].to(z.device), 0)

    hooks = []
    for layer in parts.head_layers:
        for name, listener in {**listeners, "hook_z": on_z}.items():
            hooks.append((f"blocks.{layer}.attn.{name}", _at(layer, listener)))
    with model.hooks(fwd_hooks=hooks):
        yield zeroed
    if passes.number > begun and not decided:
        raise InputError(
            f"The model ran, but no head output passed 'attn.hook_z': {parts.architecture} does not compute "
            "it, so no head was zeroed."
        )


def _at(layer: int, function: Callable[[int, Tensor], Tensor | None]) -> Callable[..., Tensor | None]:
    return lambda activation, hook=None: function(layer, activation)


def _below(score: HeadScore, tau: float) -> Callable[[int, dict[str, Tensor]], Tensor]:
    if not isinstance(tau, int | float | np.floating) or math.isnan(tau):
        raise InputError(
            f"tau={tau} is no threshold for {score.name}. Take one from "
            f"workbench.inactive_head_thresholds(...), such as "
            f"thresholds.tau.sel(score='{score.name}', threshold=0.1).item()."
        )
    return lambda _layer, found: score.selects(found[score.name], float(tau))


def _fixed(parts: Anatomy, heads: Heads) -> Decide:
    """Masks that were chosen beforehand."""
    mask = head_mask(parts, heads)

    def decide(layer: int, z: Tensor) -> Tensor:
        chosen = mask[..., layer, :].to(z.device)
        if chosen.ndim == 1:
            return repeat(chosen, "head -> batch head", batch=z.shape[0])
        if len(chosen) != z.shape[0]:
            raise InputError(
                f"The mask holds {len(chosen)} sequences, but this pass runs {z.shape[0]}. Run exactly those "
                "sequences in one batch, or give a mask [layer, head] for all."
            )
        return chosen

    return decide


def head_mask(parts: Anatomy, heads: Heads) -> Bool[Tensor, "*sequence layer head"]:
    """Pairs (layer, head) that the model has, or a boolean mask of its shape, as a boolean tensor."""
    shape = (parts.n_layers, parts.n_heads)
    given = heads.values if isinstance(heads, xr.DataArray) else heads
    array = given.cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if array.dtype == bool:
        if array.ndim not in (2, 3) or array.shape[-2:] != shape:
            raise InputError(
                f"The mask has shape {list(array.shape)}; this model needs [layer, head] = {list(shape)}, or the same "
                "with sequences in front."
            )
        _refuse_headless(parts, np.flatnonzero(array.any((*range(array.ndim - 2), -1))).tolist())
        return torch.tensor(array)
    mask = torch.zeros(shape, dtype=torch.bool)
    if array.size and (array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu"):
        raise InputError("heads= takes pairs (layer, head), such as [(0, 3), (5, 1)], or a boolean mask [layer, head].")
    for layer, head in array.reshape(-1, 2).astype(int).tolist():
        if not (0 <= layer < shape[0] and 0 <= head < shape[1]):
            raise InputError(
                f"There is no head ({layer}, {head}): this model has layers 0 to {shape[0] - 1} and heads 0 to "
                f"{shape[1] - 1}."
            )
        mask[layer, head] = True
    _refuse_headless(parts, mask.any(1).nonzero().flatten().tolist())
    return mask


def _refuse_headless(parts: Anatomy, layers: list[int]) -> None:
    wrong = [layer for layer in layers if layer in parts.headless]
    if wrong:
        raise InputError(
            f"Layer {wrong[0]} has no attention heads that can be reached; it holds "
            f"{' and '.join(parts.mixers[wrong[0]]) or 'an MLP only'}. Heads are in layers {list(parts.head_layers)}."
        )


def _random(parts: Anatomy, share: float | Sequence[float | int] | np.ndarray | None, seed: int) -> Decide:
    """Independent draws per sequence, layer and head, new in every pass."""
    shares = np.atleast_1d(np.asarray(share, dtype=float))
    if shares.shape not in ((1,), (parts.n_layers,)) or not ((shares >= 0) & (shares <= 1)).all():
        raise InputError(f"random={share} must be a share from 0 to 1, or one for each of the {parts.n_layers} layers.")
    by_layer = np.broadcast_to(shares, (parts.n_layers,))
    generator = torch.Generator().manual_seed(seed)

    def decide(layer: int, z: Tensor) -> Tensor:
        drawn = torch.rand(z.shape[0], parts.n_heads, generator=generator, dtype=torch.float32)
        return (drawn < float(by_layer[layer])).to(z.device)

    return decide
