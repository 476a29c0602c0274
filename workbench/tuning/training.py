"""Training loop of pinpoint tuning: AdamW on a few parameters of a Hugging Face model.

1. A batch is cut into forward passes of rows of similar length. The loss is the mean over all labelled tokens of the
   batch, so the cut changes nothing but memory.
2. A loss or gradient that is not finite stops the run before the update; the weights are those of the last good one.
3. Every few updates the state is kept, and a run that finds one goes on from it with the very curve it would have had.
4. Several processes share the passes (`processes`): the curve and the weights are those of one.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.models.original import half_precision
from workbench.runs.processes import Processes, shard_like
from workbench.runs.progress import hidden
from workbench.runs.state import Curves, StateFile
from workbench.tuning.deltas import Tunable
from workbench.tuning.recipe import TuningRecipe
from workbench.tuning.tokens import IGNORED, Row, padded

CURVES = ("loss", "validation", "learning_rate", "gradient_norm")


@dataclass(frozen=True)
class TuningTask:
    """Model with its slices, dialogues and settings of one run; `validation` is looked at every so many updates."""

    hf: Any
    tunable: Tunable
    recipe: TuningRecipe
    rows: Sequence[Row]
    validation: Sequence[Row]
    every: int
    file: StateFile | None = None


def train(task: TuningTask, *, progress: bool = True) -> Curves:
    """Train the slices in place.

    Returns:
        Per update `loss` (of its batch, before it), `learning_rate` and `gradient_norm`; and `validation` over 0 to
        `steps` updates made, NaN where it was not measured.
    """
    recipe = task.recipe
    adamw = torch.optim.AdamW(
        task.tunable.parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    run = Processes(task.hf, adamw)
    curves: Curves = {name: np.full(recipe.steps + (name == "validation"), np.nan) for name in CURVES}
    begin = task.file.restore(run, task.tunable.parameters, curves) if task.file else 0
    _leak(task.tunable, recipe, map(recipe.rate, range(begin)))
    order = recipe.order(len(task.rows)).tolist()
    if begin == 0:
        curves["validation"][0] = _mean_loss(run, task.validation, recipe.micro_batch)
    shown = progress and run.first
    for step in tqdm(range(begin, recipe.steps), desc="pinpoint tuning", disable=hidden(shown), leave=False):
        loss = _accumulate(run, [task.rows[i] for i in order[step]], recipe.micro_batch)
        norm = run.clip(list(task.tunable.parameters.values()), recipe.clip)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise _diverged(task, run, curves, step, loss, norm, order[step])
        rate = recipe.rate(step)
        _update(task, run, rate)
        for name, value in (("loss", loss), ("learning_rate", rate), ("gradient_norm", norm)):
            curves[name][step] = value
        done = step + 1
        if done % task.every == 0 or done == recipe.steps:
            curves["validation"][done] = _mean_loss(run, task.validation, recipe.micro_batch)
            if task.file:
                task.file.keep(run, done, task.tunable.parameters, curves)
    run.release()
    return curves


@torch.no_grad()
def _mean_loss(run: Processes, rows: Sequence[Row], micro_batch: int) -> float:
    """Mean loss over the labelled tokens of some dialogues; NaN for none."""
    if not rows:
        return math.nan
    own = run.share(_cuts(rows, micro_batch), _idle(rows))
    return run.summed(sum(float(summed_loss(run.model, cut)) for cut in own)) / sum(row.labels for row in rows)


def summed_loss(hf: Any, rows: Sequence[Row]) -> Tensor:
    """Summed next-token loss over the labelled tokens of some dialogues, run in one pass."""
    own = extract_model_from_parallel(hf)
    tokens, labels = padded(rows, own.device)
    keep = tokens.shape[1] - min(row.start for row in rows) + 1
    keywords: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(own.forward).parameters:
        keywords["logits_to_keep"] = keep
    with half_precision(next(own.parameters())):
        logits = hf(input_ids=tokens, **keywords).logits
    logits = rearrange(logits[:, -keep:], "batch pos d_vocab -> (batch pos) d_vocab")
    wide = torch.promote_types(logits.dtype, torch.float32)
    return functional.cross_entropy(logits.to(wide), labels[:, -keep:].flatten(), ignore_index=IGNORED, reduction="sum")


def _accumulate(run: Processes, rows: Sequence[Row], micro_batch: int) -> float:
    """Add up the gradients of a batch's mean loss, and return that loss."""
    labels, loss = sum(row.labels for row in rows), 0.0
    for cut in run.passes(_cuts(rows, micro_batch), _idle(rows)):
        with torch.enable_grad():
            part = summed_loss(run.model, cut) / labels
            run.backward(part)
        loss += part.item()
    return run.summed(loss)


def _cuts(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    """Rows of similar length together, so that little is padding."""
    by_length = sorted(rows, key=lambda row: len(row.tokens))
    return [by_length[i : i + size] for i in range(0, len(by_length), size)]


def _idle(rows: Sequence[Row]) -> Sequence[Row]:
    """A pass without labels, for a process that has none left."""
    return [Row(rows[0].tokens[:1], 1)]


def _update(task: TuningTask, run: Processes, rate: float) -> None:
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    run.optimizer.zero_grad()
    _leak(task.tunable, task.recipe, [rate])


@torch.no_grad()
def _leak(tunable: Tunable, recipe: TuningRecipe, rates: Iterable[float]) -> None:
    """What AdamW does to a whole matrix whose gradient is masked, on request: all of it shrinks, at each update."""
    for rate in rates if recipe.leak else ():
        for weight in tunable.touched:
            weight.mul_(1 - rate * recipe.weight_decay)


@torch.no_grad()
def repeat(tunable: Tunable, recipe: TuningRecipe, values: Mapping[str, Tensor], steps: int) -> None:
    """Bring fresh slices to where `steps` updates of a recipe have brought others, whose full `values` are given."""
    for name, parameter in tunable.parameters.items():
        parameter.copy_(shard_like(values[name], parameter))
    _leak(tunable, recipe, map(recipe.rate, range(steps)))


def _diverged(
    task: TuningTask, run: Processes, curves: Curves, step: int, loss: float, norm: float, chosen: list[int]
) -> InputError:
    kept = "Nothing was kept: give resume= a file to keep the state."
    if task.file:
        task.file.keep(run, step, task.tunable.parameters, curves)
        kept = f"The last good state, after {step} updates, is in {task.file.path}."
    return InputError(
        f"Tuning stopped at update {step}: loss {loss:.3g}, gradient norm {norm:.3g}, on dialogues "
        f"{', '.join(map(str, chosen[:8]))}{' and others' if len(chosen) > 8 else ''}. {kept} Give a smaller "
        "learning_rate, or a wider dtype than float16."
    )
