"""Light tuning against extreme tokens: a few hundred steps with a penalty on sinks or peaks.

1. The texts become windows of tokens that begin as the texts do, with BOS where there is one.
2. A copy of the model is trained by AdamW on next-token loss + strength × penalty, the penalty read by hooks:
   "sink": attention received above `level`, summed over keys, the mean over heads and layers. All keys count, not the
   first alone, so that a sink cannot escape by moving to another token.
   "peak": by how much the log of the largest token norm over the median one exceeds log `level`, the mean over layers.
3. `penalty=None` is the control: the same steps on the same windows with nothing discouraged. What tuning does by
   itself must not be put down to the penalty.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError, check_known
from workbench.models.anatomy import anatomy, kind_of
from workbench.models.attention import require_no_hooks
from workbench.models.devices import device_of
from workbench.models.forward import HookFn, hooked
from workbench.models.load import load
from workbench.models.original import thaw, unwrapped
from workbench.models.state import measures
from workbench.models.weights import require_changeable
from workbench.names import Penalty
from workbench.prompts.texts import digest, token_sequences
from workbench.protocol import HookedModel
from workbench.runs.progress import hidden
from workbench.runs.results import provenance

DEFAULTS: dict[Penalty, tuple[float, float]] = {"sink": (3.0, 0.15), "peak": (1.0, 2.0)}
"""Strength and level of each penalty."""
FEWEST_QUERIES = 8
"""A key that fewer queries of a window see is not penalised: the mean of a few passes any level by chance."""


@dataclass(frozen=True)
class LightTuningRecipe:
    """Settings of light tuning.

    Attributes:
        penalty: "sink", "peak" or None.
        strength: what the penalty is multiplied by; by default 3 (sink) or 1 (peak).
        level: attention received (sink) or norm over the median (peak) up to which nothing is penalised; by default
            0.15, half of what counts as a sink, and 2, which ordinary tokens stay below.
        steps: of AdamW.
        batch: windows per step.
        window: tokens per window.
        learning_rate: at the start; it falls linearly to zero.
        seed: of the order of windows.
    """

    penalty: Penalty | None = "sink"
    strength: float | None = None
    level: float | None = None
    steps: int = 100
    batch: int = 8
    window: int = 64
    learning_rate: float = 2e-4
    seed: int = 0

    def __post_init__(self):
        """Refuse what cannot be trained."""
        if self.penalty is not None:
            check_known("penalty", self.penalty, DEFAULTS, "Or None.")
        if self.steps < 1 or self.batch < 1 or self.window <= FEWEST_QUERIES:
            raise InputError(
                f"{self.steps} steps of {self.batch} windows of {self.window} tokens: give at least 1, 1 and "
                f"{FEWEST_QUERIES + 1}."
            )
        if self.weight < 0 or self.learning_rate <= 0 or self.limit <= 0:
            raise InputError(
                f"strength={self.strength} must not be negative, learning_rate={self.learning_rate} and "
                f"level={self.level} must be positive."
            )

    @property
    def weight(self) -> float:
        """The strength, given or by default."""
        return DEFAULTS.get(self.penalty or "", (0.0, 1.0))[0] if self.strength is None else self.strength

    @property
    def limit(self) -> float:
        """The level, given or by default."""
        return DEFAULTS.get(self.penalty or "", (0.0, 1.0))[1] if self.level is None else self.level

    @property
    def name(self) -> str:
        """Such as "tuned against the sink"."""
        return "tuned, nothing discouraged" if self.penalty is None else f"tuned against the {self.penalty}"


class LightlyTuned(NamedTuple):
    """A tuned copy and its record: `loss(step)` and `penalty(step)`."""

    model: HookedModel
    record: xr.Dataset


@measures
def tune_lightly(
    model: HookedModel,
    texts: Any,
    recipe: LightTuningRecipe | None = None,
    *,
    column: str = "text",
    progress: bool = True,
) -> LightlyTuned:
    """Tune a copy of the model for a few steps; the model itself stays as it is.

    Args:
        model: a model from `workbench.load`.
        texts: strings, lists of token ids or a `datasets.Dataset`, together at least one window of tokens.
        recipe: how; the default one discourages sinks.
        column: which column of a Dataset holds the texts.
        progress: show a bar.

    Returns:
        The copy, in evaluation mode and in the model's dtype (it is trained in float32 at least), and the record.

    Raises:
        InputError: too few tokens, hooks on the model, or training that diverges.
    """
    recipe, parts = recipe or LightTuningRecipe(), anatomy(model)
    require_no_hooks(model, "be copied")
    require_changeable(model, "tuning")
    sequences = token_sequences(model, texts, column=column)
    rows = windows(sequences, recipe.window)
    own = _cast(copied(model), torch.promote_types(getattr(torch, parts.dtype), torch.float32))
    own.requires_grad_(True)
    if kind_of(own) == "bridge":
        with unwrapped(own) as hf:
            thaw(hf)
    curves = _train(own, rows, recipe, progress)
    own = _cast(own.requires_grad_(False), getattr(torch, parts.dtype))
    object.__setattr__(own, "workbench_name", f"{parts.name}, {recipe.name}")
    settings = vars(recipe) | {"strength": recipe.weight, "level": recipe.limit}
    attrs = provenance(method="tune_lightly", model=parts.name, texts=digest(sequences), **settings)
    columns = {name: ("step", values) for name, values in curves.items()}
    return LightlyTuned(own, xr.Dataset(columns, {"step": np.arange(recipe.steps)}, attrs))


def copied(model: HookedModel) -> HookedModel:
    """A copy that shares nothing with the model; of a bridge its Hugging Face model is copied and wrapped anew.

    TransformerLens's components hold functions that write into each other, and a copy of them would write into the
    model that it was copied from.
    """
    if kind_of(model) != "bridge":
        return copy.deepcopy(model)
    with unwrapped(model) as hf:
        own = copy.deepcopy(hf)
    return load(own, tokenizer=getattr(model, "tokenizer", None))


def _cast(model: HookedModel, dtype: torch.dtype) -> HookedModel:
    """TransformerLens keeps the dtype in its configuration too, and would print that it changes."""
    return model if next(model.parameters()).dtype == dtype else model.to(dtype, print_details=False)


def windows(sequences: Sequence[Sequence[int]], window: int) -> Int[Tensor, "batch pos"]:
    """All tokens in rows of one length, each beginning with the token that all sequences begin with, if there is one.

    What is left over at the end is not used.
    """
    starts = {tokens[0] for tokens in sequences}
    start = list(starts) if len(starts) == 1 and len(sequences) > 1 else []
    stream = [t for tokens in sequences for t in tokens[len(start) :]]
    size = window - len(start)
    rows = [start + stream[i : i + size] for i in range(0, len(stream) - size + 1, size)]
    if not rows:
        raise InputError(
            f"The texts for tuning have {len(stream)} tokens, too few for one window of {window}. Give more text, or a "
            "smaller window."
        )
    return torch.tensor(rows)


def _train(own: Any, rows: Tensor, recipe: LightTuningRecipe, progress: bool) -> dict[str, list[float]]:
    parameters = list(own.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / recipe.steps)
    order = _order(len(rows), recipe)
    curves: dict[str, list[float]] = {"loss": [], "penalty": []}
    for step in tqdm(range(recipe.steps), desc=recipe.name, disable=hidden(progress), leave=False):
        tokens = rows[order[step]].to(device_of(own))
        with torch.enable_grad():
            loss, penalty = losses(own, tokens, recipe)
            (loss + recipe.weight * penalty).backward()
        if not (math.isfinite(loss.item()) and math.isfinite(penalty.item())):
            raise InputError(
                f"Tuning diverged at step {step} (loss {loss.item():.3g}, penalty {penalty.item():.3g}). Give a "
                "smaller learning_rate or strength."
            )
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        falling.step()
        curves["loss"].append(loss.item())
        curves["penalty"].append(penalty.item())
    return curves


def _order(n: int, recipe: LightTuningRecipe) -> Int[Tensor, "step batch"]:
    """Rows of each step: shuffled passes over all rows."""
    generator = torch.Generator().manual_seed(recipe.seed)
    passes = -(-recipe.steps * recipe.batch // n)
    order = torch.cat([torch.randperm(n, generator=generator) for _ in range(passes)])
    return order[: recipe.steps * recipe.batch].view(recipe.steps, recipe.batch)


def losses(model: HookedModel, tokens: Int[Tensor, "batch pos"], recipe: LightTuningRecipe) -> tuple[Tensor, Tensor]:
    """Next-token loss of a batch, and its penalty; 0 where nothing is discouraged.

    Args:
        model: a TransformerLens model.
        tokens: windows.
        recipe: what is discouraged, and from which level.
    """
    seen: list[Tensor] = []
    layers = range(int(model.cfg.n_layers))
    point = {"sink": "attn.hook_pattern", "peak": "hook_resid_post"}.get(recipe.penalty or "")
    penalise = sink_penalty if recipe.penalty == "sink" else peak_penalty

    def keep(activation: Tensor) -> None:
        seen.append(penalise(activation, recipe.limit).to(tokens.device))

    hooks: dict[str, HookFn] = {f"blocks.{layer}.{point}": keep for layer in layers} if point else {}
    with hooked(model, hooks):
        logits = rearrange(model(tokens)[:, :-1], "batch pos d_vocab -> (batch pos) d_vocab")
    wide = torch.promote_types(logits.dtype, torch.float32)
    loss = torch.nn.functional.cross_entropy(logits.to(wide), tokens[:, 1:].flatten())
    return loss, torch.stack(seen).mean() if seen else loss.new_zeros(())


def sink_penalty(pattern: Float[Tensor, "batch head query key"], level: float) -> Float[Tensor, ""]:
    """Mean attention of the queries that see a key above a level: summed over keys, mean over sequences and heads."""
    length = pattern.shape[-1]
    queries = torch.arange(length, 0, -1, device=pattern.device)
    received = (pattern.sum(-2) / queries)[..., : length - FEWEST_QUERIES + 1]
    return (received - level).clamp_min(0).sum(-1).mean()


def peak_penalty(resid: Float[Tensor, "batch pos d_model"], level: float) -> Float[Tensor, ""]:
    """By how much the log of the largest token norm, over the median one, exceeds that of a level."""
    norm = torch.linalg.vector_norm(resid, dim=-1)
    ratio = norm.amax(-1) / norm.median(-1).values.detach()
    return (ratio / level).log().clamp_min(0).mean()
