"""Supervised pinpoint tuning: train chosen heads or KV groups on dialogues, and keep all other weights.

Chen et al. 2024 (arXiv 2409.01658); groups: Hara et al. 2026.

1. The Hugging Face model inside the bridge is copied; the given model stays as it is.
2. The chosen units become small trainable parameters (`slices`, `deltas`).
3. They learn the last turn of every dialogue (`tokens`, `training`).
4. The deltas are merged, and the copy is wrapped again. Every number outside the units keeps its bits.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy, anatomy
from workbench.models.attention import require_no_hooks
from workbench.models.forward import require_positions
from workbench.models.identity import fingerprint
from workbench.models.load import load
from workbench.models.original import fuses_attention, unwrapped
from workbench.models.state import measures
from workbench.models.weights import require_changeable
from workbench.protocol import HookedModel
from workbench.runs.processes import gathered, process_state
from workbench.runs.run import Run
from workbench.runs.state import StateFile
from workbench.tuning.deltas import Tunable
from workbench.tuning.recipe import TuningRecipe
from workbench.tuning.slices import rows_of_outputs, slices_of
from workbench.tuning.tokens import digest, rows_of
from workbench.tuning.training import TuningTask, repeat, train
from workbench.tuning.units import Units, units_of


class Tuned(NamedTuple):
    """A tuned copy and its record: `loss`, `learning_rate` and `gradient_norm` over `update`, `validation` over `step`.

    The loss of an update is that of its batch before the update; step n is the model after n updates.
    """

    model: HookedModel
    record: xr.Dataset


@measures
def pinpoint_tune(
    model: HookedModel,
    dialogues: Sequence[Any],
    units: Any,
    *,
    recipe: TuningRecipe | None = None,
    kv: bool | None = None,
    validation: Sequence[Any] = (),
    every: int = 20,
    template_kwargs: Mapping[str, Any] | None = None,
    resume: Any = None,
    progress: bool = True,
) -> Tuned:
    """Tune a copy of a model in chosen heads or KV groups only.

    Args:
        model: a bridge from `workbench.load` whose tokenizer has a chat template.
        dialogues: lists of messages, each ending in the assistant's turn to learn; `training_dialogues` makes some.
        units: a `Selection` (from `workbench.select_units`, or one of its random controls), a list of (layer, head)
            pairs, "attention" (all four projections of every layer) or "all".
        recipe: how; by default as in the paper.
        kv: tune the key and value rows that the heads read too; by default where no two heads share them.
        validation: dialogues whose loss is followed and never learnt from.
        every: updates between two measurements of the validation loss, and between two states on disk.
        template_kwargs: further variables of the chat template, see `workbench.prompts.render`.
        resume: a file that keeps the run's state, so that the same call goes on after a kill.
        progress: show a bar.

    Returns:
        The tuned copy, in evaluation mode and in the model's dtype, and its record. The record's attributes say what
        was tuned and `lost_in_rounding`, the share of the change that the model's dtype could not hold.

    Raises:
        InputError: units of another model, dialogues without a reply, active hooks, a loss that is not finite.
    """
    recipe, parts = recipe or TuningRecipe(), anatomy(model)
    _refuse(model, parts, every)
    chosen = units_of(parts, units, kv)
    given: dict[str, Any] = {"max_length": recipe.max_length, "template_kwargs": template_kwargs}
    rows = rows_of(model, dialogues, loss_on=recipe.loss_on, **given)
    held = rows_of(model, validation, **given) if len(validation) else []
    require_positions(model, max(len(row.tokens) for row in [*rows, *held]))
    facts = _facts(model, parts, chosen, recipe, every) | {
        "dialogues": len(rows),
        "dialogues_digest": digest(rows),
        "validation_digest": digest(held),
    }
    run = Run(method="pinpoint_tune", **facts)
    own, tunable = _tunable_copy(model, parts, chosen)
    with nullcontext() if resume is None else StateFile(resume, facts) as file:
        curves = train(TuningTask(own, tunable, recipe, rows, held, every, file), progress=progress)
    if tunable.sharded:
        values = gathered(tunable.parameters)
        own, tunable = _tunable_copy(model, parts, chosen)
        repeat(tunable, recipe, values, recipe.steps)
    attrs = run.facts(
        tuned_parameters=tunable.count,
        processes=process_state().num_processes,
        lost_in_rounding=tunable.merge(),
        parameters=sum(p.numel() for p in own.parameters()),
        device=parts.device,
        dtype=parts.dtype,
    )
    own = own.to(next(model.parameters()).device, getattr(torch, parts.dtype))
    tuned = load(own, tokenizer=model.tokenizer)
    columns = {name: ("step" if name == "validation" else "update", values) for name, values in curves.items()}
    coords = {"update": np.arange(recipe.steps), "step": np.arange(recipe.steps + 1)}
    record = xr.Dataset(columns, coords, attrs)
    object.__setattr__(tuned, "workbench_name", f"{parts.name}, tuned")
    object.__setattr__(tuned, "workbench_tuning", record)
    return Tuned(tuned, record)


def _facts(model: HookedModel, parts: Anatomy, chosen: Units, recipe: TuningRecipe, every: int) -> dict[str, Any]:
    """What a run depends on besides its dialogues."""
    return {
        "model": parts.name,
        "weights": fingerprint(model),
        "units": chosen.label,
        "unit": chosen.kind,
        "heads": [list(head) for head in chosen.heads],
        "kv": chosen.kv,
        "every": every,
        **recipe.settings(),
    }


def _tunable_copy(model: HookedModel, parts: Anatomy, chosen: Units) -> tuple[Any, Tunable]:
    """The Hugging Face model once more, with its slices attached; whole parameters are trained in float32 at least."""
    with unwrapped(model) as hf:
        own = copy.deepcopy(hf)
    slices = slices_of(own, parts, chosen)
    if slices.whole:
        own = own.to(torch.promote_types(getattr(torch, parts.dtype), torch.float32))
    if fuses_attention(own):
        own.set_attn_implementation("sdpa")
    return own, Tunable(own, slices)


def parameter_count(model: HookedModel, units: Any, kv: bool | None = None) -> int:
    """How many numbers a tuning of these units would train; `units` and `kv` are those of `pinpoint_tune`."""
    parts = anatomy(model)
    _refuse(model, parts, 1)
    with unwrapped(model) as hf:
        slices = slices_of(hf, parts, units_of(parts, units, kv))
        shapes = {name: p.numel() for name, p in hf.named_parameters()}
        total = sum(shapes[name] for name in slices.whole)
        for part in slices.parts:
            module: Any = hf.get_submodule(part.module)
            outputs, inputs = rows_of_outputs(module).shape
            biases = int(part.side == "out" and module.bias is not None)
            total += len(part.index) * ((inputs if part.side == "out" else outputs) + biases)
    return total


def _refuse(model: HookedModel, parts: Anatomy, every: int) -> None:
    if parts.kind != "bridge":
        raise InputError(
            f"{parts.name} is a HookedTransformer, and tuning works on the Hugging Face model inside a "
            "TransformerBridge. Load the same weights with backend='bridge'."
        )
    require_no_hooks(model, "not be copied")
    require_changeable(model, "tuning")
    if every < 1:
        raise InputError(f"every={every} must be at least 1: updates between two measurements of the validation loss.")
