"""Which tokens are extreme, where and by how much: sinks, drains and peaks of any model on any texts.

1. The texts run through the model once; attention is fused, or seen in chunks of queries, and never kept.
2. Per token: attention received and sink logit of each head, value norm through W_O, stream norm of each layer.
3. `judging.judge` applies the thresholds, where the measures lie.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.extreme.drains import by_kv_head, value_norms
from workbench.extreme.judging import judge
from workbench.extreme.peaks import Peak, norms, peak, require_finite
from workbench.extreme.sinks import Received
from workbench.extreme.thresholds import Thresholds
from workbench.extreme.verdict import summed_dims, with_verdicts
from workbench.models.anatomy import Anatomy, require_heads
from workbench.models.attention import has_hooks, observe, way_of_reading
from workbench.models.devices import device_of, devices_of
from workbench.models.forward import pad
from workbench.models.grams import Grams, grams
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.prompts.templates import beginning
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
_MARKS = ("sink", "drained", "peaked", "extreme", "peak", "drain")
_ENDED = {"queries": 0.0, "sink": False, "drained": False, "peaked": False, "extreme": False}
"""What stands after a sequence's end where that is not NaN."""
_BY_POSITION = {*_MARKS, *(name for name, dims in _DIMS.items() if dims[-1] == "position")}


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
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Find attention sinks, value-state drains and residual-state peaks of texts of any length.

    One pass over the blocks, no logits; memory is O(chunk × length) beside the result.

    Args:
        model: a TransformerLens model; interventions that are active on it are seen.
        texts: strings, dialogues, lists of token ids, a token tensor or a `datasets.Dataset`; at least two tokens
            each.
        mask: 1 where a token of a tensor is real; padding on either side gives the same numbers.
        max_tokens: longer texts are cut after so many tokens.
        thresholds: what counts as a sink, a drain and a peak; the defaults and their reasons stand in `Thresholds`.
        chunk: queries at a time.
        batch_size: texts at a time; "auto" measures how many fit.
        resume: the netCDF file of the result: finished batches are kept beside it, and a stopped run goes on from them.
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
        InputError: no texts, a text of one token, a model without attention heads, a stream that is not finite, or
            a resumed run of another configuration.
    """
    parts = require_heads(model)
    sequences = token_sequences(model, texts, mask=mask, max_tokens=max_tokens)
    short = next((i for i, ids in enumerate(sequences) if len(ids) < 2), None)
    if short is not None:
        raise InputError(
            f"Text {short} has one token, which cannot be compared with others. Give texts of two tokens or more."
        )
    weights = fingerprint(model)
    limits, known = thresholds or Thresholds(), grams(model, parts, weights)

    def work(some: list[int]) -> xr.Dataset:
        own = [sequences[i] for i in some]
        return _piece(_measure(model, parts, known, own, limits, chunk), [len(ids) for ids in own])

    facts = {
        "method": "extreme_tokens",
        "model": parts.name,
        "weights": weights,
        "texts": digest(sequences),
        "bos": beginning(getattr(model, "tokenizer", None), sequences),
        "attention": way_of_reading(model, chunk),
        "hooks_active": has_hooks(model),
    } | {f"threshold_{name}": value for name, value in asdict(limits).items()}
    with Run(resume, **facts) as run:
        if run.finished is not None:
            return run.finished
        left = sorted(run.left(len(sequences)), key=lambda i: -len(sequences[i]))
        done = len(sequences) - len(left)
        bar = tqdm(total=len(sequences), initial=done, desc="Extreme tokens", disable=hidden(progress))
        run.over(left, Batches(devices_of(model), batch_size), work, bar.update)
        bar.close()
        joined = run.joined(len(sequences), "position", _ENDED)
        values = {str(name): torch.from_numpy(found.values) for name, found in joined.data_vars.items()}
        dataset = _dataset(values, sequences, words(model, sequences), parts.facts)
        marks = {name: values[name] for name in _MARKS}
        summed = {name: found for name, found in values.items() if name not in {*_MARKS, *_DIMS}}
        return run.finish(with_verdicts(dataset, marks, summed, limits))


def _measure(
    model: HookedModel,
    parts: Anatomy,
    known: Grams,
    sequences: list[list[int]],
    limits: Thresholds,
    chunk: int | Literal["auto"],
) -> dict[str, Tensor]:
    """All measures of one batch and the verdicts on them, the batch first."""
    tokens, last = pad(sequences, device_of(model))
    seen = _Seen(parts, known, tokens.shape[1], last + 1)
    observe(
        model,
        tokens,
        attention=seen.received.add,
        attended=seen.received.add_attended,
        values=seen.take_values,
        embed=seen.take_embed,
        resid_post=seen.take_resid,
        chunk=chunk,
    )
    measured = seen.measures()
    marks, summed = judge(measured, seen.real, limits)
    return measured | marks | summed


def _piece(found: dict[str, Tensor], lengths: list[int]) -> xr.Dataset:
    """The results of a batch, with nothing after a sequence's end."""
    after = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    variables = {}
    for name, values in found.items():
        inner = _DIMS.get(name) or (("layer", "position") if name in _MARKS else summed_dims(name, values.ndim))
        kept = values.cpu()
        if name in _BY_POSITION:
            ended = after.view(len(lengths), *[1] * (kept.ndim - 2), -1)
            kept = kept.masked_fill(ended, _ENDED.get(name, torch.nan))
        variables[name] = (("example", *inner), kept.numpy())
    return xr.Dataset(variables)


@dataclass
class _Seen:
    """The activations and sums kept from one pass over a batch."""

    parts: Anatomy
    known: Grams
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
        found = value_norms(values, self.known.root(layer)).to(self.real.device)
        self.value_norms[layer] = torch.where(self.real[:, None], found, torch.nan)

    def take_embed(self, resid: Tensor) -> None:
        self.embed_norms.append(norms(resid, self.real.to(resid.device)).to(self.real.device))

    def take_resid(self, layer: int, resid: Tensor) -> None:
        home = self.real.device
        length = norms(resid, self.real.to(resid.device))
        self.resid_norms.append(length.to(home))
        self.peaks.append(Peak(*(part.to(home) for part in peak(resid, length, RANKS))))

    def measures(self) -> dict[str, Tensor]:
        resid_norms = torch.stack(self.resid_norms, 1)
        require_finite(self.embed_norms[0], resid_norms, self.real, self.parts.dtype)
        unknown = torch.full_like(next(iter(self.value_norms.values())), torch.nan)
        by_head = torch.stack([self.value_norms.get(layer, unknown) for layer in range(self.parts.n_layers)], 1)
        peaks = {f"peak_{name}": torch.stack([getattr(p, name) for p in self.peaks], 1) for name in Peak._fields}
        return {
            "sink_weight": self.received.weight(),
            "sink_logit": self.received.logit(),
            "value_norm": by_kv_head(by_head, self.parts.n_kv_heads),
            "head_value_norm": by_head,
            "residual_norm": resid_norms,
            "embed_norm": self.embed_norms[0],
            "queries": self.received.queries(),
            "unattended": self.received.unattended(),
            **peaks,
        }


def _dataset(
    values: dict[str, Tensor], sequences: list[list[int]], texts: list[list[str]], facts: dict[str, Any]
) -> xr.Dataset:
    length = max(len(ids) for ids in sequences)
    ids = np.stack([np.pad(np.array(s), (0, length - len(s)), constant_values=-1) for s in sequences])
    labels = np.array([s + [""] * (length - len(s)) for s in texts])
    coords = {
        "position": np.arange(length),
        "length": ("sequence", [len(s) for s in sequences]),
        "token": (("sequence", "position"), labels),
        "token_id": (("sequence", "position"), ids),
    }
    variables = {name: (("sequence", *dims), values[name].numpy()) for name, dims in _DIMS.items()}
    return xr.Dataset(variables, coords=coords, attrs=facts)
