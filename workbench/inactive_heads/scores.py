"""How much does each head do on each text? Scores per sequence, layer and head.

1. The texts run through the model once; no logits are computed.
2. Per layer, the scores asked for read values, attention or z, and nothing else is kept: eleven of the fifteen never
   look at attention, and the other four see it in chunks of queries, in memory O(chunk × length).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm.auto import tqdm

from workbench.inactive_heads.definitions import HeadScore, scores_named
from workbench.inactive_heads.reading import Reader
from workbench.models.anatomy import Anatomy, require_heads
from workbench.models.attention import has_hooks, observe, way_of_reading
from workbench.models.devices import device_of, devices_of
from workbench.models.forward import pad
from workbench.models.grams import Grams, grams
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.names import HeadScoreName
from workbench.prompts.templates import beginning
from workbench.prompts.texts import digest, token_sequences
from workbench.protocol import HookedModel
from workbench.runs.batching import Batches, BatchSize
from workbench.runs.progress import hidden
from workbench.runs.run import Run


@measures
@torch.no_grad()
def head_scores(
    model: HookedModel,
    texts: Any,
    scores: Iterable[HeadScoreName | HeadScore] | HeadScoreName | HeadScore | None = None,
    *,
    mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
    max_tokens: int | None = None,
    compat: bool = False,
    chunk: int | Literal["auto"] = "auto",
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.DataArray:
    """Score every head on every text.

    Args:
        model: a TransformerLens model; interventions that are active on it are seen.
        texts: strings, dialogues, lists of token ids, a token tensor or a `datasets.Dataset`.
        scores: names of the paper's scores or of your own, or `TokenScore`s; None gives the paper's fifteen.
        mask: 1 where a token of a tensor is real; padding on either side gives the same numbers.
        max_tokens: longer texts are cut after so many tokens.
        compat: as the authors' released code, which pads with token 0 and lets the padded queries count in AWFT and
            AEQD: these then depend on what else is in the batch.
        chunk: queries at a time.
        batch_size: texts at a time; "auto" measures how many fit.
        resume: the netCDF file of the result: finished batches are kept beside it, and a stopped run goes on from them.
        progress: show a bar.

    Returns:
        A DataArray (score, sequence, layer, head) with the coordinates `inactive(score)`, the side of a threshold on
        which a head counts as inactive, and `length(sequence)`; NaN in layers without heads (attrs `headless`).

    Raises:
        InputError: an unknown score, no texts, an empty one, one longer than the model's context, or a resumed
            run of another configuration.
    """
    wanted = scores_named(scores)
    parts = require_heads(model)
    sequences = token_sequences(model, texts, mask=mask, max_tokens=max_tokens)
    weights = fingerprint(model)
    known = grams(model, parts, weights)

    def work(some: list[int]) -> xr.Dataset:
        values = _score(model, parts, known, wanted, [sequences[i] for i in some], compat, chunk)
        return xr.Dataset({"value": (("example", "score", "layer", "head"), values)})

    facts = {
        "method": "head_scores",
        "model": parts.name,
        "weights": weights,
        "texts": digest(sequences),
        "scores": [s.name for s in wanted],
        "compat": compat,
        "bos": beginning(getattr(model, "tokenizer", None), sequences),
        "attention": way_of_reading(model, chunk),
        "hooks_active": has_hooks(model),
    }
    with Run(resume, **facts) as run:
        found = run.finished
        if found is None:
            left = sorted(run.left(len(sequences)), key=lambda i: -len(sequences[i]))
            done = len(sequences) - len(left)
            bar = tqdm(total=len(sequences), initial=done, desc="Head scores", disable=hidden(progress))
            run.over(left, Batches(devices_of(model), batch_size), work, bar.update)
            bar.close()
            values = run.joined(len(sequences))["value"].transpose("score", "example", "layer", "head").values
            table = labelled(values, wanted, [len(ids) for ids in sequences], {})
            found = run.finish(table.to_dataset(), **parts.facts)
        return found["value"].assign_attrs(found.attrs)


def labelled(values: np.ndarray, scores: list[HeadScore], lengths: list[int], facts: dict[str, Any]) -> xr.DataArray:
    """Scores `[score, sequence, layer, head]` with their labels."""
    coords = {
        "score": [s.name for s in scores],
        "inactive": ("score", [s.inactive for s in scores]),
        "length": ("sequence", lengths),
    }
    return xr.DataArray(values, dims=("score", "sequence", "layer", "head"), coords=coords, attrs=facts, name="value")


def _score(
    model: HookedModel,
    parts: Anatomy,
    known: Grams,
    scores: list[HeadScore],
    sequences: list[list[int]],
    compat: bool,
    chunk: int | Literal["auto"],
) -> np.ndarray:
    """Scores of one batch, (sequence, score, layer, head)."""
    tokens, last = pad(sequences, device_of(model))
    real = torch.arange(tokens.shape[1], device=last.device) <= last[:, None]
    if compat:
        tokens = tokens.masked_fill(~real, 0)
    reader = Reader(parts, known, scores, real, compat)
    observe(
        model,
        tokens,
        attention=(lambda chunk: reader.pattern(chunk.layer, chunk.pattern, chunk.start)) if reader.functions else None,
        attended=reader.attended if reader.functions and reader.fusable else None,
        values=reader.values if reader.reads_values else None,
        z=reader.z,
        chunk=chunk,
    )
    layers = {layer: torch.stack(list(found.values()), 1) for layer, found in reader.found.items()}
    unknown = torch.full_like(next(iter(layers.values())), torch.nan)
    return torch.stack([layers.get(layer, unknown) for layer in range(parts.n_layers)], 2).cpu().numpy()
