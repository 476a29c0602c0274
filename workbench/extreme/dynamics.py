"""Extreme tokens over training: the same measures at every checkpoint, one model in memory at a time.

Followed are the first token, the first delimiter of each text and the mean of the other tokens: attention they
receive, value norm through W_O, sink logit over visible keys, residual norm (Guo et al., arXiv 2410.13835, fig. 9).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.extreme.consequences import compare_interventions
from workbench.extreme.detect import extreme_tokens
from workbench.models.checkpoints import OLMO_7B_0424 as OLMO_7B_0424
from workbench.models.checkpoints import PYTHIA as PYTHIA
from workbench.models.checkpoints import Measure, measure_checkpoints
from workbench.models.checkpoints import hub_checkpoints as hub_checkpoints
from workbench.models.checkpoints import local_checkpoints as local_checkpoints
from workbench.models.state import measures
from workbench.prompts.texts import token_sequences, words
from workbench.protocol import HookedModel

DELIMITERS = (".", "\n")
"""Tokens that are one of these, spaces aside, are delimiters."""


def training_dynamics(
    checkpoints: Mapping[int, Any],
    texts: Any,
    *,
    measure: Measure | None = None,
    resume: str | Path | None = None,
    device: Any = None,
    dtype: Any = None,
    progress: bool = True,
) -> xr.Dataset:
    """Follow extreme tokens, or another measure, over the checkpoints of a training.

    Args:
        checkpoints: as for `workbench.models.checkpoints.measure_checkpoints`: step to a source of `workbench.load`.
        texts: the same for all checkpoints.
        measure: a model and the texts to a Dataset; by default `follow_tokens`.
        resume: a netCDF file: finished checkpoints are kept beside it, and a run that was stopped goes on from them.
        device: where to load.
        dtype: in what to load.
        progress: show a bar.

    Returns:
        What `measure` gives with the dimension `step` in front, in the order of steps.

    Raises:
        InputError: no checkpoints, one that cannot be loaded, a resume file of another run.
    """
    return measure_checkpoints(
        checkpoints,
        texts,
        measure or follow_tokens,
        method="training_dynamics",
        resume=resume,
        device=device,
        dtype=dtype,
        progress=progress,
    )


@measures
def follow_tokens(
    model: HookedModel,
    texts: Any,
    *,
    tokens: Mapping[str, int | Sequence[int]] | None = None,
    delimiters: Sequence[str] = DELIMITERS,
    max_tokens: int | None = None,
) -> xr.Dataset:
    """Measures of one model at named tokens and at the mean of the others, averaged over texts.

    Args:
        model: a model from `workbench.load`.
        texts: strings, lists of token ids or a token tensor.
        tokens: names to positions, one for all texts or one per text (-1 where a text has none); by default "first"
            and, where the texts have any, "delimiter", the first delimiter after the first token.
        delimiters: what counts as one.
        max_tokens: longer texts are cut after so many tokens.

    Returns:
        sink_weight, sink_logit and value_norm `(layer, head, token)`, residual_norm `(layer, token)`, with `token`
        the names and "other"; sink_rate `(layer, head)`, drain_ratio `(layer, kv_head)` and peak_ratio `(layer)` of
        `extreme_tokens`; loss, in nats per prediction.
    """
    sequences = token_sequences(model, texts, max_tokens=max_tokens)
    judged = extreme_tokens(model, sequences, progress=False)
    found = judged.reset_coords(["token", "token_id", "length"]).drop_vars(["token", "length"])
    named = _default_tokens(model, sequences, delimiters) if tokens is None else _given_tokens(tokens, sequences)
    real = found["token_id"] >= 0
    marked = {name: (found["position"] == xr.DataArray(where, dims="sequence")) & real for name, where in named.items()}
    other = real & ~xr.concat(marked.values(), "name").any("name")
    marks = xr.concat([*marked.values(), other], "token").assign_coords(token=[*marked, "other"])
    followed = {
        "sink_weight": found["sink_weight"],
        "sink_logit": found["sink_logit"],
        "value_norm": found["head_value_norm"],
        "residual_norm": found["residual_norm"],
    }
    means = {name: _mean(values, marks) for name, values in followed.items()}
    result = xr.Dataset(means | {name: found[name] for name in ("sink_rate", "drain_ratio", "peak_ratio")})
    loss = compare_interventions(model, sequences, {}, progress=False)["loss"].values.mean()
    keep = ("model", "architecture", "weights", "n_layers", "n_heads", "n_kv_heads", "group_size")
    thresholds = {name: value for name, value in found.attrs.items() if str(name).startswith("threshold_")}
    coords = {dim: np.arange(result.sizes[dim]) for dim in ("layer", "head", "kv_head")}
    return (
        result.assign(loss=((), loss))
        .assign_coords(coords)
        .assign_attrs({name: found.attrs[name] for name in keep} | thresholds)
    )


def _mean(values: xr.DataArray, marks: xr.DataArray) -> xr.DataArray:
    """The mean over a text's marked tokens and then over texts; NaN where no text has one."""
    by_text = (values.where(marks)).mean("position").mean("sequence")
    return by_text.transpose(..., "token")


def _default_tokens(
    model: HookedModel, sequences: Sequence[Sequence[int]], delimiters: Sequence[str]
) -> dict[str, list[int]]:
    found = [
        next((i for i, word in enumerate(text) if i and word.strip(" ") in delimiters), -1)
        for text in words(model, sequences)
    ]
    return {"first": [0] * len(sequences)} | ({"delimiter": found} if max(found) > 0 else {})


def _given_tokens(
    tokens: Mapping[str, int | Sequence[int]], sequences: Sequence[Sequence[int]]
) -> dict[str, list[int]]:
    named = {
        name: [where] * len(sequences) if isinstance(where, int) else list(where) for name, where in tokens.items()
    }
    for name, where in named.items():
        wrong = [i for i, (p, s) in enumerate(zip(where, sequences, strict=False)) if not -1 <= p < len(s)]
        if len(where) != len(sequences) or wrong or name == "other":
            raise InputError(
                f"tokens: {name!r} needs a name other than 'other' and one position for each of the {len(sequences)} "
                f"texts, inside it or -1; got {str(where)[:60]}."
            )
    return named
