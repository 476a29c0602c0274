"""Active-dormant heads and extreme tokens: the paper's figures on language models as named recipes.

1. `extreme-tokens` (figure 1): attention map of the strongest sink head, value norms by token, stream norms by layer.
2. `sinks`: attention that the sinks receive, and their logit, by layer and head.
3. `peak`: which coordinates carry the peak.
4. `training` (figure 9): sinks, drains and peaks over the training of the embedded models, or over a folder of
   checkpoints.
5. `domains`, `waking-head` (figure 8): heads that sleep on one kind of text and wake on another.
6. `remedies`: what helps against sinks and peaks, and its price.
7. `peak-sources`: what is left of it without the attention or the MLP of each layer (the residual ablations).

The paper is Guo, Pai, Bai, Jiao, Jordan and Mei (2024). Its figures on toy models are in `active_dormant_toys`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

import workbench as wb
from workbench.errors import InputError
from workbench.extreme import (
    add_rows,
    attention_maps,
    compare_remedies,
    local_checkpoints,
    patterns,
    peak_sources,
    peak_verdict,
    training_dynamics,
    waking_sentences,
)
from workbench.papers.active_dormant.sentences import (
    domains_line,
    extremes_line,
    peak_line,
    remedies_line,
    training_line,
    waking_heads,
)
from workbench.papers.active_dormant.toy_figures import retrained_rows
from workbench.papers.cache import Source, digest, kept
from workbench.papers.model_figure import ModelFigure
from workbench.papers.requests import Drawn, FigureRequest
from workbench.papers.samples import PROMPT, SAMPLES
from workbench.plot import compose
from workbench.plot import extreme as plots
from workbench.plot.dynamics import training_panels
from workbench.plot.remedies import remedy_effects
from workbench.plot.waking import waking_heatmap, waking_maps, waking_scatter
from workbench.runs.results import open_result

MAX_TOKENS = 256
TEXTS = 64
"""Texts per domain that are read, at most."""
DOMAIN_TOKENS, SAMPLE_TOKENS = 128, 48
"""Tokens of each text when domains are compared: the paper's, and what every sample has with any tokenizer."""
MAX_LETTERS = 1500
"""Of each text that is followed over training: checkpoints may differ in their tokenizers."""
SOURCE_TEXTS = 8
"""Texts per domain for the residual ablations, which run the model three times per layer."""


def texts_of(request: FigureRequest) -> Mapping[str, Sequence[Any]]:
    """The order's texts by domain, at most `TEXTS` of each; the package's samples where none are given."""
    return {domain: list(texts)[:TEXTS] for domain, texts in (request.texts or SAMPLES).items()}


def measure_extremes(source: Source, request: FigureRequest) -> xr.Dataset:
    """`extreme_tokens` on the order's texts, after the paper's prompt, which is the first sequence."""
    texts = [PROMPT, *(text for some in texts_of(request).values() for text in some)]
    request.step(f"{source.name}: extreme tokens")
    return kept(
        request.folder / source.name / "extreme.nc",
        source,
        {"texts": digest(texts), "max_tokens": MAX_TOKENS},
        lambda: wb.extreme_tokens(source.model, texts, max_tokens=MAX_TOKENS, progress=False),
    )


def sinkiest(found: xr.Dataset) -> tuple[int, int]:
    """The layer and head that attend most to the extreme tokens of the first text."""
    one = found.isel(sequence=0)
    subject = one["extreme"] if bool(one["extreme"].any()) else one["position"] == 0
    weight = one["sink_weight"].where(subject).max("position").values
    layer, head = np.unravel_index(int(np.nanargmax(weight)), weight.shape)
    return int(layer), int(head)


def extreme_tokens(sources: Sequence[Source], request: FigureRequest) -> Drawn:
    """The three panels of figure 1 on the paper's prompt, a row per model."""
    rows, names, lines = [], [], []
    for source in sources:
        found = measure_extremes(source, request)
        layer, head = sinkiest(found)
        maps = kept(
            request.folder / source.name / "maps.nc",
            source,
            {"text": PROMPT},
            lambda source=source: patterns(source.model, PROMPT),
        )
        rows.append(
            [plots.pattern(maps, layer, head), plots.value_norms(found), plots.residual_norms(found, sequence=0)]
        )
        names.append([f"{source.name}: layer {layer}, head {head}", "value norms, all heads", "stream norms"])
        lines.append(f"{source.name}: {extremes_line(found)}")
    request.step("drawing")
    return Drawn(compose.grid(rows, names, title="Sink, drain and peak"), " ".join(lines))


def sinks(sources: Sequence[Source], request: FigureRequest) -> Drawn:
    """Attention received by each head's strongest sink and its logit, a row per model."""
    rows, names, lines = [], [], []
    for source in sources:
        found = measure_extremes(source, request)
        rows.append([plots.sink_heatmap(found), plots.sink_heatmap(found, "sink_logit")])
        names.append([f"{source.name}: attention on the sink", "its sink logit"])
        share = float((found["first_token_sink_rate"] > 0.5).mean())
        lines.append(f"{source.name}: {share:.0%} of the heads have the first token as sink in most texts.")
    request.step("drawing")
    return Drawn(compose.grid(rows, names, title="Attention sinks by head"), " ".join(lines))


def peak(sources: Sequence[Source], request: FigureRequest) -> Drawn:
    """The coordinates of the peak, a column per model."""
    found = [measure_extremes(source, request) for source in sources]
    request.step("drawing")
    figure = compose.beside(
        [plots.peak_coordinates(one) for one in found],
        [source.name for source in sources],
        title="Coordinates of the longest token",
    )
    return Drawn(figure, " ".join(f"{s.name}: {peak_line(one)}" for s, one in zip(sources, found, strict=True)))


def sources_of_peak(sources: Sequence[Source], request: FigureRequest) -> Drawn:
    """The first token's norm without each part, a column per model."""
    texts = [text for some in texts_of(request).values() for text in list(some)[:SOURCE_TEXTS]]
    found = []
    for source in sources:
        request.step(f"{source.name}: zeroing each part")
        found.append(
            kept(
                request.folder / source.name / "peak_sources.nc",
                source,
                {"texts": digest(texts), "max_tokens": MAX_TOKENS},
                lambda source=source: peak_sources(source.model, texts, max_tokens=MAX_TOKENS, progress=False),
            )
        )
    request.step("drawing")
    figure = compose.beside(
        [plots.peak_sources(one) for one in found],
        [source.name for source in sources],
        title="The first token's stream without a part of the model",
        gap=0.3,
    )
    lines = [f"{source.name}: {peak_verdict(one)}" for source, one in zip(sources, found, strict=True)]
    return Drawn(figure, " ".join(lines))


def training(sources: Sequence[Source], request: FigureRequest) -> Drawn:
    """Panels of figure 9 for one model: an embedded one, whose run is kept with it, or a folder of checkpoints."""
    if len(sources) > 1:
        names = ", ".join(source.name for source in sources)
        raise InputError(
            f"active-dormant/training draws one run; got {names}. Name one, such as --models organism-gqa."
        )
    source = sources[0]
    request.step(f"{source.name}: following the training")
    record = source.record("dynamics.nc")
    if record:
        found = open_result(record)
    else:
        texts = [text[:MAX_LETTERS] for some in texts_of(request).values() for text in list(some)[:SOURCE_TEXTS]]
        found = training_dynamics(
            local_checkpoints(source.source),
            texts,
            resume=str(request.folder / source.name / "dynamics.nc"),
            progress=False,
        )
    request.step("drawing")
    figure = training_panels(found, title=f"{source.name} over training")
    return Drawn(figure, f"{source.name}: {training_line(found)}")


def measure_domains(source: Source, request: FigureRequest) -> xr.Dataset:
    """`active_dormant` on the order's texts: 128 tokens of each, or 48 of the package's samples."""
    texts = {domain: list(some) for domain, some in (request.texts or SAMPLES).items()}
    length = DOMAIN_TOKENS if request.texts else SAMPLE_TOKENS
    request.step(f"{source.name}: zeroing every head on {len(texts)} kinds of text")
    return kept(
        request.folder / source.name / "domains.nc",
        source,
        {"texts": digest(texts), "length": length},
        lambda: wb.active_dormant(source.model, texts, length=length, n_sequences=None, progress=False),
    )


def woken(found: xr.Dataset) -> tuple[str, int, int]:
    """The pair of domains and the head that differ most, among those that wake if any does."""
    difference = abs(found["difference"].sel(score="loss_change")).transpose("pair", "layer", "head")
    wakes = waking_heads(found)
    candidates = np.where(wakes, difference.values, -1) if wakes.any() else difference.values
    pair, layer, head = np.unravel_index(int(candidates.argmax()), candidates.shape)
    return str(found["pair"].values[pair]), int(layer), int(head)


def domains(sources: Sequence[Source], request: FigureRequest) -> Drawn:
    """Figure 8: difference between two domains for every head, and one head's sequences, a row per model."""
    rows, names, lines = [], [], []
    for source in sources:
        found = measure_domains(source, request)
        pair, layer, head = woken(found)
        rows.append([waking_heatmap(found, pair), waking_scatter(found, layer, head)])
        names.append([f"{source.name}: effect of zeroing, {pair}", f"layer {layer}, head {head}"])
        lines.append(f"{source.name}: {domains_line(found)}")
    request.step("drawing")
    return Drawn(compose.grid(rows, names, title="Heads that sleep and wake by domain", gap=0.2), " ".join(lines))


def waking_head(sources: Sequence[Source], request: FigureRequest) -> Drawn:
    """Attention maps of the head that differs most between domains, a domain beside the other, of one model."""
    if len(sources) > 1:
        raise InputError("active-dormant/waking-head draws one model. Name one, such as --models organism-gqa.")
    source = sources[0]
    found = measure_domains(source, request)
    _, layer, head = woken(found)
    texts = {domain: some[0] for domain, some in (request.texts or SAMPLES).items()}
    maps = attention_maps(source.model, layer, head, texts)
    request.step("drawing")
    sentence = waking_sentences(found).sel(layer=layer, head=head).item()
    figure = waking_maps(maps, title=f"{source.name}, layer {layer}, head {head}: {sentence}")
    return Drawn(figure, f"{source.name}: layer {layer}, head {head} is {sentence}.")


def remedies(sources: Sequence[Source], request: FigureRequest) -> Drawn:
    """What each remedy costs and cures, of one model; below it, toy models trained otherwise."""
    if len(sources) > 1:
        raise InputError("active-dormant/remedies draws one model. Name one, such as --models organism-gqa.")
    source = sources[0]
    texts = None if request.texts is None else {domain: list(some) for domain, some in request.texts.items()}
    request.step(f"{source.name}: measuring remedies")
    found = kept(
        request.folder / source.name / "remedies.nc",
        source,
        {"texts": digest(texts), "length": DOMAIN_TOKENS},
        lambda: compare_remedies(source.model, texts, length=DOMAIN_TOKENS, progress=False),
    )
    line = remedies_line(found)
    found = add_rows(found, retrained_rows(), domain="toy language")
    request.step("drawing")
    return Drawn(remedy_effects(found, title=f"Remedies on {source.name}"), f"{source.name}: {line}")


RECIPES = (
    ModelFigure("active-dormant/extreme-tokens", extreme_tokens),
    ModelFigure("active-dormant/sinks", sinks),
    ModelFigure("active-dormant/peak", peak),
    ModelFigure("active-dormant/training", training, ("organism-gqa",)),
    ModelFigure("active-dormant/domains", domains),
    ModelFigure("active-dormant/waking-head", waking_head, ("organism-gqa",)),
    ModelFigure("active-dormant/remedies", remedies, ("organism-gqa",)),
    ModelFigure("active-dormant/peak-sources", sources_of_peak),
)
