"""Remedies against extreme tokens, from cheap to thorough: what each costs and what it reduces, in one table.

1. *Inference-time*, no weight changes: zero the heads that are dormant; lower the logit of the sink, or take it out of
   attention; clamp its values; remove its token; attend in a sliding window without and with the first tokens kept
   (Xiao et al. 2024, "StreamingLLM").
2. *Light tuning*: a few hundred steps with sinks or peaks discouraged, beside the same steps with nothing discouraged.
3. *Retraining* with another optimizer or attention is measured elsewhere and joins the table through `add_rows`.

Each is measured alike (`Trial`): change of next-token loss on each domain with an interval over sequences, sink
rate, peak and drain ratio, and the error of int8 and int4 rounding of weights and activations, since outliers are why
practitioners care.
"""

import functools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError, WorkbenchWarning, check_known, suggest
from workbench.extreme.ablation import zeroing_sweep
from workbench.extreme.detect import extreme_tokens
from workbench.extreme.editing import editing
from workbench.extreme.interventions import clamp_values, mask_key, sink_bias, sliding_window, zero_neurons
from workbench.extreme.light_tuning import LightTuningRecipe, tune_lightly
from workbench.extreme.quantize import SCHEMES, Scheme, linear_layers, rounded_share
from workbench.extreme.remedy_evaluation import RemedyIntervention, RemedyTexts, Trial, judged, material, sinks
from workbench.extreme.verdict import Thresholds
from workbench.models.anatomy import anatomy
from workbench.models.attention import require_no_hooks
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.names import RemedyKind
from workbench.prompts.texts import digest
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.runs.progress import hidden
from workbench.runs.run import Run
from workbench.statistics import mean_interval

KINDS = get_args(RemedyKind)
RECIPES = (LightTuningRecipe(None), LightTuningRecipe("sink"), LightTuningRecipe("peak"))
_FOR_HEADS = 4
"""Sequences per domain from which dormant heads are chosen."""


@dataclass(frozen=True)
class Remedy:
    """One row of the table.

    Attributes:
        name: the row's label.
        kind: one of `KINDS`.
        on: what is done to the model while it runs.
        without_sink: the sink is taken out of the sequences.
        prepare: the model to another one, such as a tuned copy.
        chosen: what was chosen for it, in words.
    """

    name: str
    kind: RemedyKind
    on: RemedyIntervention = lambda model, key: nullcontext()
    without_sink: bool = False
    prepare: Callable[[Any], Any] = lambda model: model
    chosen: str = ""


@measures
def compare_remedies(
    model: HookedModel,
    domains: Mapping[str, Any] | None = None,
    *,
    length: int = 128,
    n_sequences: int = 16,
    biases: Sequence[float] = (-2.0, -5.0),
    window: int | None = None,
    keep_first: int = 4,
    dormant_share: float = 0.25,
    recipes: Sequence[LightTuningRecipe] = RECIPES,
    schemes: Sequence[Scheme] = SCHEMES,
    more: Sequence[Remedy] = (),
    thresholds: Thresholds | None = None,
    column: str = "text",
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Measure the remedies that need no retraining, one row each, "none" first.

    Args:
        model: a model from `workbench.load`; it stays as it is.
        domains: names with their texts; every second text is set aside for choosing heads and tuning. None for
            generated dialogues.
        length: tokens per measured sequence.
        n_sequences: measured per domain, at most.
        biases: what is added to the logit of the sink, one row each.
        window: keys that each query sees in a sliding window; a quarter of `length` by default, if that is enough.
        keep_first: of these, first tokens that are kept in the row that keeps them.
        dormant_share: share of all heads that is zeroed, once those whose absence harms the loss least (in the domain
            where it harms most), once those with the strongest sinks.
        recipes: how to tune lightly, one row each; () for none.
        schemes: roundings of weights and activations; () for none.
        more: further remedies, one row each, such as `without_peak`.
        thresholds: of the detectors.
        column: which column of a Dataset holds the texts.
        batch_size: sequences at a time; "auto" measures how many fit.
        resume: a netCDF file: finished rows are kept beside it, and a run that was stopped goes on from them.
        progress: show a bar.

    Returns:
        By `remedy` and `domain`: `loss` (also by sequence), `loss_change` against "none" with `loss_change_low` and
        `loss_change_high`, `sink_rate` (share of heads and sequences with a sink), `first_token_weight` (attention it
        receives; 0 where nothing sees it), `peak_ratio` (the largest token norm over the median one, in the layer
        where that is largest) and `drain_ratio` (the value norm of the sink of the row "none" over the median of the
        others); with `scheme`: `quantized_loss` (also by sequence), `quantized_loss_change` against the same remedy
        without rounding with `_low` and `_high`, and the relative errors `logit_error` and `stream_error`; by remedy
        alone: `stretch` (the range of a layer's inputs over that of its median token, of the layer where this is
        largest, the coordinate `stretched_layer`), `seconds`, and the coordinates `kind`, `chosen` and `note`: why a
        row is NaN, where the model does not allow it.

    Raises:
        InputError: texts that are too few or too short, a window or share that leaves nothing, hooks on the model.
    """
    parts = anatomy(model)
    window = max(length // 4, keep_first + 1) if window is None else window
    require_no_hooks(model, "be in every row")
    if schemes:
        linear_layers(model)
    texts = material(model, domains, length, n_sequences, column)
    facts: dict[str, Any] = {
        "method": "compare_remedies",
        "model": parts.name,
        "weights": fingerprint(model),
        "texts": digest([*texts.every, *(tokens for rows in texts.aside.values() for tokens in rows)]),
        "domains": list(texts.measured),
        "length": length,
        "dormant_share": dormant_share,
        "recipes": [str(recipe) for recipe in recipes],
        "schemes": [str(scheme) for scheme in schemes],
        "biases": [str(bias) for bias in biases],
        "more": [remedy.name for remedy in more],
        "thresholds": str(thresholds or Thresholds()),
        "window": window,
        "keep_first": keep_first,
    }
    with Run(resume, **facts) as run:
        if run.finished is not None:
            return run.finished
        rows = [
            *inference_remedies(window, keep_first, biases),
            *more,
            *_zeroed(model, texts, dormant_share),
            *_tuned(texts, recipes),
        ]
        keys = sinks(extreme_tokens(model, texts.every, thresholds=thresholds, batch_size=batch_size, progress=False))
        trial = Trial(texts, keys, schemes, thresholds, batch_size)
        bar = tqdm(rows, desc="Remedies", disable=hidden(progress))
        found = [run.piece(row.name, functools.partial(_row, model, trial, row)) for row in bar]
        table = with_changes(xr.concat(found, "remedy", join="outer", data_vars="all", coords="minimal"))
        return run.finish(
            table,
            sink_positions=sorted({int(key) for key in keys}),
            n_sequences=len(keys) // len(texts.measured),
            set_aside={name: len(found) for name, found in texts.aside.items()},
            left_out=texts.left_out,
            rounded_share=rounded_share(model) if schemes else None,
            **parts.facts,
        )


# The remedies.


def inference_remedies(window: int, keep_first: int, biases: Sequence[float]) -> list[Remedy]:
    """Remedies that are a change of attention, values or tokens."""
    if not 0 < keep_first < window:
        raise InputError(f"A window of {window} keys of which the first {keep_first} are kept; give fewer, at least 1.")
    kept = window - keep_first

    def bias_by(bias: float) -> RemedyIntervention:
        return lambda model, key: sink_bias(model, bias, key)

    attention: list[tuple[str, RemedyIntervention]] = [
        *((f"attention to the sink {bias:+g}", bias_by(bias)) for bias in biases),
        ("no attention to the sink", mask_key),
        ("values of the sink zero", clamp_values),
        (f"window of {window}", lambda model, key: sliding_window(model, window)),
        (f"window of {kept} and first {keep_first}", lambda model, key: sliding_window(model, kept, keep_first)),
    ]
    rows = [Remedy(name, "inference", on) for name, on in attention]
    return [Remedy("none", "none"), *rows, Remedy("sink token removed", "inference", without_sink=True)]


@measures
def without_peak(model: HookedModel, texts: Sequence[Any]) -> Remedy:
    """The remedy that stops the peak where it is made: in one layer the MLP's neurons are zero at the sink.

    It is the layer over which the norm of the first token, relative to the others' median, grows most. Tokens before
    the sink are zeroed too: the next token often takes the place of one that makes no peak.

    Args:
        model: a model from `workbench.load`.
        texts: in which the layer is looked for.
    """
    peak = extreme_tokens(model, texts, progress=False)["peak"].isel(position=0).mean("sequence").values
    layer = int(np.diff(peak, prepend=1.0).argmax())
    return Remedy(
        "peak not made",
        "inference",
        lambda model, key: zero_neurons(model, layer, range(key + 1)),
        chosen=f"MLP of layer {layer}, after which the first token is {float(peak.max()):.0f} times as long as others",
    )


def _zeroed(model: HookedModel, texts: RemedyTexts, share: float) -> list[Remedy]:
    """Zeroing the heads that look dormant: those of least effect on the loss, and those that attend to a sink."""
    rows = []
    for name, (heads, threshold) in dormant_heads(model, texts.cut_aside(_FOR_HEADS), share).items():
        told = f"{threshold}: " + ", ".join(f"{layer}.{head}" for layer, head in heads)
        on = functools.partial(_without_heads, heads)
        rows.append(Remedy(f"{len(heads)} heads zero, {name}", "inference", on, chosen=told))
    return rows


def dormant_heads(
    model: HookedModel, domains: Mapping[str, Sequence[Sequence[int]]], share: float
) -> dict[str, tuple[list[tuple[int, int]], str]]:
    """The share of heads whose zeroing costs "least loss", and those with the "most sink", and each's threshold."""
    parts = anatomy(model)
    n = round(share * parts.n_layers * parts.n_heads)
    if not 0 < n < parts.n_layers * parts.n_heads:
        raise InputError(
            f"dormant_share={share} of {parts.n_layers * parts.n_heads} heads is {n} heads; give a share that leaves "
            "some and zeroes some."
        )
    every = [tokens for rows in domains.values() for tokens in rows]
    names = [name for name, rows in domains.items() for _ in rows]
    change = zeroing_sweep(model, every, progress=False)["loss_change"].assign_coords(sequence=names)
    harm = change.groupby("sequence").mean().max("sequence").transpose("layer", "head").values
    found = extreme_tokens(model, every, progress=False)
    rest = found["sink_weight"].where(judged(found)).max("position").mean("sequence").transpose("layer", "head").values
    least, most = np.argsort(harm, axis=None)[:n], np.argsort(-rest, axis=None)[:n]
    return {
        "least loss": (_pairs(least, parts.n_heads), f"loss +{harm.flat[least[-1]]:.4f} at most"),
        "most sink": (_pairs(most, parts.n_heads), f"sink weight {rest.flat[most[-1]]:.2f} at least"),
    }


def _pairs(flat: np.ndarray, n_heads: int) -> list[tuple[int, int]]:
    return sorted((int(i) // n_heads, int(i) % n_heads) for i in flat)


def _without_heads(heads: list[tuple[int, int]], model: HookedModel, _key: int) -> AbstractContextManager[None]:
    """Zero z of some heads at all positions."""

    def zero(chosen: list[int]) -> Callable[[Tensor], Tensor]:
        def hook(z: Tensor) -> Tensor:
            gone = torch.zeros(z.shape[2], dtype=torch.bool, device=z.device)
            gone[chosen] = True
            return z.masked_fill(gone[:, None], 0)

        return hook

    layers = sorted({layer for layer, _ in heads})
    chosen = {layer: [head for at, head in heads if at == layer] for layer in layers}
    return editing(model, {f"blocks.{layer}.attn.hook_z": zero(chosen[layer]) for layer in layers})


def _tuned(texts: RemedyTexts, recipes: Sequence[LightTuningRecipe]) -> list[Remedy]:
    names = [recipe.name for recipe in recipes]
    names = [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]
    aside = [tokens for rows in texts.aside.values() for tokens in rows]

    def tune(recipe: LightTuningRecipe) -> Callable[[Any], Any]:
        return lambda model: tune_lightly(model, aside, recipe, progress=False).model

    return [
        Remedy(name, "tuning", prepare=tune(recipe), chosen=str(recipe))
        for name, recipe in zip(names, recipes, strict=True)
    ]


# The table.


def _row(model: HookedModel, trial: Trial, remedy: Remedy) -> xr.Dataset:
    """All numbers of one remedy; NaN and the reason where an inference-time one cannot be applied to this model."""
    began, note = time.perf_counter(), ""
    try:
        found = trial.measure(remedy.prepare(model), remedy.on, remedy.without_sink)
    except InputError as error:
        if remedy.kind != "inference":
            raise
        note = str(error)
        warnings.warn(f"The remedy '{remedy.name}' is left out: {note}", WorkbenchWarning, stacklevel=4)
        found = xr.Dataset(coords={"domain": list(trial.material.measured)})
    stretched = str(found["stretched_layer"].item()) if "stretched_layer" in found else ""
    labels = _labels(remedy.name, remedy.kind, chosen=remedy.chosen, note=note, stretched_layer=stretched)
    seconds = round(time.perf_counter() - began, 2)
    found = found.drop_vars("stretched_layer", errors="ignore").assign(seconds=seconds)
    return found.expand_dims(remedy=[remedy.name]).assign_coords(labels)


def with_changes(table: xr.Dataset) -> xr.Dataset:
    """Changes of loss with their intervals over sequences: against the row "none", and by rounding within a row."""
    changes = {"loss_change": table["loss"] - table["loss"].sel(remedy="none")}
    if "quantized_loss" in table:
        changes["quantized_loss_change"] = table["quantized_loss"] - table["loss"]
    out = table
    for name, values in changes.items():
        values = values.transpose(..., "sequence")
        low, high = np.full((2, *values.shape[:-1]), np.nan)
        known = np.isfinite(values.values).all(-1)
        if known.any():
            low[known], high[known] = mean_interval(values.values[known])
        dims = values.dims[:-1]
        out = out.assign({name: values.mean("sequence"), f"{name}_low": (dims, low), f"{name}_high": (dims, high)})
    return out


def add_rows(
    table: xr.Dataset, rows: Mapping[str, Mapping[str, Any]], *, domain: str, kind: RemedyKind = "retraining"
) -> xr.Dataset:
    """The table with rows that were measured elsewhere, such as models that were trained otherwise.

    Args:
        table: from `compare_remedies`.
        rows: by remedy, numbers by variable: `{"SGD": {"sink_rate": 0.1, "logit_error": {"W8A8 per token": 0.01}}}`;
            what has a scheme takes a number per scheme. Whatever is not given is NaN.
        domain: the domain of these numbers; a new one is added to the table.
        kind: of the remedies.

    Raises:
        InputError: a remedy that the table has, a variable or scheme that it does not know, an unknown kind.
    """
    check_known("kind", kind, KINDS)
    taken = [name for name in rows if name in table["remedy"].values]
    if taken or not rows:
        what = f"The table has a row '{taken[0]}' already" if taken else "No rows were given"
        raise InputError(f"{what}; give remedies of other names, such as {{'SGD': {{'sink_rate': 0.1}}}}.")
    numbers = [str(name) for name, v in table.data_vars.items() if v.dtype.kind == "f" and "sequence" not in v.dims]
    domains = list(dict.fromkeys([*table["domain"].values.tolist(), domain]))
    wide = table.reindex(domain=domains)
    pieces = [wide]
    for remedy, values in rows.items():
        unknown = [name for name in values if name not in numbers]
        if unknown:
            raise InputError(f"Row '{remedy}': no variable {unknown[0]!r}; {suggest(unknown[0], numbers)}")
        empty = xr.full_like(wide[numbers].isel(remedy=[0]), np.nan)
        piece = empty.assign_coords(_labels(remedy, kind))
        for name, value in values.items():
            at = {"domain": domain} if "domain" in piece[name].dims else {}
            if "scheme" not in piece[name].dims:
                piece[name].loc[at] = float(value)
                continue
            for scheme, number in value.items():
                _require_scheme(piece, remedy, scheme)
                piece[name].loc[at | {"scheme": scheme}] = float(number)
        pieces.append(piece)
    return xr.concat(pieces, "remedy", join="outer", data_vars="all", coords="minimal").assign_attrs(table.attrs)


def _require_scheme(piece: xr.Dataset, remedy: str, scheme: str) -> None:
    if scheme not in piece["scheme"].values:
        known = piece["scheme"].values.tolist()
        raise InputError(f"Row '{remedy}': no scheme {scheme!r} in the table; {suggest(scheme, known)}")


def _labels(remedy: str, kind: RemedyKind, **texts: str) -> dict[str, Any]:
    """The coordinates of one row."""
    texts = {"kind": kind, "chosen": "", "note": "", "stretched_layer": ""} | texts
    return {"remedy": [remedy]} | {name: ("remedy", [text]) for name, text in texts.items()}
