"""The effect of interventions on the residual stream and the loss, and which layers make the residual peak.

`compare_interventions` runs texts without and with each intervention and gives, per layer, the norm of the stream at
chosen tokens and at the others, and the next-token loss. `peak_sources` does so with the attention, the MLP and both
of every layer zeroed (Guo et al., arXiv 2410.13835, the residual ablations of Llama-3.1-8B): the layers whose absence
lets the peak collapse make it, and those after it whose absence lets it stand remove it. An intervention in layer l
leaves the layers below it as they were, so they are not run again: half the cost of one pass per intervention.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.extreme.ablation import next_token_loss, row_batches
from workbench.extreme.interventions import zero_outputs
from workbench.models.anatomy import Anatomy, anatomy
from workbench.models.devices import device_of
from workbench.models.forward import hooked, pad, run, run_from
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.prompts.texts import digest, token_sequences
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.runs.progress import hidden
from workbench.runs.run import Run
from workbench.statistics import t_interval

Intervention = Callable[[Any], AbstractContextManager[Any]]
"""A model to a context manager that changes it, such as `lambda model: zero_outputs(model, mlp=[0])`."""

NONE = "none"
"""The name of the run without an intervention, which comes first."""
PEAK = 3.0
"""Times the median of the other tokens from which a norm is called a peak; ordinary tokens stay below 2."""
COLLAPSE = 0.5
"""A part makes the peak where without it at most this share of the norm is left, and removes it where with it at most
this share of what would be there without it is left; in both cases by the interval over texts."""


@measures
def compare_interventions(
    model: HookedModel,
    texts: Any,
    interventions: Mapping[str, Intervention],
    *,
    positions: int | Sequence[int] | Sequence[Sequence[int]] | np.ndarray = 0,
    max_tokens: int | None = None,
    batch_size: BatchSize = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Norms of the residual stream and next-token losses under each intervention, beside the model as it is.

    Args:
        model: a model from `workbench.load`.
        texts: strings, lists of token ids, a token tensor or a `datasets.Dataset`; at least two tokens each.
        interventions: names to functions that make a context manager for a model.
        positions: the tokens to follow: one position or several for all texts, or `[sequence, k]` of them.
        max_tokens: longer texts are cut after so many tokens.
        batch_size: texts at a time; "auto" measures how many fit. An intervention with a position of its own for each
            sequence needs all texts in one batch.
        progress: show a bar.

    Returns:
        residual_norm `(intervention, layer, sequence, position)` after each layer, other_norm_median and
        other_norm_max `(intervention, layer, sequence)` over the sequence's other tokens, loss and loss_change
        `(intervention, sequence)` in nats per prediction. The first intervention is "none".

    Raises:
        InputError: a text of one token, a position after a text's end, an intervention called "none" or that does
            not fit the model, or a stream that is not finite without intervention.
    """
    if NONE in interventions:
        raise InputError(f"'{NONE}' is the name of the run without an intervention; call yours something else.")
    return _compare(model, texts, interventions, {}, positions, max_tokens, batch_size, progress)


@measures
def peak_sources(
    model: HookedModel,
    texts: Any,
    *,
    position: int | Sequence[int] = 0,
    together: int = 3,
    max_tokens: int | None = None,
    batch_size: BatchSize = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Which attention and MLP outputs make the residual peak and which remove it; `peak_verdict` puts it into words.

    Args:
        model: a model from `workbench.load`.
        texts: strings, lists of token ids, a token tensor or a `datasets.Dataset`; at least two tokens each.
        position: of the extreme token: one for all texts, or one per text.
        together: the first layers are also zeroed together, up to so many.
        max_tokens: longer texts are cut after so many tokens.
        batch_size: texts at a time; "auto" measures how many fit.
        progress: show a bar.

    Returns:
        residual_norm, other_norm_median and other_norm_max `(intervention, layer)`, means over sequences, and
        norm_by_text `(intervention, layer, sequence)`; loss and loss_change `(intervention, sequence)`; the
        coordinates `part` ("attention", "mlp", "both") and `first_layer`, `last_layer` (-1 for "none") say what each
        intervention zeroed; and what `judge_peak` adds.

    Raises:
        InputError: as `compare_interventions`.
    """
    n_layers = anatomy(model).n_layers
    cells = [(part, layer, layer) for layer in range(n_layers) for part in ("attention", "mlp", "both")]
    cells += [("both", 0, last) for last in range(1, min(together, n_layers))]
    named = {_label(*cell): cell for cell in cells}
    zeroed = {name: _zeroing(*cell) for name, cell in named.items()}
    starts = {name: first for name, (_part, first, _last) in named.items()}
    where = position if isinstance(position, int) else np.asarray(position)[:, None]
    found = _compare(model, texts, zeroed, starts, where, max_tokens, batch_size, progress)
    means = (
        found[["residual_norm", "other_norm_median", "other_norm_max"]].mean("sequence").squeeze("position", drop=True)
    )
    part, first, last = zip((NONE, -1, -1), *cells, strict=True)
    labels = {"part": list(part), "first_layer": list(first), "last_layer": list(last)}
    result = means.merge(found[["loss", "loss_change"]]).assign_attrs(found.attrs)
    result["norm_by_text"] = found["residual_norm"].squeeze("position", drop=True)
    result = result.assign_coords({name: ("intervention", values) for name, values in labels.items()})
    result.attrs |= {"method": "peak_sources", "position": str(position)}
    return judge_peak(result)


def judge_peak(sources: xr.Dataset, *, peak: float = PEAK, collapse: float = COLLAPSE) -> xr.Dataset:
    """Say which single parts make the peak and which remove it; a Dataset from `peak_sources` can be judged again.

    Adds `peak_ratio(layer)`, the norm relative to the median of the other tokens; `left(intervention)`, the share of
    the norm that is left without a part in the layer of the peak, and `end(intervention)`, the norm after the last
    layer without it relative to the unchanged one, geometric means over texts with the t intervals `left_low`,
    `left_high`, `end_low` and `end_high`; and the booleans `makes_peak(intervention)` (the interval of `left` lies
    below `collapse`) and `removes_peak(intervention)` (that of `end` above its inverse). No part does either where
    there is no peak. One text has no interval: its values stand for the ends.

    Args:
        sources: that result.
        peak: times the median of the other tokens from which a norm is a peak.
        collapse: the share of the norm that counts as collapsed.
    """
    norm, first = sources["residual_norm"], sources["first_layer"]
    ratio = (norm / sources["other_norm_median"]).sel(intervention=NONE, drop=True)
    top = int(ratio.argmax("layer"))
    layer = sources["layer"].values[top]
    by_text = sources["norm_by_text"].transpose("intervention", "layer", "sequence").values
    found = {}
    for name, place in (("left", top), ("end", -1)):
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.log(by_text[:, place] / by_text[:1, place])
            low, high = (np.where(np.isneginf(relative).any(-1), 0, np.exp(end)) for end in t_interval(relative))
            values = np.exp(relative.mean(-1))
        found |= {name: values, f"{name}_low": low, f"{name}_high": high}
    result = sources.assign({name: ("intervention", values) for name, values in found.items()})
    single = (sources["part"] != "both") & (first >= 0) & bool(ratio[top] >= peak)
    return result.assign(
        peak_ratio=ratio,
        makes_peak=single & (first <= layer) & (result["left_high"] <= collapse),
        removes_peak=single & (first > layer) & (result["end_low"] >= 1 / collapse),
    ).assign_attrs(limit_peak=peak, limit_collapse=collapse)


def peak_verdict(sources: xr.Dataset) -> str:
    """One sentence on where the peak is made and removed.

    Args:
        sources: from `peak_sources` or `judge_peak`.
    """
    ratio = sources["peak_ratio"]
    top = int(ratio.argmax("layer"))
    norm = sources["residual_norm"].transpose("intervention", "layer").values
    height, layer, base = float(ratio[top]), sources["layer"].values[top], norm[0]
    token = f"The token at position {sources.attrs['position']}"
    if height < sources.attrs["limit_peak"]:
        return (
            f"{token} has no peak: its norm is at most {height:.1f} times the median of the "
            f"others (norm {base[top]:.3g} after layer {layer})."
        )
    loss = sources["loss_change"].mean("sequence").values
    names = sources["intervention"].values
    makers, removers = (np.flatnonzero(sources[name].values) for name in ("makes_peak", "removes_peak"))
    shares = {name: [np.asarray(sources[f"{name}{end}"]) for end in ("", "_low", "_high")] for name in ("left", "end")}

    def told(name: str, i: int) -> str:
        value, low, high = (f"{values[i]:.2g}" for values in shares[name])
        return f"{value} times the norm" + (f", {low} to {high}" if low != high else "")

    made = [
        f"{names[i]} (norm {norm[i, top]:.3g}, {told('left', i)}, loss {loss[i]:+.2f})"
        for i in makers[np.argsort(norm[makers, top])][:4].tolist()
    ]
    removed = [
        f"{names[i]} (norm {norm[i, -1]:.3g} at the end, {told('end', i)}, loss {loss[i]:+.2f})"
        for i in removers[np.argsort(-norm[removers, -1])][:4].tolist()
    ]
    return (
        f"{token}'s norm is {height:.1f} times the median of the others after layer {layer} "
        f"(norm {base[top]:.3g}; {_texts(sources)}); "
        + (f"it collapses without {_either(made)}" if made else "no single part's absence makes it collapse")
        + (f", and stands without {_either(removed)}." if removed else ", and no single part after it removes it.")
    )


def _texts(sources: xr.Dataset) -> str:
    n = sources.sizes["sequence"]
    return "one text, so without intervals" if n == 1 else f"{n} texts, intervals of 95 % over them"


def _either(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " or " + items[-1]


def _label(part: str, first: int, last: int) -> str:
    return f"{part} {first}" if first == last else f"{part} {first}-{last}"


def _zeroing(part: str, first: int, last: int) -> Intervention:
    layers = range(first, last + 1)
    attention, mlp = (layers if part in (name, "both") else () for name in ("attention", "mlp"))
    return lambda model: zero_outputs(model, attention=attention, mlp=mlp)


# Running.


@torch.no_grad()
def _compare(
    model: HookedModel,
    texts: Any,
    interventions: Mapping[str, Intervention],
    starts: Mapping[str, int],
    positions: Any,
    max_tokens: int | None,
    batch_size: BatchSize,
    progress: bool,
) -> xr.Dataset:
    parts = anatomy(model)
    sequences = token_sequences(model, texts, max_tokens=max_tokens)
    run = Run(
        method="compare_interventions",
        model=parts.name,
        weights=fingerprint(model),
        texts=digest(sequences),
        **parts.facts,
    )
    chosen = _chosen(positions, sequences)
    batches = row_batches(model, max(len(s) for s in sequences), batch_size)
    pieces = []
    total = len(sequences) * (1 + len(interventions))
    with tqdm(total=total, desc="interventions", unit="run", disable=hidden(progress), leave=False) as bar:

        def work(rows: list[int]) -> xr.Dataset:
            some = [sequences[i] for i in rows]
            return _measure(model, parts, some, chosen[rows], interventions, starts, bar)

        for rows, piece in batches.over(range(len(sequences)), work):
            pieces.append(piece.assign_coords(sequence=rows))
    found = xr.concat(pieces, "sequence")
    found["loss_change"] = found["loss"] - found["loss"].sel(intervention=NONE, drop=True)
    if (chosen == chosen[0]).all():
        found = found.assign_coords(position=chosen[0])
    found = found.assign_coords(at=(("sequence", "position"), chosen), length=("sequence", [len(s) for s in sequences]))
    return run.finish(found)


def _measure(
    model: HookedModel,
    parts: Anatomy,
    sequences: list[list[int]],
    chosen: Int[np.ndarray, "sequence rank"],
    interventions: Mapping[str, Intervention],
    starts: Mapping[str, int],
    bar: Any,
) -> xr.Dataset:
    """All runs of one batch."""
    tokens, last = pad(sequences, device_of(model))
    real = torch.arange(tokens.shape[1], device=tokens.device) <= last[:, None]
    inputs: dict[int, Tensor] = {layer: torch.empty(0) for layer in set(starts.values())}
    norms, losses = [], []
    for name, make in ({NONE: lambda _: nullcontext()} | dict(interventions)).items():
        start = starts.get(name)
        with make(model):
            lengths, end = _run(model, parts, tokens, start, inputs if name == NONE else inputs.copy())
        loss = next_token_loss(parts, end, tokens, real[:, 1:]).double().sum(-1) / real[:, 1:].sum(-1)
        if name == NONE:
            _refuse_infinite(lengths[:, real], loss)
        norms.append(torch.cat([norms[0][:start], lengths]) if start else lengths)
        losses.append(loss)
        bar.update(len(sequences))
    values = torch.stack(norms).double().cpu().numpy()
    dims = ("intervention", "layer", "sequence")
    ours, median, highest = _split(values, chosen, real.cpu().numpy())
    return xr.Dataset(
        {
            "residual_norm": ((*dims, "position"), ours),
            "other_norm_median": (dims, median),
            "other_norm_max": (dims, highest),
            "loss": (("intervention", "sequence"), torch.stack(losses).cpu().numpy()),
        },
        coords={"intervention": [NONE, *interventions], "layer": np.arange(parts.n_layers)},
    )


def _run(
    model: HookedModel, parts: Anatomy, tokens: Tensor, start: int | None, inputs: dict[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """Norms `[layer, sequence, pos]` after the layers from `start` on, and the last stream.

    Without `start` all layers are run, and the stream in front of those that `inputs` names is put there.
    """
    norms: list[Tensor] = []
    ends: list[Tensor] = []

    def measure(resid: Tensor) -> None:
        wide = torch.promote_types(resid.dtype, torch.float32)
        norms.append(torch.linalg.vector_norm(resid, dim=-1, dtype=wide).to(tokens.device))
        ends[:] = [resid]

    def keep(layer: int) -> Callable[[Tensor], None]:
        return lambda resid: inputs.__setitem__(layer, resid.clone())

    hooks: dict[str, Any] = {f"blocks.{layer}.hook_resid_post": measure for layer in range(start or 0, parts.n_layers)}
    if start is None:
        hooks |= {f"blocks.{layer}.hook_resid_pre": keep(layer) for layer in inputs}
    with hooked(model, hooks):
        if start is None:
            run(model, tokens)
        else:
            run_from(model, start, inputs[start], tokens)
    return torch.stack(norms), ends[0].to(tokens.device)


def _split(norms: np.ndarray, chosen: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Norms of the chosen tokens, and median and maximum over each sequence's other tokens (NaN without any)."""
    rows = np.arange(len(chosen))[:, None]
    others = real.copy()
    others[rows, chosen] = False
    median, highest = np.full((2, *norms.shape[:3]), np.nan)
    for row, which in enumerate(others):
        if which.any():
            median[:, :, row] = np.median(norms[:, :, row, which], axis=-1)
            highest[:, :, row] = norms[:, :, row, which].max(-1)
    return norms[:, :, rows, chosen], median, highest


def _chosen(positions: Any, sequences: Sequence[Sequence[int]]) -> Int[np.ndarray, "sequence rank"]:
    short = next((i for i, ids in enumerate(sequences) if len(ids) < 2), None)
    if short is not None:
        raise InputError(f"Text {short} has one token: nothing is predicted in it. Give texts of two tokens or more.")
    try:
        chosen = np.asarray(positions)
        chosen = np.array(
            np.broadcast_to(np.atleast_1d(chosen), (len(sequences), chosen.shape[-1] if chosen.ndim else 1))
        )
    except ValueError as error:
        raise InputError(
            f"positions of shape {np.shape(positions)} do not fit {len(sequences)} texts; give a position, a few for "
            "all texts, or as many for each text, [text, k]."
        ) from error
    for i, (row, ids) in enumerate(zip(chosen, sequences, strict=True)):
        wrong = [int(p) for p in row if not 0 <= p < len(ids)]
        if wrong:
            raise InputError(f"Position {wrong[0]} is not in text {i}, which has the positions 0 to {len(ids) - 1}.")
    return chosen.astype(int)


def _refuse_infinite(norms: Tensor, loss: Tensor) -> None:
    layers = (~torch.isfinite(norms)).any(-1).nonzero().flatten().tolist()
    if layers or not torch.isfinite(loss).all():
        where = f"the residual stream after layer {layers[0]}" if layers else "the loss"
        raise InputError(
            f"Without any intervention, {where} is NaN or infinite: activations overflow in this dtype. Load the "
            "model in a wider one (dtype='float32' or 'bfloat16')."
        )
