"""How a remedy is evaluated: the same sequences, the same predictions and the same numbers for each.

1. Every domain's texts are taken in turn: one is measured on, the next is set aside for choosing heads and tuning, so
   that no remedy is judged by what it has seen. All are cut to one length, and domains have equally many.
2. The sink of each sequence is the token that receives most attention, over all layers and heads. Predictions are
   scored from the second token after it on: these are what every remedy makes, also the one that removes the sink.
3. One model, as it is or with hooks on it, gives: the loss of each sequence, the detectors' rates and ratios, and with
   rounded weights and activations the loss again and the errors of logits and stream.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import InputError, WorkbenchWarning
from workbench.extreme.detect import extreme_tokens
from workbench.extreme.quantize import Ranges, Scheme, quantized
from workbench.extreme.verdict import Thresholds
from workbench.models.anatomy import Anatomy, anatomy
from workbench.models.capture import capture
from workbench.models.devices import device_of, devices_of
from workbench.models.embedded import embedded
from workbench.prompts.templates import encode, encode_dialogue, has_template, tokenizer_of
from workbench.prompts.texts import token_sequences
from workbench.protocol import HookedModel
from workbench.runs.batching import Batches, BatchSize

FEWEST = 2
"""Sequences per domain that are measured, and as many that are set aside."""
_UNCUT = 2048
"""Tokens kept of a text that is set aside."""
_TOKENS = {"cpu": 2**11, "cuda": 2**15}
"""Tokens in one forward pass, at most."""
_DIALOGUES = 12
"""Dialogues that make one of the default texts."""
RemedyIntervention = Callable[[Any, int], AbstractContextManager[None]]
"""The model and the position of the sink to what is done to the model for the time of a run."""


@dataclass(frozen=True)
class RemedyTexts:
    """The sequences of a comparison by domain: those measured, of one length and equally many, and those set aside.

    The latter are not cut. `left_out` counts the texts that are shorter than `length`.
    """

    measured: dict[str, list[list[int]]]
    aside: dict[str, list[list[int]]]
    length: int
    left_out: dict[str, int]

    @property
    def every(self) -> list[list[int]]:
        """All measured sequences, domain by domain."""
        return [tokens for domain in self.measured.values() for tokens in domain]

    def cut_aside(self, n: int) -> dict[str, list[list[int]]]:
        """The first n sequences set aside of each domain, cut to the measured length."""
        return {name: [tokens[: self.length] for tokens in rows[:n]] for name, rows in self.aside.items()}


def material(
    model: HookedModel, domains: Mapping[str, Any] | None, length: int, n_sequences: int, column: str
) -> RemedyTexts:
    """Sequences to measure on and to set aside; the arguments are those of `compare_remedies`."""
    if domains is None:
        domains = {"dialogue": dialogues(model, 2 * n_sequences)}
    if not isinstance(domains, Mapping) or not domains:
        raise InputError("Give texts by domain, such as {'prose': texts, 'code': texts}, or none for dialogues.")
    if length < 4 or n_sequences < FEWEST:
        raise InputError(
            f"length={length} and n_sequences={n_sequences}: give at least 4 tokens and {FEWEST} sequences."
        )
    measured, aside, left_out = {}, {}, {}
    for name, texts in domains.items():
        try:
            found = token_sequences(model, texts, column=column, max_tokens=max(length, _UNCUT))
        except InputError as error:
            raise InputError(f"Domain '{name}': {error}") from error
        enough = [tokens for tokens in found if len(tokens) >= length]
        left_out[name] = len(found) - len(enough)
        if len(enough) < 2 * FEWEST:
            raise InputError(
                f"Domain '{name}' has {len(enough)} texts of at least {length} tokens and needs {2 * FEWEST}: half are "
                f"measured, half set aside for choosing heads and tuning. {left_out[name]} texts are shorter. Give "
                "longer texts, more of them, or a smaller length=."
            )
        measured[name] = [tokens[:length] for tokens in enough[::2]][:n_sequences]
        aside[name] = enough[1::2]
    if any(left_out.values()):
        told = ", ".join(f"{count} of '{name}'" for name, count in left_out.items() if count)
        warnings.warn(f"Texts shorter than {length} tokens are left out: {told}.", WorkbenchWarning, stacklevel=3)
    each = min(map(len, measured.values()))
    return RemedyTexts({name: rows[:each] for name, rows in measured.items()}, aside, length, left_out)


def dialogues(model: HookedModel, n: int, seed: int = 0) -> list[list[int]]:
    """Token ids of n texts of several short dialogues each, in the model's chat template if it has one."""
    tokenizer, texts = tokenizer_of(model), []
    drawn = embedded("organism-gqa").sample_dialogues(_DIALOGUES * n, f"remedies-{seed}")
    for i in range(0, len(drawn), _DIALOGUES):
        messages = [message for dialogue in drawn[i : i + _DIALOGUES] for message in dialogue]
        if has_template(tokenizer):
            texts.append(encode_dialogue(tokenizer, messages, reply=False))
        else:
            texts.append(encode(tokenizer, "\n".join(f"{m['role']}: {m['content']}" for m in messages)))
    return texts


def judged(found: xr.Dataset) -> xr.DataArray:
    """Tokens of `extreme_tokens` that enough queries see to be called a sink or none, by layer."""
    return found["queries"] >= np.minimum(found.attrs["threshold_min_queries"], (found["length"] + 1) // 2)


def sinks(found: xr.Dataset) -> Int[np.ndarray, " sequence"]:
    """The position in each sequence that receives most attention, the mean over layers and heads."""
    weight = found["sink_weight"].mean(["layer", "head"]).where(judged(found).any("layer"))
    return weight.transpose("sequence", "position").fillna(-1).values.argmax(-1)


def detected(found: xr.Dataset, key: int | None) -> dict[str, Float[np.ndarray, "sequence *layer"]]:
    """The results of `extreme_tokens` as one number per sequence (of the peak: per sequence and layer).

    `key` is the position of the sink; None where it was taken out.
    """
    heavy = (found["sink_weight"] > found.attrs["threshold_sink_weight"]) & judged(found)
    first = found["sink_weight"].where(judged(found)).fillna(0).isel(position=0)
    norm, value = found["residual_norm"], found["value_norm"]
    drain = value.isel(position=key or 0) / value.drop_isel(position=key or 0).median("position")
    drain = drain.mean(["layer", "kv_head"])
    return {
        "sink_rate": heavy.any("position").mean(["layer", "head"]).values,
        "first_token_weight": first.mean(["layer", "head"]).values,
        "peak_ratio": (norm.max("position") / norm.median("position")).transpose("sequence", "layer").values,
        "drain_ratio": (drain if key is not None else drain * np.nan).values,
    }


class RemedyScore(NamedTuple):
    """One sequence's loss, and the errors of its logits and its stream against another run."""

    loss: float
    logit_error: float
    stream_error: float


def score(
    parts: Anatomy,
    stream: Float[Tensor, "pos d_model"],
    tokens: Sequence[int],
    first: int,
    reference: Float[Tensor, "pos d_model"] | None = None,
) -> RemedyScore:
    """Mean next-token loss from the first position that counts on, and relative errors there against a reference.

    Logits matter up to a number per position, so their mean is taken off before they are compared.
    """
    logits = parts.unembed(stream[first:-1]).double()
    targets = torch.tensor(tokens[first + 1 :], device=logits.device)
    loss = torch.nn.functional.cross_entropy(logits, targets)
    if reference is None:
        return RemedyScore(loss.item(), 0.0, 0.0)
    own = parts.unembed(reference[first:-1]).double()
    pairs = ((logits - logits.mean(-1, keepdim=True), own - own.mean(-1, keepdim=True)), (stream, reference))
    errors = [((x - y).double().norm(dim=-1) / y.double().norm(dim=-1)) for x, y in pairs]
    return RemedyScore(loss.item(), errors[0].mean().item(), errors[1][first:-1].mean().item())


@dataclass(frozen=True)
class Trial:
    """How any model is measured: on which sequences, with the sinks at `keys`, and with which roundings."""

    material: RemedyTexts
    keys: Int[np.ndarray, " sequence"]
    schemes: Sequence[Scheme]
    thresholds: Thresholds | None
    batch_size: BatchSize

    def groups(self) -> list[tuple[int, list[int]]]:
        """Sequences by the position of their sink."""
        return [(int(key), np.flatnonzero(self.keys == key).tolist()) for key in np.unique(self.keys)]

    @torch.no_grad()
    def measure(self, model: HookedModel, on: RemedyIntervention, without_sink: bool = False) -> xr.Dataset:
        """All numbers of one model under one intervention, or with the sink taken out of every sequence."""
        rows = self.material.every
        if without_sink:
            rows = [[*tokens[:key], *tokens[key + 1 :]] for tokens, key in zip(rows, self.keys, strict=True)]
        firsts = self.keys + (0 if without_sink else 1)
        ranges = Ranges(model) if self.schemes else None
        plain, found = self._streams(model, on, rows, ranges, without_sink)
        names = list(self.material.measured)
        scores = [score(anatomy(model), plain[i], rows[i], int(firsts[i])) for i in range(len(rows))]
        columns = {"loss": (("domain", "sequence"), np.array([s.loss for s in scores]).reshape(len(names), -1))}
        for name, values in found.items():
            by_domain = rearrange(values, "(domain sequence) ... -> domain sequence ...", domain=len(names)).mean(1)
            columns[name] = (("domain",), by_domain if by_domain.ndim == 1 else by_domain.max(1))
        if ranges is not None:
            columns |= self._rounded(model, on, rows, firsts, plain, ranges)
        coords = {"domain": names, "sequence": np.arange(len(rows) // len(names))}
        return xr.Dataset(columns, coords | {"scheme": [scheme.name for scheme in self.schemes]})

    def _streams(
        self,
        model: HookedModel,
        on: RemedyIntervention,
        rows: list[list[int]],
        ranges: Ranges | None,
        without_sink: bool,
    ) -> tuple[list[Tensor], dict[str, np.ndarray]]:
        """The last stream of each sequence and what is detected in it, and the range of the layers' inputs."""
        streams: dict[int, Tensor] = {}
        parts: list[dict[str, np.ndarray]] = []
        for key, members in self.groups():
            some = [rows[i] for i in members]
            with on(model, key):
                found = extreme_tokens(
                    model, some, thresholds=self.thresholds, batch_size=self.batch_size, progress=False
                )
                with nullcontext() if ranges is None else ranges.observing():
                    ends = self._ends(model, some)
            streams |= dict(zip(members, ends, strict=True))
            parts.append(detected(found, None if without_sink else key))
        order = np.argsort([i for _, members in self.groups() for i in members])
        joined = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
        return [streams[i] for i in range(len(rows))], joined

    def _ends(self, model: HookedModel, rows: list[list[int]]) -> list[Tensor]:
        """The stream after the last layer, sequence by sequence."""
        name = f"blocks.{anatomy(model).n_layers - 1}.hook_resid_post"
        largest = max(1, _TOKENS.get(device_of(model).type, 2**11) // len(rows[0]))
        batches = Batches(devices_of(model), self.batch_size, largest=largest)
        ends: list[Tensor] = []
        for _, seen in batches.over(rows, lambda some: capture(model, some, {name: lambda t: t})[name]):
            ends += list(seen)
        return ends

    def _rounded(
        self,
        model: HookedModel,
        on: RemedyIntervention,
        rows: list[list[int]],
        firsts: np.ndarray,
        plain: list[Tensor],
        ranges: Ranges,
    ) -> dict[str, Any]:
        """Losses and errors under each scheme; ranges are those of the same sequences under the same intervention."""
        stretch = ranges.stretch()
        widest = max(stretch, key=lambda name: stretch[name])
        parts = anatomy(model)
        values = np.full((3, len(rows), len(self.schemes)), np.nan)
        for number, scheme in enumerate(self.schemes):
            for key, members in self.groups():
                with on(model, key), quantized(model, scheme, ranges):
                    ends = self._ends(model, [rows[i] for i in members])
                for i, end in zip(members, ends, strict=True):
                    values[:, i, number] = score(parts, end, rows[i], int(firsts[i]), plain[i])
        axes = "measure (domain sequence) scheme -> measure domain sequence scheme"
        loss, *errors = rearrange(values, axes, domain=len(self.material.measured))
        return {
            "quantized_loss": (("domain", "sequence", "scheme"), loss),
            "logit_error": (("domain", "scheme"), errors[0].mean(1)),
            "stream_error": (("domain", "scheme"), errors[1].mean(1)),
            "stretch": ((), stretch[widest]),
            "stretched_layer": ((), widest),
        }
