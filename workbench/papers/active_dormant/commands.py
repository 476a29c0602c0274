"""What `workbench extreme` does and says: one function per action, each with its result and a text about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import workbench as wb
from workbench.extreme import by_token, compare_remedies, peak_sources, peak_verdict, waking_sentences
from workbench.papers.active_dormant.figures import DOMAIN_TOKENS, SAMPLE_TOKENS
from workbench.papers.active_dormant.sentences import peak_line, sink_line, waking_heads
from workbench.papers.samples import SAMPLES
from workbench.protocol import HookedModel


@dataclass(frozen=True)
class Done:
    """A result and what it says, in plain text."""

    result: xr.Dataset
    text: str


@dataclass(frozen=True)
class CommandOptions:
    """What a command was asked: texts by domain or None, tokens of each or None, a file to resume from, a bar."""

    texts: Mapping[str, Sequence[Any]] | None
    length: int | None
    resume: str | Path | None
    progress: bool

    @property
    def domains(self) -> dict[str, list[Any]]:
        """The given texts, or the package's samples."""
        return {domain: list(texts) for domain, texts in (self.texts or SAMPLES).items()}

    @property
    def tokens(self) -> int:
        """Tokens of each text that are read: what was asked, 128, or as many as the samples have."""
        return self.length or (DOMAIN_TOKENS if self.texts else SAMPLE_TOKENS)

    @property
    def all_texts(self) -> list[Any]:
        """The texts of all domains."""
        return [text for texts in self.domains.values() for text in texts]


def tokens(model: HookedModel, options: CommandOptions) -> Done:
    """Sinks, drains and peaks."""
    found = wb.extreme_tokens(model, options.all_texts, max_tokens=options.tokens, progress=options.progress)
    table = by_token(found)
    table = table.isel(token=np.flatnonzero(table["sink"].values)[:12])
    rows = [f"{'token':24}{'count':>7}{'sink':>7}{'drained':>9}{'peaked':>8}{'extreme':>9}"]
    for i in range(table.sizes["token"]):
        row = table.isel(token=i)
        rows.append(
            f"{str(row['token'].item())!r:24}{int(row['count']):7d}{float(row['sink']):7.0%}"
            f"{float(row['drained']):9.0%}{float(row['peaked']):8.0%}{float(row['extreme']):9.0%}"
        )
    return Done(found, "\n".join([*rows, sink_line(found), peak_line(found).capitalize()]))


def peak(model: HookedModel, options: CommandOptions) -> Done:
    """The layers that make and unmake the peak."""
    found = peak_sources(model, options.all_texts, max_tokens=options.tokens, progress=options.progress)
    return Done(found, peak_verdict(found))


def domains(model: HookedModel, options: CommandOptions) -> Done:
    """Heads that sleep on one kind of text and wake on another."""
    found = wb.active_dormant(
        model, options.domains, length=options.tokens, resume=options.resume, progress=options.progress
    )
    sentences = waking_sentences(found).transpose("layer", "head").values
    names, counts = np.unique(sentences, return_counts=True)
    rows = [f"{count:5d} heads: {name}" for count, name in sorted(zip(counts, names, strict=True), reverse=True)]
    woken = [
        f"layer {layer}, head {head}: {sentences[layer, head]}" for layer, head in np.argwhere(waking_heads(found))
    ]
    return Done(found, "\n".join(rows + woken))


def remedies(model: HookedModel, options: CommandOptions) -> Done:
    """What helps against sinks and peaks, and its price."""
    found = compare_remedies(
        model, options.texts, length=options.tokens, resume=options.resume, progress=options.progress
    )
    width = max(len(str(name)) for name in found["remedy"].values) + 2
    schemes = [str(name) for name in found["scheme"].values] if "scheme" in found.dims else []
    rows = [f"{'remedy':{width}}{'loss':>8}{'sinks':>8}{'peak':>8}" + "".join(f"{name[:14]:>16}" for name in schemes)]
    mean = found.mean("domain")
    for name in found["remedy"].values:
        row = mean.sel(remedy=name)
        errors = "".join(f"{float(row['quantized_loss_change'].sel(scheme=scheme)):16.3f}" for scheme in schemes)
        rows.append(
            f"{name!s:{width}}{float(row['loss_change']):+8.3f}{float(row['sink_rate']):8.0%}"
            f"{float(row['peak_ratio']):8.1f}{errors}"
        )
    rows.append("Means over domains. loss: change against none; under each rounding: change of loss by rounding.")
    return Done(found, "\n".join(rows))


ACTIONS: dict[str, Callable[[Any, CommandOptions], Done]] = {
    "tokens": tokens,
    "peak": peak,
    "domains": domains,
    "remedies": remedies,
}
