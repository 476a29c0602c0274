"""Removing a part of a trained toy model: all measures without it, and what the model does on one sequence.

A part's output is set to zero by a hook; everything downstream is recomputed. Without the copying head the bigram
loss stays as it is and the backcopy loss explodes; without the layers in front of it the residual peak goes, and with
it the drain.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import einsum
from torch import Tensor

from workbench.bigram_backcopy.measures import DIMS, measure
from workbench.bigram_backcopy.model import Toy
from workbench.bigram_backcopy.task import Task
from workbench.bigram_backcopy.training import EVALUATION_SEED, Trained
from workbench.errors import InputError
from workbench.models.devices import device_of
from workbench.models.forward import hooked
from workbench.runs.results import provenance

Part = tuple[int, str]


def without(model: Toy, parts: Iterable[Part]) -> AbstractContextManager[None]:
    """Run a model with the output of some parts set to zero, inside a `with` block.

    Parts are layers and "attn" or "mlp", such as `[(0, "attn"), (0, "mlp")]` for the whole layer 0.

    Raises:
        InputError: a layer or part that the model does not have.
    """
    names = []
    for layer, part in parts:
        if not 0 <= layer < model.cfg.n_layers or part not in ("attn", "mlp"):
            raise InputError(
                f"There is no part {(layer, part)!r} in a model of {model.cfg.n_layers} layers; a part is a layer "
                "from 0 and 'attn' or 'mlp', such as (0, 'attn')."
            )
        names.append(f"blocks.{layer}.hook_{part}_out")

    return model.hooks(fwd_hooks=[(name, lambda activation, hook: torch.zeros_like(activation)) for name in names])


def interventions(trained: Trained, *, sequences: int = 128, length: int | None = None) -> xr.Dataset:
    """All measures of the full models, and of the models without each part and without each layer.

    They are taken on `sequences` fixed sequences of `length` positions (None takes the model's context).

    Returns:
        Dataset with dims intervention, seed, layer, head. Interventions are called "none", "no attention 0",
        "no MLP 0", "no layer 0", ... (layers with one part have no separate names for it).
    """
    shape = trained.models[0].architecture
    cuts: dict[str, list[Part]] = {"none": []}
    for layer in range(shape.n_layers):
        present: list[Part] = [(layer, part) for part in ("attn", "mlp") if shape.has(layer, part)]
        if len(present) > 1:
            words = {"attn": "attention", "mlp": "MLP"}
            cuts |= {f"no {words[part]} {layer}": [(layer, part)] for layer, part in present}
        cuts[f"no layer {layer}"] = present
    tokens = trained.task.sample(sequences, length or shape.n_ctx, seed=EVALUATION_SEED)
    tokens = tokens.to(device_of(trained.models[0]))
    rows = []
    for parts in cuts.values():
        for model in trained.models:
            with without(model, parts):
                rows.append(measure(model, trained.task, tokens))
    values = {name: torch.stack([row[name] for row in rows]).unflatten(0, (len(cuts), -1)).numpy() for name in DIMS}
    return xr.Dataset(
        {name: (("intervention", "seed", *dims), values[name]) for name, dims in DIMS.items()},
        coords={
            "intervention": list(cuts),
            "seed": trained.record["seed"].values,
            "layer": np.arange(shape.n_layers),
            "head": np.arange(shape.n_heads),
        },
        attrs=provenance(
            model=trained.models[0].cfg.model_name, step=int(trained.record["step"][-1]), sequences=sequences
        ),
    )


def look_at(model: Toy, task: Task, symbols: Sequence[str]) -> xr.Dataset:
    """What a model does on a sequence of tokens, such as `["<s>", "v", " ", "v"]`, for `workbench.plot`.

    Returns:
        Dataset with `pattern(layer, head, query, key)`, `value_norm(layer, head, position)`,
        `residual_norm(layer, position)`, and coordinates `token` and `trigger`.
    """
    ids = task.encode(symbols)
    found: dict[str, list[Tensor]] = {"pattern": [], "value_norm": [], "residual_norm": []}
    hooks = {}
    blocks: Any = model.blocks
    for layer, block in enumerate(blocks):
        hooks[f"blocks.{layer}.attn.hook_pattern"] = lambda p: found["pattern"].append(p[0])
        hooks[f"blocks.{layer}.attn.hook_v"] = lambda v, out=block.attn.W_O: found["value_norm"].append(
            einsum(v[0], out, "pos head d_head, head d_head d_model -> head pos d_model").norm(dim=-1)
        )
        hooks[f"blocks.{layer}.hook_resid_post"] = lambda x: found["residual_norm"].append(x[0].norm(dim=-1))
    with torch.no_grad(), hooked(model, hooks):
        model(torch.tensor([ids], device=device_of(model)))
    values = {name: torch.stack(parts).float().cpu().numpy() for name, parts in found.items()}
    where = np.arange(len(ids))
    return xr.Dataset(
        {
            "pattern": (("layer", "head", "query", "key"), values["pattern"]),
            "value_norm": (("layer", "head", "position"), values["value_norm"]),
            "residual_norm": (("layer", "position"), values["residual_norm"]),
        },
        coords={
            "layer": np.arange(model.cfg.n_layers),
            "head": np.arange(model.cfg.n_heads),
            **dict.fromkeys(("query", "key", "position"), where),
            "token": ("key", list(symbols)),
            "trigger": ("position", [i in task.trigger_ids for i in ids]),
        },
        attrs=provenance(model=model.cfg.model_name),
    )
