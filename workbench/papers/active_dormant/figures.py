"""Active-dormant heads and extreme tokens: the paper's figures on language models as named recipes.

1. `extreme-tokens` (figure 1): attention map of the strongest sink head, value norms by token, stream norms by layer.
2. `sinks`: attention that the sinks receive, and their logit, by layer and head.
3. `peak`: which coordinates carry the peak.
4. `training` (figure 9): sinks, drains and peaks over the training of the embedded models, or over a folder of
   checkpoints.
5. `domains`, `waking-head` (figure 8): heads that are dormant on one kind of text and active on another.
6. `remedies`: what helps against sinks and peaks, and its price.
7. `peak-sources`: what is left of it without the attention or the MLP of each layer (the residual ablations).

The paper is Guo, Pai, Bai, Jiao, Jordan and Mei (2024). Its figures on toy models are in `toy_figures`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

import workbench as wb
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
from workbench.models.anatomy import anatomy
from workbench.papers.active_dormant.sentences import (
    attention_line,
    domains_line,
    extremes_line,
    misleading_head,
    peak_line,
    regimes_line,
    remedies_line,
    sink_line,
    training_line,
    waking_heads,
)
from workbench.papers.active_dormant.toy_figures import retrained_rows
from workbench.papers.cache import Source, digest, kept
from workbench.papers.recipes import PAIR, Drawn, FigureRecipe, FigureRequest, Panel, each, only, side_by_side, told
from workbench.plot import compose
from workbench.plot import extreme as plots
from workbench.plot.dynamics import training_panels
from workbench.plot.remedies import remedy_effects
from workbench.plot.waking import waking_heatmap, waking_maps, waking_scatter
from workbench.prompts.samples import PROMPT, SAMPLES, domain_texts
from workbench.runs.results import open_result

MAX_TOKENS = 256
TEXTS = 64
"""Texts per domain that are read, at most."""
DOMAIN_TOKENS, SAMPLE_TOKENS = 128, 48
"""Tokens of each text when domains are compared: the paper's, and what every sample has with any tokenizer."""
KINDS = ("prose", "code")
"""The package's kinds of text whose heads are compared, as in the paper, where no texts are given."""
KIND_TOKENS = 64
"""Tokens that each of those texts has with the tokenizers of the embedded and the named models."""
MANY_HEADS, SHORTLIST = 100, 48
"""Of a model with more heads, so many are zeroed, chosen by their attention."""
MAX_LETTERS = 1500
"""Of each text that is followed over training: checkpoints may differ in their tokenizers."""
SOURCE_TEXTS = 8
"""Texts per domain for the residual ablations, which run the model three times per layer."""


def texts_of(request: FigureRequest) -> Mapping[str, Sequence[Any]]:
    """The request's texts by domain, at most `TEXTS` of each; the package's samples where none are given."""
    return {domain: list(texts)[:TEXTS] for domain, texts in (request.texts or SAMPLES).items()}


def measure_extremes(source: Source, request: FigureRequest) -> xr.Dataset:
    """`extreme_tokens` on the request's texts, after the paper's prompt, which is the first sequence."""
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
    extreme = one["extreme"].any("layer")
    subject = extreme if bool(extreme.any()) else one["position"] == 0
    weight = one["sink_weight"].where(subject).max("position").values
    layer, head = np.unravel_index(int(np.nanargmax(weight)), weight.shape)
    return int(layer), int(head)


def measure_maps(source: Source, request: FigureRequest) -> tuple[xr.Dataset, xr.Dataset]:
    """`measure_extremes`, and the attention of every head on the paper's prompt."""
    found = measure_extremes(source, request)
    path = request.folder / source.name / "maps.nc"
    return found, kept(path, source, {"text": PROMPT}, lambda: patterns(source.model, PROMPT))


def extreme_tokens(measured: Mapping[str, tuple[xr.Dataset, xr.Dataset]]) -> Drawn:
    """The three panels of figure 1 on the paper's prompt, a row per model."""
    rows, names = [], []
    for name, (found, maps) in measured.items():
        layer, head = sinkiest(found)
        rows.append(
            [plots.pattern(maps, layer, head), plots.value_norms(found), plots.residual_norms(found, sequence=0)]
        )
        names.append([f"{name}: layer {layer}, head {head}", "value norms, all heads", "stream norms"])
    lines = [f"{extremes_line(found)} Over all texts, {regimes_line(found)}" for found, _ in measured.values()]
    return Drawn(compose.grid(rows, names, title="Sink, drain and peak"), told([*measured], lines))


def sinks(measured: Mapping[str, xr.Dataset]) -> Drawn:
    """Attention received by each head's strongest sink and its logit, a row per model."""
    rows, names, lines = [], [], []
    for name, found in measured.items():
        rows.append([plots.sink_heatmap(found), plots.sink_heatmap(found, "sink_logit")])
        names.append([f"{name}: attention on the sink", "its sink logit"])
        share = float((found["first_token_sink_rate"] > 0.5).mean())
        lines.append(
            f"{share:.0%} of the heads have the first token as sink in most of {found.sizes['sequence']} texts."
        )
    return Drawn(compose.grid(rows, names, title="Attention sinks by head"), told([*measured], lines))


def first_token_panel(found: xr.Dataset) -> Panel:
    """Attention that the first token receives, by layer and head."""
    return Panel(plots.sink_heatmap(found, position=0), sink_line(found), "Attention received by the first token")


def stream_panel(found: xr.Dataset) -> Panel:
    """The norm of the residual stream by layer, of extreme tokens and of others."""
    line = f"Mean over texts, with their range; {regimes_line(found)}"
    return Panel(plots.residual_norms(found), line, "Norm of the residual stream by layer")


def peak(measured: Mapping[str, xr.Dataset]) -> Drawn:
    """The coordinates of the peak, a column per model."""
    panels = [Panel(plots.peak_coordinates(found), peak_line(found)) for found in measured.values()]
    return side_by_side([*measured], panels, title="Coordinates of the token of largest norm")


def measure_sources(source: Source, request: FigureRequest) -> xr.Dataset:
    """`peak_sources` on some of the request's texts."""
    texts = [text for some in texts_of(request).values() for text in list(some)[:SOURCE_TEXTS]]
    request.step(f"{source.name}: zeroing each part")
    return kept(
        request.folder / source.name / "peak_sources.nc",
        source,
        {"texts": digest(texts), "max_tokens": MAX_TOKENS},
        lambda: peak_sources(source.model, texts, max_tokens=MAX_TOKENS, progress=False),
    )


def sources_of_peak(measured: Mapping[str, xr.Dataset]) -> Drawn:
    """The first token's norm without each part, a column per model."""
    panels = [Panel(plots.peak_sources(found), peak_verdict(found)) for found in measured.values()]
    title = "The first token's stream without a part of the model"
    return side_by_side([*measured], panels, title=title, gap=0.3)


def measure_training(source: Source, request: FigureRequest) -> xr.Dataset:
    """Extreme tokens over the training of an embedded model, whose record comes with it, or a folder of checkpoints."""
    request.step(f"{source.name}: following the training")
    record = source.record("dynamics.nc")
    if record:
        return open_result(record)
    texts = [text[:MAX_LETTERS] for some in texts_of(request).values() for text in list(some)[:SOURCE_TEXTS]]
    path = str(request.folder / source.name / "dynamics.nc")
    return training_dynamics(local_checkpoints(source.source), texts, resume=path, progress=False)


def training(measured: tuple[str, xr.Dataset]) -> Drawn:
    """Panels of figure 9 for one model."""
    name, found = measured
    return Drawn(training_panels(found, title=f"{name} over training"), f"{name}: {training_line(found)}")


def measure_domains(source: Source, request: FigureRequest) -> xr.Dataset:
    """`active_dormant` on the request's texts: 128 tokens of each, or 64 of the package's prose and code."""
    texts = kinds_of(request)
    length = DOMAIN_TOKENS if request.texts else KIND_TOKENS
    request.step(f"{source.name}: zeroing heads on {len(texts)} kinds of text")

    def measure() -> xr.Dataset:
        parts = anatomy(source.model)
        few = SHORTLIST if parts.n_layers * parts.n_heads > MANY_HEADS else None
        return wb.active_dormant(source.model, texts, length=length, shortlist=few, progress=False)

    return kept(
        request.folder / source.name / "domains.nc", source, {"texts": digest(texts), "length": length}, measure
    )


def kinds_of(request: FigureRequest) -> dict[str, list[Any]]:
    """The request's texts by domain, or the package's prose and code."""
    return {domain: list(some) for domain, some in (request.texts or {k: domain_texts()[k] for k in KINDS}).items()}


def woken(found: xr.Dataset) -> tuple[str, int, int]:
    """The pair of domains and the head that differ most, dormant in one and active in the other if any head is."""
    difference = abs(found["difference"].sel(score="loss_change")).transpose("pair", "layer", "head")
    wakes = waking_heads(found)
    candidates = (
        difference.where(xr.DataArray(wakes, dims=("layer", "head")) if wakes.any() else True).fillna(-1).values
    )
    pair, layer, head = np.unravel_index(int(candidates.argmax()), candidates.shape)
    return str(found["pair"].values[pair]), int(layer), int(head)


DOMAIN_ROW = 300
"""Pixels, so that three models fit on a page."""


def domains(measured: Mapping[str, xr.Dataset]) -> Drawn:
    """Figure 8: all heads, the texts of one that wakes, and one that attention misleads about."""
    rows, names = [], []
    misleading = {name: misleading_head(found) for name, found in measured.items()}
    for name, found in measured.items():
        pair, layer, head = woken(found)
        heatmap = waking_heatmap(found, pair).update_traces(
            selector={"type": "heatmap"}, colorbar_title_text=f"{pair} (nats)"
        )
        rows.append([heatmap, waking_scatter(found, layer, head)])
        names.append([name, f"layer {layer}, head {head}"])
        if (at := misleading[name]) and all(misleading.values()):
            rows[-1].append(waking_scatter(found, *at))
            names[-1].append(f"layer {at[0]}, head {at[1]}: rests, no effect")
    rows = [[cell.update_layout(height=DOMAIN_ROW) for cell in row] for row in rows]
    figure = compose.grid(rows, names, title="Change of the loss when a head is zeroed, by domain", gap=0.2)
    return Drawn(figure, told([*measured], [f"{domains_line(f)} {attention_line(f)}" for f in measured.values()]))


def measure_waking(source: Source, request: FigureRequest) -> tuple[xr.Dataset, xr.Dataset]:
    """`measure_domains`, and the attention of the head that differs most on a text of each domain."""
    found = measure_domains(source, request)
    _, layer, head = woken(found)
    texts = {domain: some[0] for domain, some in kinds_of(request).items()}
    return found, attention_maps(source.model, layer, head, texts)


def waking_head(measured: tuple[str, tuple[xr.Dataset, xr.Dataset]]) -> Drawn:
    """Attention maps of the head that differs most between domains, a domain beside the other, of one model."""
    name, (found, maps) = measured
    _, layer, head = woken(found)
    sentence = waking_sentences(found).sel(layer=layer, head=head).item()
    figure = waking_maps(maps, title=f"{name}, layer {layer}, head {head}: {sentence}")
    return Drawn(figure, f"{name}: layer {layer}, head {head} is {sentence}.")


def measure_remedies(source: Source, request: FigureRequest) -> xr.Dataset:
    """`compare_remedies` on the request's texts; on texts of the package where none are given."""
    texts = None if request.texts is None else {domain: list(some) for domain, some in request.texts.items()}
    request.step(f"{source.name}: measuring remedies")
    return kept(
        request.folder / source.name / "remedies.nc",
        source,
        {"texts": digest(texts), "length": DOMAIN_TOKENS},
        lambda: compare_remedies(source.model, texts, length=DOMAIN_TOKENS, progress=False),
    )


def remedies(measured: tuple[str, xr.Dataset]) -> Drawn:
    """What each remedy costs and reduces, of one model; below it, toy models trained otherwise."""
    name, found = measured
    shown = add_rows(found, retrained_rows(), domain="toy language")
    return Drawn(remedy_effects(shown, title=f"Remedies on {name}"), f"{name}: {remedies_line(found)}")


RECIPES = (
    FigureRecipe("active-dormant/extreme-tokens", extreme_tokens, each(measure_maps), PAIR),
    FigureRecipe("active-dormant/sinks", sinks, each(measure_extremes), PAIR),
    FigureRecipe("active-dormant/peak", peak, each(measure_extremes), PAIR),
    FigureRecipe("active-dormant/training", training, only(measure_training), PAIR[:1]),
    FigureRecipe("active-dormant/domains", domains, each(measure_domains), PAIR),
    FigureRecipe("active-dormant/waking-head", waking_head, only(measure_waking), PAIR[:1]),
    FigureRecipe("active-dormant/remedies", remedies, only(measure_remedies), PAIR[:1]),
    FigureRecipe("active-dormant/peak-sources", sources_of_peak, each(measure_sources), PAIR),
)
