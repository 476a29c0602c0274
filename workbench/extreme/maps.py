"""Attention patterns of all heads in chosen layers on one text, for plots."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.attention import Chunk, observe
from workbench.models.devices import device_of
from workbench.models.state import measures
from workbench.prompts.texts import token_sequences, words
from workbench.protocol import HookedModel
from workbench.runs.results import provenance


@measures
def patterns(
    model: HookedModel, text: Any, *, layers: Sequence[int] | None = None, max_tokens: int | None = 256
) -> xr.Dataset:
    """The attention of every head of some layers on one text.

    Args:
        model: a TransformerLens model.
        text: a string or token ids.
        layers: which layers; all by default.
        max_tokens: the text is cut after so many tokens: a map has their square many numbers.

    Returns:
        A Dataset with `pattern(layer, head, query, key)` and `token(key)`, as `plot.attention` takes it.

    Raises:
        InputError: several texts, or a layer that does not exist.
    """
    shape = anatomy(model)
    wanted = list(range(shape.n_layers)) if layers is None else list(layers)
    wrong = [layer for layer in wanted if not 0 <= layer < shape.n_layers]
    if wrong or not wanted:
        raise InputError(f"layers={wanted}: {shape.name} has the layers 0 to {shape.n_layers - 1}; name at least one.")
    sequences = token_sequences(model, text, max_tokens=max_tokens)
    if len(sequences) > 1:
        raise InputError(f"{len(sequences)} texts; a map is of one text. Give one of them.")
    n = len(sequences[0])
    kept = np.zeros((len(wanted), shape.n_heads, n, n), dtype=np.float32)

    def take(chunk: Chunk) -> None:
        if chunk.layer in wanted:
            rows = slice(chunk.start, chunk.start + chunk.pattern.shape[2])
            kept[wanted.index(chunk.layer), :, rows, : chunk.pattern.shape[3]] = chunk.pattern[0].float().cpu().numpy()

    observe(model, torch.tensor(sequences, device=device_of(model)), attention=take)
    return xr.Dataset(
        {"pattern": (("layer", "head", "query", "key"), kept)},
        coords={"layer": wanted, "head": np.arange(shape.n_heads), "token": ("key", words(model, sequences)[0])},
        attrs=provenance(model=shape.name, n_layers=shape.n_layers, n_heads=shape.n_heads, group_size=shape.group_size),
    )
