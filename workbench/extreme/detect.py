"""Which tokens are extreme, where and by how much: sinks, drains and peaks of any model on any texts.

1. The texts run through the model once; attention is seen in chunks of queries and never kept.
2. Per token: attention received and sink logit of each head, value norm through W_O, stream norm of each layer.
3. `verdict.classify_tokens` applies the thresholds.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.extreme.drains import by_kv_head, root, value_norms
from workbench.extreme.peaks import Peak, norms, peak
from workbench.extreme.sinks import Received
from workbench.extreme.verdict import Thresholds, classify_tokens
from workbench.models.anatomy import Anatomy, require_heads
from workbench.models.attention import observe, streams
from workbench.models.capture import device_of
from workbench.models.forward import pad
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.prompts.texts import digest, token_sequences, words
from workbench.protocol import HookedModel
from workbench.runs.batching import Batches, BatchSize
from workbench.runs.progress import hidden
from workbench.runs.run import Run

RANKS = 8
"""Coordinates kept of each layer's token of largest norm."""
_DIMS = {
    "sink_weight": ("layer", "head", "position"),
    "sink_logit": ("layer", "head", "position"),
    "value_norm": ("layer", "kv_head", "position"),
    "head_value_norm": ("layer", "head", "position"),
    "residual_norm": ("layer", "position"),
    "embed_norm": ("position",),
    "queries": ("layer", "position"),
    "unattended": ("layer", "head"),
    "peak_position": ("layer",),
    "peak_coordinate": ("layer", "rank"),
    "peak_value": ("layer", "rank"),
    "peak_share": ("layer", "rank"),
}
_BY_POSITION = [name for name, dims in _DIMS.items() if dims[-1] == "position"]


@measures
@torch.no_grad()
def extreme_tokens(
    model: HookedModel,
    texts: Any,
    *,
    mask: Tensor | None = None,
    max_tokens: int | None = None,
    thresholds: Thresholds | None = None,
    chunk: int | Literal["auto"] = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Find attention sinks, value-state drains and residual-state peaks of texts of any length.

    One pass over the blocks, no logits; memory is O(chunk × length) beside the result.

    Args:
        model: a TransformerLens model; interventions that are active on it are seen.
        texts: strings, lists of token ids, a token tensor or a `datasets.Dataset`; at least two tokens each.
        mask: 1 where a token of a tensor is real; padding on either side gives the same numbers.
        max_tokens: longer texts are cut after so many tokens.
        thresholds: what counts as a sink, a drain and a peak; the defaults and their reasons stand in `Thresholds`.
        chunk: queries at a time.
        batch_size: texts at a time; "auto" measures how many fit.
        progress: show a bar.

    Returns:
        A Dataset with a `sequence` dim in front of every measure (positions after a text's end are NaN, and so is what
        belongs to heads in layers without any, attrs `headless`):
        `sink_weight` and `sink_logit` (layer, head, position), `value_norm(layer, kv_head, position)` and
        `head_value_norm(layer, head, position)` through W_O, `residual_norm(layer, position)` after each layer and
        `embed_norm(position)` in front of the first, `queries(layer, position)`: how many see the token,
        `unattended(layer, head)`: attention on a learned sink, and of each layer's token of largest norm
        `peak_position`, `peak_coordinate`, `peak_value` and `peak_share` (rank); beside them what
        `classify_tokens` adds, and the coordinates `token`, `token_id` (-1 after the end) and `length`.

    Raises:
        InputError: no texts, a text of one token, a model without attention heads, or a stream that is not finite.
    """
    parts, device = require_heads(model), device_of(model)
    sequences = token_sequences(model, texts, mask=mask, max_tokens=max_tokens)
    short = next((i for i, ids in enumerate(sequences) if len(ids) < 2), None)
    if short is not None:
        raise InputError(
            f"Text {short} has one token, which cannot be compared with others. Give texts of two tokens or more."
        )
    run = Run(
        model=parts.name,
        weights=fingerprint(model),
        texts=digest(sequences),
        attention="in chunks" if streams(model) else "materialised",
        **parts.facts,
    )
    rows: dict[int, dict[str, np.ndarray]] = {}
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))[::-1]
    roots = {layer: root(parts.blocks[layer].w_o()) for layer in parts.head_layers}
    bar = tqdm(total=len(sequences), desc="Extreme tokens", disable=hidden(progress))
    for batch, found in Batches(device, batch_size).over(
        order, lambda some: _measure(model, parts, roots, [sequences[i] for i in some], chunk)
    ):
        for row, i in enumerate(batch):
            rows[i] = {name: value[row] for name, value in found.items()}
        bar.update(len(batch))
    bar.close()
    found = [rows[i] for i in range(len(rows))]
    return classify_tokens(_dataset(found, sequences, words(model, sequences), run.facts()), thresholds)


def _measure(
    model: HookedModel,
    parts: Anatomy,
    roots: dict[int, Tensor],
    sequences: list[list[int]],
    chunk: int | Literal["auto"],
) -> dict[str, np.ndarray]:
    """All measures of one batch, the batch first."""
    tokens, last = pad(sequences, device_of(model))
    seen = _Seen(parts, roots, tokens.shape[1], last + 1)
    observe(
        model,
        tokens,
        attention=seen.received.add,
        values=seen.take_values,
        embed=seen.take_embed,
        resid_post=seen.take_resid,
        chunk=chunk,
    )
    return {name: value.cpu().numpy() for name, value in seen.measures().items()}


@dataclass
class _Seen:
    """The activations and sums kept from one pass over a batch."""

    parts: Anatomy
    roots: dict[int, Tensor]
    length: int
    lengths: Tensor
    value_norms: dict[int, Tensor] = field(default_factory=dict)
    resid_norms: list[Tensor] = field(default_factory=list)
    embed_norms: list[Tensor] = field(default_factory=list)
    peaks: list[Peak] = field(default_factory=list)

    def __post_init__(self):
        self.real = torch.arange(self.length, device=self.lengths.device) < self.lengths[:, None]
        wide = torch.promote_types(getattr(torch, self.parts.dtype), torch.float32)
        self.received = Received(self.lengths, self.parts.n_layers, self.parts.n_heads, self.length, wide)

    def take_values(self, layer: int, values: Tensor) -> None:
        found = value_norms(values, self.roots[layer])
        self.value_norms[layer] = torch.where(self.real[:, None], found, torch.nan)

    def take_embed(self, resid: Tensor) -> None:
        self.embed_norms.append(norms(resid, self.real, "in front of the first layer"))

    def take_resid(self, layer: int, resid: Tensor) -> None:
        length = norms(resid, self.real, f"after layer {layer}")
        self.resid_norms.append(length)
        self.peaks.append(peak(resid, length, RANKS))

    def measures(self) -> dict[str, Tensor]:
        unknown = torch.full_like(next(iter(self.value_norms.values())), torch.nan)
        by_head = torch.stack([self.value_norms.get(layer, unknown) for layer in range(self.parts.n_layers)], 1)
        peaks = {f"peak_{name}": torch.stack([getattr(p, name) for p in self.peaks], 1) for name in Peak._fields}
        return {
            "sink_weight": self.received.weight(),
            "sink_logit": self.received.logit(),
            "value_norm": by_kv_head(by_head, self.parts.n_kv_heads),
            "head_value_norm": by_head,
            "residual_norm": torch.stack(self.resid_norms, 1),
            "embed_norm": self.embed_norms[0],
            "queries": self.received.queries(),
            "unattended": self.received.unattended(),
            **peaks,
        }


def _dataset(
    rows: list[dict[str, np.ndarray]], sequences: list[list[int]], texts: list[list[str]], facts: dict[str, Any]
) -> xr.Dataset:
    length = max(len(ids) for ids in sequences)
    variables = {}
    for name, dims in _DIMS.items():
        fill = 0.0 if name == "queries" else np.nan
        values = [_widened(row[name], length, fill) if name in _BY_POSITION else row[name] for row in rows]
        variables[name] = (("sequence", *dims), np.stack(values))
    ids = np.stack([np.pad(np.array(s), (0, length - len(s)), constant_values=-1) for s in sequences])
    labels = np.array([s + [""] * (length - len(s)) for s in texts])
    coords = {
        "position": np.arange(length),
        "length": ("sequence", [len(s) for s in sequences]),
        "token": (("sequence", "position"), labels),
        "token_id": (("sequence", "position"), ids),
    }
    return xr.Dataset(variables, coords=coords, attrs=facts)


def _widened(values: np.ndarray, length: int, fill: float) -> np.ndarray:
    gap = length - values.shape[-1]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, gap)], constant_values=fill) if gap else values
