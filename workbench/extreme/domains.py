"""Which heads are dormant on one kind of text and active on another.

1. Every domain's texts are cut to one length in tokens, and as many of each are kept.
2. Rest: the mean attention that a head pays to the sink (position 0, or the extreme tokens) per sequence.
3. Effect: how the next-token loss of a sequence changes when the head is zeroed (`ablation.py`), for all heads or named
   ones. Less is zeroed with a shortlist, chosen by attention (`shortlist.py`), and with `stop_early`, which leaves out
   heads that rest in no domain and stops others once they can hardly be found to wake (`stopping.py`).
4. `dormancy.phases` tests both over sequences and says which heads wake in which domain, corrected for all heads,
   those that were left out or stopped included.

Guo et al., arXiv 2410.13835, section 3.1: a dormant head rests on a token whose value is next to nothing, so that
taking the head away costs nothing; the same head is active where its weight goes elsewhere and the loss needs it.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
import xarray as xr
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float

from workbench.errors import InputError, WorkbenchWarning, suggest
from workbench.extreme.ablation import Tick, by_groups, row_batches, sweep_label, zeroed_losses
from workbench.extreme.chosen import chosen_units, named_units
from workbench.extreme.detect import extreme_tokens
from workbench.extreme.dormancy import Limits, phases
from workbench.extreme.shortlist import shortlist as choose
from workbench.extreme.stopping import can_wake, looks
from workbench.models.anatomy import anatomy
from workbench.models.attention import Chunk, observe
from workbench.models.devices import device_of
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.names import HeadUnit, Sinks
from workbench.prompts.templates import beginning
from workbench.prompts.texts import digest, token_sequences, words
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.runs.progress import hidden
from workbench.runs.run import Run

FEWEST = 4
"""Sequences per domain, at least: two halves of two."""
_CHARACTERS = 32
"""Of a long document so many characters per token are read before the whole of it is."""
_EDGE = 8
"""Tokens at a cut through a document that may be others than in the whole."""


@measures
def active_dormant(
    model: HookedModel,
    domains: Mapping[str, Any],
    *,
    length: int = 128,
    n_sequences: int | None = None,
    sinks: Sinks | Sequence[int] = "first",
    unit: HeadUnit = "head",
    layers: Sequence[int] | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
    shortlist: int | None = None,
    stop_early: bool = False,
    limits: Limits | None = None,
    column: str = "text",
    at_once: int = 8,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Per head and domain: attention on the sink, effect on the loss, and where the head is dormant or active.

    Args:
        model: a model from `workbench.load`.
        domains: at least two names with their texts: strings, token sequences, or a `datasets.Dataset`.
        length: tokens per sequence with BOS, the paper's 128; documents that are shorter are left out.
        n_sequences: sequences per domain, the first ones given; by default as many as the smallest domain has.
        sinks: "first" (position 0), "extreme" (what `extreme_tokens` finds in each sequence; where it finds none
            its sinks, else the first token) or positions.
        unit: "head", or "kv_group" for all query heads of a KV head together.
        layers: zero units of these layers alone; tests are corrected for these alone.
        heads: zero these units alone, (layer, index) each.
        shortlist: zero only so many units, whose attention on the sink differs most between domains.
        stop_early: zero only units that rest in some domain, and after each quarter of the texts stop those that can
            hardly be found to wake any more, by `stopping.can_wake`. False zeroes every unit on all texts.
        limits: what counts as dormant, active and decided; the defaults and their reasons stand in `Limits`.
        column: which column of a Dataset holds the texts.
        at_once: sequences per base pass; what a run that is stopped may lose.
        batch_size: rows (a sequence without a unit) per forward pass; "auto" measures memory on the first.
        resume: a netCDF file: finished sequences are kept beside it, and a run that was stopped goes on from them.
        progress: show a bar.

    Returns:
        `loss(domain, sequence)`, `loss_change` and `sink_weight(domain, sequence, layer, <unit>)`,
        `n_texts(layer, <unit>)`: on how many texts per domain the unit was zeroed, the coordinate `text`, and all that
        `phases` adds: `effect` with its interval, `phase`, p-values, which conditions `holds` and `wakes`. Where a unit
        was not zeroed it is NaN, but for `sink_weight`.

    Raises:
        InputError: fewer than two domains, one without enough long documents, a sink position outside the sequences,
            a loss that is not finite, a model without heads.
    """
    limits, parts = limits or Limits(), anatomy(model)
    candidates = chosen_units(unit, parts, layers, heads)
    positions = sink_positions(sinks, length)
    if shortlist is not None and not candidates.all():
        raise InputError("shortlist= chooses among all heads; leave out layers= and heads=.")
    sequences, left_out = domain_sequences(model, domains, length, n_sequences, column)
    each = len(next(iter(sequences.values())))
    ends = looks(each, FEWEST) if stop_early else [each]
    spans = list(itertools.pairwise([0, *ends]))
    every = [tokens for span in spans for some in sequences.values() for tokens in some[slice(*span)]]
    batches = row_batches(model, length, batch_size)
    facts: dict[str, Any] = {
        "method": "active_dormant",
        "model": parts.name,
        "weights": fingerprint(model),
        "texts": digest(every),
        "domains": list(sequences),
        "unit": unit,
        "length": length,
        "sinks": positions,
        "at_once": at_once,
    } | named_units(candidates)
    facts |= {} if shortlist is None else {"shortlist": shortlist, "asleep": limits.asleep}
    facts |= {"stop_early": dataclasses.asdict(limits)} if stop_early else {}

    def zero(run: Run, units: Bool[np.ndarray, "layer unit"], some: range) -> xr.Dataset:
        def work(group: range, tick: Tick) -> xr.Dataset:
            return zeroed_losses(model, [every[i] for i in group], unit, units, False, batches, tick)

        silent = hidden(progress) or not units.any()
        label = "" if silent else sweep_label(model, every[:2], len(some), unit, units, batches)
        return _by_domain(by_groups(run, some, at_once, work, label, int(units.sum())), list(sequences))

    with Run(resume, **facts) as run:
        if run.finished is not None:
            return phases(run.finished, limits)
        weight = _sink_weight(model, sequences, positions, candidates.shape[1])
        chosen = candidates if shortlist is None else choose(weight, shortlist, limits.asleep)
        if stop_early:
            chosen = chosen & (weight.mean(1) >= limits.asleep).any(0)
        n_texts, found = np.zeros(chosen.shape, dtype=int), []
        for start, end in spans:
            if found:
                so_far = xr.concat(found, "sequence")["loss_change"].values
                chosen = chosen & can_wake(so_far, weight.mean(1), each, int(candidates.sum()), limits)
            n_texts[chosen] = end
            found.append(zero(run, chosen, range(len(sequences) * start, len(sequences) * end)))
        measured = xr.concat(found, "sequence").assign(
            sink_weight=(("domain", "sequence", "layer", unit), weight), n_texts=(("layer", unit), n_texts)
        )
        measured = measured.assign_coords(sequence=np.arange(each), text=_beginnings(model, sequences))
        counts = {"n_sequences": each, "left_out": left_out, "n_candidates": int(candidates.sum())}
        bos = beginning(getattr(model, "tokenizer", None), every)
        return phases(run.finish(measured, bos=bos, **counts, **parts.facts), limits)


def domain_sequences(
    model: HookedModel, domains: Mapping[str, Any], length: int, n_sequences: int | None, column: str = "text"
) -> tuple[dict[str, list[list[int]]], dict[str, int]]:
    """The first `length` tokens of equally many documents of each domain, and how many were left out as too short.

    Args:
        model: a TransformerLens model.
        domains: names with their texts.
        length: tokens per sequence.
        n_sequences: per domain; None for as many as the smallest domain has.
        column: which column of a Dataset holds the texts.
    """
    if not isinstance(domains, Mapping) or len(domains) < 2:
        raise InputError(
            "active_dormant compares kinds of text and needs at least two, as {'prose': texts, 'code': texts}. For one "
            "kind, zeroing_sweep gives the effect of each head."
        )
    if length < 3:
        raise InputError(f"length={length} leaves nothing to predict after the first token; give at least 3.")
    context = getattr(model.cfg, "n_ctx", None)
    if context and length > context:
        raise InputError(
            f"length={length} is more than the model's context of {context} tokens; give a smaller length=."
        )
    if n_sequences is not None and n_sequences < FEWEST:
        raise InputError(f"n_sequences={n_sequences} is too few to test anything; give at least {FEWEST}.")
    wanted = n_sequences or FEWEST
    kept, left_out = {}, {}
    for name, texts in domains.items():
        try:
            found = _cut(model, texts, length, column)
        except InputError as error:
            raise InputError(f"Domain '{name}': {error}") from error
        kept[name] = [tokens for tokens in found if len(tokens) == length]
        left_out[name] = len(found) - len(kept[name])
        if len(kept[name]) < wanted:
            longest = max((len(tokens) for tokens in found if len(tokens) < length), default=0)
            raise InputError(
                f"Domain '{name}' has {len(kept[name])} texts of at least {length} tokens and needs {wanted}; its "
                f"{left_out[name]} shorter ones have at most {longest}. Domains are compared at one "
                "length: give longer texts or more of them, or a smaller length=."
            )
    if any(left_out.values()):
        told = ", ".join(f"{count} of '{name}'" for name, count in left_out.items() if count)
        warnings.warn(f"Texts shorter than {length} tokens are left out: {told}.", WorkbenchWarning, stacklevel=3)
    each = n_sequences or min(len(tokens) for tokens in kept.values())
    return {name: tokens[:each] for name, tokens in kept.items()}, left_out


def _cut(model: HookedModel, texts: Any, length: int, column: str) -> list[list[int]]:
    """The first tokens of each text; of long documents only a beginning is tokenized where that is enough."""
    rows = texts[column] if column in (getattr(texts, "column_names", None) or ()) else texts
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not all(isinstance(row, str) for row in rows):
        return token_sequences(model, texts, max_tokens=length, column=column)
    found = token_sequences(model, [row[: _CHARACTERS * length] for row in rows], max_tokens=length + _EDGE)
    for i, row in enumerate(rows):
        if len(found[i]) < length + _EDGE and len(row) > _CHARACTERS * length:
            found[i] = token_sequences(model, [row], max_tokens=length)[0]
    return [tokens[:length] for tokens in found]


def sink_mask(
    model: HookedModel, sequences: Sequence[Sequence[int]], sinks: Sinks | Sequence[int]
) -> Bool[np.ndarray, "sequence pos"]:
    """Which tokens are sinks in sequences of one length.

    Args:
        model: a TransformerLens model.
        sequences: token ids.
        sinks: "first", "extreme" or positions.
    """
    mask = np.zeros((len(sequences), len(sequences[0])), dtype=bool)
    if sinks == "first":
        mask[:, 0] = True
    elif sinks == "extreme":
        found = extreme_tokens(model, sequences, progress=False)
        extreme, sink = (
            found[name].any("layer").transpose("sequence", "position").values for name in ("extreme", "sink")
        )
        mask = np.where(extreme.any(1, keepdims=True), extreme, sink)
        mask[~mask[:, :-1].any(1), 0] = True
    else:
        mask[:, np.array(sinks, dtype=int)] = True
    return mask


@torch.no_grad()
def sink_attention(
    model: HookedModel, sequences: Sequence[Sequence[int]], sinks: Bool[np.ndarray, "sequence pos"]
) -> Float[np.ndarray, "sequence layer head"]:
    """Mean attention on the sinks, over the queries that see a sink and are none themselves.

    The first token, which can attend to nothing but itself, is thereby no query of its own sink.

    Args:
        model: a TransformerLens model.
        sequences: token ids, of one length.
        sinks: which tokens are sinks.
    """
    parts, device = anatomy(model), device_of(model)
    keys = torch.from_numpy(sinks).to(device)
    total = torch.zeros(len(sequences), parts.n_layers, parts.n_heads, dtype=torch.float64, device=device)
    count = torch.zeros(len(sequences), parts.n_layers, 1, dtype=torch.float64, device=device)

    def add(chunk: Chunk) -> None:
        n_queries, n_keys = chunk.visible.shape
        seen = keys.to(chunk.pattern.device)
        wanted = seen[:, :n_keys].double()
        sees = (wanted @ chunk.visible.T.double()) > 0
        asks = sees & ~seen[:, chunk.start : chunk.start + n_queries]
        weight = einsum(chunk.pattern.double(), wanted, "batch head query key, batch key -> batch head query")
        total[:, chunk.layer] += (weight * asks[:, None]).sum(-1).to(device)
        count[:, chunk.layer] += asks.sum(-1, keepdim=True).to(device)

    observe(model, torch.tensor([list(s) for s in sequences], device=device), attention=add)
    return (total / count).cpu().numpy()


def sink_positions(sinks: Sinks | Sequence[int], length: int) -> Sinks | list[int]:
    """The choice of sinks, once it is one and fits into sequences of this length."""
    if isinstance(sinks, str):
        if sinks not in get_args(Sinks):
            raise InputError(f"sinks={sinks!r} is unknown; {suggest(sinks, get_args(Sinks))} Or give positions.")
        return cast(Sinks, sinks)
    positions = sorted({int(p) for p in sinks})
    if not positions or positions[0] < 0 or positions[-1] > length - 2:
        raise InputError(
            f"sinks={positions}: give positions from 0 to {length - 2}, so that at least one token of the {length} "
            "comes after them."
        )
    return positions


def _sink_weight(
    model: HookedModel, sequences: Mapping[str, Sequence[list[int]]], sinks: Sinks | list[int], n_units: int
) -> Float[np.ndarray, "domain sequence layer unit"]:
    """Mean attention on the sink of each unit in each sequence."""
    every = [[tokens] for some in sequences.values() for tokens in some]
    weight = np.concatenate([sink_attention(model, one, sink_mask(model, one, sinks)) for one in every])
    axes = "(domain sequence) layer (unit group_head) -> domain sequence layer unit"
    return reduce(weight, axes, "mean", domain=len(sequences), unit=n_units)


def _by_domain(found: xr.Dataset, names: list[str]) -> xr.Dataset:
    """One axis of sequences as two, domain and sequence; every domain has as many."""
    variables = {
        name: (
            ("domain", *array.dims),
            rearrange(array.values, "(domain sequence) ... -> domain sequence ...", domain=len(names)),
        )
        for name, array in found.drop_vars("n_predictions").data_vars.items()
    }
    return xr.Dataset(variables, {"domain": names} | {name: found[name] for name in found.dims if name != "sequence"})


def _beginnings(model: HookedModel, sequences: Mapping[str, Sequence[list[int]]]) -> tuple[tuple[str, str], np.ndarray]:
    """The texts as they begin, (domain, sequence)."""
    read = ([words(model, [tokens])[0] for tokens in some] for some in sequences.values())
    return ("domain", "sequence"), np.array([["".join(tokens)[:160] for tokens in some] for some in read])
