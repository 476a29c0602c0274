"""Attaching interventions to a model: for any number of runs, nested, with proof that each hook fired.

Two things are looked at once per model, on four tokens: whether a pattern that is written is read back (GPT-J only
shows a copy), and whether its rows are a softmax. Interventions that are on the model are suspended meanwhile.
"""

import warnings
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.devices import device_of
from workbench.models.forward import HookFn, hooked, run
from workbench.protocol import HookedModel

ROW_SUM_TOLERANCE = 0.05
"""Rows of a softmax pattern sum to 1 up to bfloat16's rounding; ReLU attention and learned sinks miss it by far."""


@contextmanager
def editing(model: HookedModel, edits: Mapping[str, HookFn]) -> Generator[None]:
    """Attach edits to hook points for any number of runs, and prove on leaving that each run reached all of them.

    An edit returns what replaces the activation.
    """
    with hooked(model, dict.fromkeys(edits, lambda _: None), times=0):
        pass
    fired = dict.fromkeys(edits, 0)
    entered, finished = [0], [0]

    def enter(_activation: Tensor, hook: Any = None) -> None:
        entered[0] = 0 if model in _asleep else 1

    def finish(_activation: Tensor, hook: Any = None) -> None:
        finished[0] += entered[0]
        entered[0] = 0

    def edit(name: str, function: HookFn) -> Callable[..., Tensor | None]:
        def hook(activation: Tensor, hook: Any = None) -> Tensor | None:
            if model in _asleep:
                return None
            fired[name] += 1
            return function(activation)

        return hook

    hooks = [("blocks.0.hook_resid_pre", enter), *((name, edit(name, function)) for name, function in edits.items())]
    hooks.append((f"blocks.{int(model.cfg.n_layers) - 1}.hook_resid_post", finish))
    with model.hooks(fwd_hooks=hooks):
        yield
    missed = [name for name, n in fired.items() if n < finished[0]]
    if missed:
        raise InputError(
            f"The edit of '{missed[0]}' was reached {fired[missed[0]]} times in {finished[0]} runs: this architecture "
            "lists the hook point but does not compute the activation there, so the intervention did nothing."
        )


Change = Callable[[int, Tensor, Tensor], Tensor]
"""The layer, its chosen heads and their pattern `[batch, chosen, query, key]` to the pattern that replaces it."""

_asleep: weakref.WeakSet[Any] = weakref.WeakSet()
_looks: weakref.WeakKeyDictionary[Any, "Look"] = weakref.WeakKeyDictionary()


def editing_attention(
    model: HookedModel, chosen: Mapping[int, Tensor], change: Change, softmax: bool
) -> AbstractContextManager[None]:
    """Edit the patterns of chosen heads by layer; `softmax` where that makes sense only for rows of a softmax."""
    look = _look(model)
    if not look.reads_pattern:
        raise InputError(
            f"{anatomy(model).architecture} ignores what is written at hook_pattern: TransformerLens shows a copy "
            "there that the model does not read, so attention cannot be edited. Use clamp_values or zero_outputs."
        )
    if softmax and abs(look.row_sum - 1) > ROW_SUM_TOLERANCE:
        raise InputError(
            f"Attention rows of {anatomy(model).name} sum to {look.row_sum:.3f} instead of 1: it is no softmax over "
            "the keys (ReLU attention, or learned sinks as in GPT-OSS), so a key's weight cannot be shared among the "
            "others. Use clamp_values, force_attention or zero_outputs."
        )

    def edit(layer: int, heads: Tensor) -> HookFn:
        def hook(pattern: Pattern) -> Tensor:
            which = heads.to(pattern.device)
            changed = pattern.clone()
            changed[:, which] = change(layer, which, pattern[:, which]).to(pattern.dtype)
            return changed

        return hook

    return editing(model, {f"blocks.{layer}.attn.hook_pattern": edit(layer, heads) for layer, heads in chosen.items()})


@dataclass(frozen=True)
class Look:
    """How a model treats its attention pattern, seen on a few tokens."""

    reads_pattern: bool
    row_sum: float


@torch.no_grad()
def _look(model: HookedModel) -> Look:
    """Whether a pattern that is written changes z, and what rows sum to; looked at once per model."""
    if model not in _looks:
        vocab = anatomy(model).d_vocab
        tokens = torch.tensor([[3 % vocab, 5 % vocab, 4 % vocab, 7 % vocab]], device=device_of(model))
        before: dict[str, Tensor] = {}
        after: dict[str, Tensor] = {}
        patterns: list[Tensor] = []

        def keep(pattern: Tensor) -> Tensor:
            patterns.append(pattern)
            return 2 * pattern

        def told(kept: dict[str, Tensor]) -> dict[str, HookFn]:
            names = [f"blocks.{layer}.attn.hook_z" for layer in range(anatomy(model).n_layers)]
            return {name: lambda z, name=name: kept.__setitem__(name, z.clone()) for name in names}

        doubled = {name.replace("hook_z", "hook_pattern"): keep for name in told(after)}
        with suspended(model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A hook on attn.hook_pattern returned a modified tensor", UserWarning)
            with hooked(model, told(before)):
                run(model, tokens)
            with hooked(model, doubled | told(after)):
                run(model, tokens)
        sums = patterns[0].float().sum(-1)
        worst = sums.flatten()[(sums - 1).abs().argmax()]
        changed = any(not torch.equal(before[name], after[name]) for name in before)
        _looks[model] = Look(changed, float(worst))
    return _looks[model]


@contextmanager
def suspended(model: HookedModel) -> Generator[None]:
    """Suspend interventions that are already on the model, to look at the model itself."""
    new = model not in _asleep
    _asleep.add(model)
    try:
        yield
    finally:
        if new:
            _asleep.discard(model)


# Patterns.

Pattern = Float[Tensor, "batch head query key"]


def reweigh(pattern: Pattern, added: Float[Tensor, "*#owner #query #key"]) -> Pattern:
    """The softmax pattern with numbers added to its logits; rows that would sum to zero are kept as they are."""
    wide = torch.promote_types(pattern.dtype, torch.float32)
    added = added.to(wide)
    highest = added.amax(-1, keepdim=True).clamp(min=torch.finfo(wide).min)
    weights = pattern.to(wide) * (added - highest).exp()
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=torch.finfo(wide).tiny), pattern.to(wide))


def queries(pattern: Pattern) -> Int[Tensor, " query"]:
    """Positions of the queries; keys that were cached come before them."""
    return torch.arange(pattern.shape[-2], device=pattern.device) + pattern.shape[-1] - pattern.shape[-2]


def at_keys(keys: Int[Tensor, " row"], pattern: Pattern) -> Bool[Tensor, "batch 1 1 key"]:
    """Where the pattern's key is the chosen one."""
    _, where = rows(keys, pattern.shape[0], pattern.shape[-1], pattern.device)
    return (torch.arange(pattern.shape[-1], device=pattern.device) == where[:, None])[:, None, None]


def sees_keys(keys: Int[Tensor, " row"], pattern: Pattern) -> Bool[Tensor, "batch 1 query 1"]:
    """Which queries come at or after the chosen key."""
    _, where = rows(keys, pattern.shape[0], pattern.shape[-1], pattern.device)
    return (queries(pattern) >= where[:, None])[:, None, :, None]


def rows(keys: Tensor, batch: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of the batch and the chosen position in each."""
    require_inside(keys, length)
    if keys.numel() not in (1, batch):
        raise InputError(
            f"{keys.numel()} positions were given for the sequences, but {batch} sequences are run at once. Give one "
            "position for all, or one per sequence and run them in one batch."
        )
    return torch.arange(batch, device=device), keys.to(device).expand(batch)


def require_inside(keys: Tensor, length: int) -> None:
    """Refuse positions after the end of the tokens that are run."""
    if int(keys.max()) >= length:
        raise InputError(
            f"Position {int(keys.max())} does not exist: the tokens that are run have positions 0 to {length - 1}."
        )
