"""Exact path patching from attention heads to the logits, in two forward passes and a replay of single tokens.

The definition (Wang et al., arXiv 2211.00593, section 3.1 and appendix B; Chen et al., arXiv 2409.01658, for one
sender head at the last position): run `base` with the sender's z taken from `source`, every other head of every layer
frozen at its base value, and MLPs and norms recomputed; read the logits at the last position.

Because attention is frozen, positions do not mix, and only the read position can change. So:

1. Run base and source once, what they share at the beginning together; keep z of every head at the read position, and
   the stream that enters layer 0.
2. Replay the read position alone through all layers, with frozen z. Row 0 of the replay is base itself. A sender
   joins at its first layer with its heads' z from source, and from there on has a row of its own. All senders, all
   examples and all later layers share each MLP call.
3. Read the two answers' logits of every row, and score them (`scores.py`).

This is exact for sequential, parallel and post-norm blocks and mixtures of experts, since every branch is recomputed
as a whole. Where branches cannot be recomputed one by one, the model runs again for each sender (`rerun.py`). Answers
of several tokens are appended to both prompts, and every answer position is a read position. The cost is about
n_layers / 2 single-token MLPs per sender and example, instead of a forward pass over the prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy
from workbench.models.bare import read_bare, runs_bare
from workbench.models.capture import at, capture
from workbench.models.checks import require_path
from workbench.models.devices import device_of, devices_of
from workbench.models.forward import copies, pad, prefix_cache, supports_prefix
from workbench.models.state import measures
from workbench.names import Metric, Unit
from workbench.patching.answers import (
    Reads,
    answer_logits,
    answer_metrics,
    cell_scores,
    coverage,
    patching_result,
    reads,
    refuse_nan,
)
from workbench.patching.record import Record
from workbench.patching.rerun import announce, rerun, unsent
from workbench.patching.scores import scores, unstable
from workbench.patching.units import Senders, senders
from workbench.prompts.pairs import PromptPairs, shared_prefix
from workbench.protocol import HookedModel
from workbench.runs.batching import Batches, BatchSize
from workbench.runs.progress import hidden

ROWS_PER_CALL = 8192
"""Rows of one MLP call; more would cost memory and gain no speed."""
WORTH_SHARING = 0.25
"""The part of all tokens that a shared beginning must save to be worth a forward pass of its own."""


@measures
def path_patch(
    model: HookedModel,
    pairs: PromptPairs,
    *,
    unit: Unit = "kv_group",
    units: Mapping[str, Any] | Sequence[Any] | None = None,
    metrics: Sequence[Metric] | None = None,
    full_logits: bool = False,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Exact effect of each sender on the answer logits, everything else in attention frozen.

    Args:
        model: a model from `workbench.load`.
        pairs: base and source prompts with their answers.
        unit: what is sent from source: "head", "kv_group" (all query heads of a KV head) or "layer".
        units: instead of `unit`, sets of `(layer, head)` pairs, each sent as one; by name or in a list.
        metrics: any of "logit_ratio", "logit_diff", "prob"; by default all of them, for answers of several tokens and
            sets of openers (scored by the logsumexp of their log-probabilities) the last two.
        full_logits: keep the logits of the whole vocabulary too (`base_logits`, `source_logits`, `patched_logits`).
        batch_size: examples at a time, or senders where the model runs again for each; "auto" measures memory on the
            first.
        resume: a netCDF file: finished batches are kept beside it, and a run that was stopped goes on from them.
        progress: show a bar.

    Returns:
        base, source `(metric, example)`, patched `(metric, layer, <unit>, example)`, contribution and stderr
        `(metric, layer, <unit>)` (see `patching.scores.estimated`), coverage and coverage_source `(example)`: the
        probability of both answers together, the share of what the model says that they account for. Negative
        contribution: the unit pushes towards answer a. NaN in layers without attention heads (attrs `headless`), except
        with unit="layer". The attribute `computed` is "replay", or "rerun" where the model ran again for each sender.

    Raises:
        InputError: a misspelt unit or metric, answers outside the vocabulary, an architecture that is not exact, NaN
            logits, a resume file of another run.
    """
    parts, way = require_path(model)
    pairs.check_model(model)
    metrics = answer_metrics(pairs, metrics)
    if full_logits and not pairs.single_tokens:
        raise InputError("full_logits=True reads the last position only; give answers of one token each.")
    sent = senders(unit, units, parts)
    identity = [list(map(int, s)) for s in np.argwhere(sent.mask)] if units is not None else unit

    cells = Batches(devices_of(model), batch_size, largest=256)

    def work(batch: list[int]) -> xr.Dataset:
        read = reads(pairs[batch])
        replayed = way == "replay"
        stream = _replayed(model, parts, read, sent) if replayed else rerun(model, parts, read, sent, cells)
        return _scored(parts, stream, read, full_logits)

    how: dict[str, Any] = {"method": "path_patch", "senders": identity, "full_logits": full_logits}
    with Record(model, parts, pairs, metrics, resume, **how) as run:
        if run.finished is not None:
            return run.finished
        left = run.left(len(pairs))
        if way == "rerun":
            announce(model, parts, pairs[left], sent)
        bar = tqdm(
            total=len(left), desc=f"path patching, {unit}, {way}", unit="example", disable=hidden(progress), leave=False
        )
        with bar:
            run.over(left, Batches(devices_of(model), 1 if way == "rerun" else batch_size), work, bar.update)
        logits = run.joined(len(pairs))
        result = patching_result(logits, sent.dims, sent.coords, metrics, sent.sending)
        result = result.merge(_full(logits, sent)) if full_logits else result
        return run.finish(result, unit=unit if units is None else "custom", hook="z", computed=way)


@measures
@torch.no_grad()
def answer_scores(model: HookedModel, pairs: PromptPairs) -> xr.Dataset:
    """Scores of both answers without any patch.

    Returns:
        `score(side, answer, example)`: raw logits where every answer is of single tokens, else log-probabilities; and
        `coverage(side, example)`, the probability of both answers together. Sides are "base" and "source".
    """
    parts, way = require_path(model)
    pairs.check_model(model)

    def work(batch: list[int]) -> xr.Dataset:
        read = reads(pairs[batch])
        ends = [seen.last for seen in see(model, parts, read)] if way == "replay" else unsent(model, parts, read)
        stream = torch.stack(ends)
        logits = answer_logits(parts, stream, read)
        refuse_nan(logits, parts)
        return xr.Dataset(
            {
                "score": (("side", "answer", "example"), rearrange(logits, "answer run example -> run answer example")),
                "coverage": (("side", "example"), coverage(parts, stream, read)),
            },
            coords={"side": ["base", "source"], "answer": ["a", "b"], "example": batch},
        )

    pieces = [piece for _, piece in Batches(devices_of(model)).over(range(len(pairs)), work)]
    return xr.concat(pieces, "example").sortby("example")


@measures
def unpatched(model: HookedModel, pairs: PromptPairs) -> xr.Dataset:
    """What `path_patch` says of the two prompts of each pair, without any patch.

    Args:
        model: a model from `workbench.load`.
        pairs: base and source prompts with their answers.

    Returns:
        base, source `(metric, example)`, coverage and coverage_source `(example)`.
    """
    (parts, _), metrics = require_path(model), answer_metrics(pairs, None)
    found = answer_scores(model, pairs).transpose("side", "answer", "example")
    base, source = (scores(*found["score"].sel(side=side).values, metrics) for side in ("base", "source"))
    result = xr.Dataset(
        {"base": (("metric", "example"), base), "source": (("metric", "example"), source)},
        coords={"metric": list(metrics), "example": np.arange(len(pairs))},
    )
    raw = found["score"].sel(side="base").values
    about = Record(model, parts, pairs, metrics, None, method="unpatched").facts(**unstable(raw, metrics))
    covered = found["coverage"].values
    result = result.assign(coverage=("example", covered[0]), coverage_source=("example", covered[1]))
    return result.assign_attrs(about)


# Step 1: what the two runs leave behind.


@dataclass(frozen=True)
class Seen:
    """What one run leaves behind at its read positions: z of each layer, the first and the last stream."""

    z: Sequence[Float[Tensor, "row head ..."]]
    first: Float[Tensor, "row d_model"]
    last: Float[Tensor, "row d_model"]

    def rows(self, chosen: slice) -> "Seen":
        """Some of the rows."""
        return Seen([z[chosen] for z in self.z], self.first[chosen], self.last[chosen])


def see(model: HookedModel, parts: Anatomy, read: Reads) -> tuple[Seen, Seen]:
    """Run base and source; what all pairs have in common at the beginning is run once.

    Where an example is run several times, once for each beginning of a reply, its prompts are run once and continued.
    """
    if len(read.base) == 1 + int(read.example.max()) or not supports_prefix(model):
        return _see_all(model, parts, read)
    pieces = [_see_continued(model, parts, read, example) for example in np.unique(read.example).tolist()]
    base, source = (_joined([piece[side] for piece in pieces]) for side in (0, 1))
    return base, source


def _joined(pieces: Sequence[Seen]) -> Seen:
    z, first, last = zip(*((piece.z, piece.first, piece.last) for piece in pieces), strict=True)
    return Seen([torch.cat(layer) for layer in zip(*z, strict=True)], torch.cat(first), torch.cat(last))


def _see_all(model: HookedModel, parts: Anatomy, read: Reads) -> tuple[Seen, Seen]:
    """All runs of base and source in one batch."""
    shared = _shared(read) if supports_prefix(model) else 0
    past = copies(prefix_cache(model, [s[:shared] for s in read.base]), 2)
    both = [s[shared:] for pair in zip(read.base, read.source, strict=True) for s in pair]
    in_both = [2 * s + which for which in (0, 1) for s in read.sequence]
    seen, n_rows = _at_reads(model, parts, both, in_both, read.back * 2, past), len(read.sequence)
    return seen.rows(slice(n_rows)), seen.rows(slice(n_rows, None))


def _see_continued(model: HookedModel, parts: Anatomy, read: Reads, example: int) -> tuple[Seen, Seen]:
    """The same for one example whose prompts are run once each and continued by every beginning of a reply.

    What base and source have in common at the beginning is run once for both.
    """
    chosen = np.flatnonzero(read.example == example)
    runs = sorted({read.sequence[row] for row in chosen})
    in_runs, back = [runs.index(read.sequence[row]) for row in chosen], [read.back[row] for row in chosen]
    sides = [[side[run] for run in runs] for side in (read.base, read.source)]
    ends = [min(len(own[run]) - 1 - b for run, b in zip(in_runs, back, strict=True)) for own in sides]
    common = min(shared_prefix(sides[0][0], sides[1][0]), *ends)
    both = prefix_cache(model, [sides[0][0][:common]])

    def continued(own: list[list[int]], kept: int) -> Seen:
        past = copies(prefix_cache(model, [own[0][common:kept]], copies(both, 1)), len(own))
        return _at_reads(model, parts, [tokens[kept:] for tokens in own], in_runs, back, past)

    return continued(sides[0], ends[0]), continued(sides[1], ends[1])


def _at_reads(
    model: HookedModel, parts: Anatomy, runs: list[list[int]], in_run: list[int], back: list[int], past: Any
) -> Seen:
    """What runs leave behind at rows that lie `back` positions before their ends."""
    device = device_of(model)
    positions = [len(runs[run]) - 1 - b for run, b in zip(in_run, back, strict=True)]
    rows = torch.tensor(in_run, device=device), torch.tensor(positions, device=device)
    layers = range(parts.n_layers)
    if runs_bare(model):
        found = read_bare(model, parts, pad(runs, device)[0], (rows[0][:, None], rows[1][:, None]), past)
        return Seen([found.z[layer][:, 0] for layer in layers], found.first[:, 0], found.last[:, 0])
    names = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    first, last = "blocks.0.hook_resid_pre", f"blocks.{parts.n_layers - 1}.hook_resid_post"
    kept = capture(model, runs, dict.fromkeys([*names, first, last], at(*rows)), past)
    return Seen([kept[name].to(device) for name in names], kept[first], kept[last])


def _shared(read: Reads) -> int:
    """The shortest common beginning of a base and its source before anything that is read; 0 if it saves little."""
    back = max(read.back)
    pairs = list(zip(read.base, read.source, strict=True))
    common = min(
        min(shared_prefix(base, source), len(base) - back - 1, len(source) - back - 1) for base, source in pairs
    )
    return common if common * len(pairs) > WORTH_SHARING * sum(map(len, read.base + read.source)) else 0


# Step 2: the replay.


def replay(
    parts: Anatomy,
    first: Float[Tensor, "row d_model"],
    base: Sequence[Float[Tensor, "row head ..."]],
    source: Sequence[Float[Tensor, "row head ..."]],
    mask: Bool[np.ndarray, "unit layer head"],
) -> Float[Tensor, "cell row d_model"]:
    """The stream behind the last layer for base itself (index 0) and for each sender (1 + its index).

    `first` is the stream that enters layer 0, `base` the frozen z of each layer and `source` the z that each sender's
    heads take; heads may be wider in some layers than in others.
    """
    joins = mask.any(2).argmax(1)
    order = np.argsort(joins, kind="stable")
    sending = [np.flatnonzero(mask[order, layer].any(1)) for layer in range(parts.n_layers)]
    heads = [mask[order[cells], layer] for layer, cells in enumerate(sending)]
    lengths = [len(cells) for cells in sending]
    all_rows = torch.from_numpy(1 + np.concatenate(sending)).to(first.device).split(lengths)
    all_heads = torch.from_numpy(np.concatenate(heads)).to(first.device).split(lengths)
    stream = first.new_empty((1 + len(order), *first.shape), dtype=torch.promote_types(first.dtype, torch.float32))
    stream[0] = first
    end = 1
    for layer in range(parts.n_layers):
        start, end = end, end + int((joins == layer).sum())
        stream[start:end] = stream[0]
        active = stream[:end]
        before = active.to(first.dtype, copy=True) if parts.layout == "parallel" else None
        sent = torch.where(all_heads[layer][:, None, :, None], source[layer], base[layer])
        out = parts.blocks[layer].attn_out(torch.cat([base[layer][None], sent]))
        active += out[0]
        active.index_add_(0, all_rows[layer], (out[1:] - out[0]).to(stream.dtype))
        _add_mlp(parts, layer, active, active.to(first.dtype) if before is None else before)
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return stream[torch.from_numpy(np.concatenate([[0], 1 + back]))]


def _add_mlp(parts: Anatomy, layer: int, stream: Float[Tensor, "cell row d_model"], mlp_input: Tensor) -> None:
    """Add each cell's MLP branch to its stream, in place."""
    cells = max(1, ROWS_PER_CALL // stream.shape[1])
    for chunk, part in zip(stream.split(cells), mlp_input.split(cells), strict=True):
        chunk += parts.blocks[layer].mlp_out(part)


# Step 3: the logits.


@torch.no_grad()
def _replayed(model: HookedModel, parts: Anatomy, read: Reads, sent: Senders) -> Float[Tensor, "cell row d_model"]:
    base, source = see(model, parts, read)
    cells = replay(parts, base.first, base.z, source.z, sent.mask)
    return torch.cat([cells, source.last.to(cells.dtype)[None]])


@torch.no_grad()
def _scored(parts: Anatomy, stream: Float[Tensor, "cell row d_model"], read: Reads, full_logits: bool) -> xr.Dataset:
    dataset = cell_scores(parts, stream, read)
    if full_logits:
        dtype = getattr(torch, parts.dtype)
        whole = torch.stack([parts.unembed(row.to(dtype)) for row in stream]).float().cpu().numpy()
        dataset["full"] = (("run", "example", "vocab"), whole)
    return dataset


def _full(logits: xr.Dataset, sent: Senders) -> xr.Dataset:
    whole = logits["full"].transpose("run", "example", "vocab").values
    return xr.Dataset(
        {
            "base_logits": (("example", "vocab"), whole[0]),
            "source_logits": (("example", "vocab"), whole[-1]),
            "patched_logits": (
                (*sent.dims, "example", "vocab"),
                sent.filled(whole[1:-1]).reshape(*sent.shape, *whole.shape[1:]).astype(whole.dtype),
            ),
        }
    )
