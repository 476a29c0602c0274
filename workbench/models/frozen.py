"""Runs in which nothing moves between tokens anew: what every mixer puts out is frozen, the rest is computed again.

A mixer is what moves information between tokens: attention, linear attention, a state-space mixer or a convolution.
Where its heads can be reached, what enters its output projection is frozen: each head's output, z, with a gate that an
architecture applies to it. Elsewhere its whole output is. The Hugging Face model itself runs, so this holds for every
block, also where branches cannot be recomputed one by one or where TransformerLens computes something else.
Interventions at TransformerLens's hook points are not seen.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy, anatomy
from workbench.models.blocks import mixer_module
from workbench.models.devices import device_of
from workbench.models.exact import relative_error
from workbench.models.forward import run
from workbench.models.original import inner_module, original_logits, unwrapped
from workbench.protocol import HookedModel

Address = tuple[int, str]
"""A layer and the name of a mixer in it, as in `Anatomy.mixers`."""
TOKENS = 8
"""Tokens on which a model is tried before its first use."""


@dataclass(frozen=True)
class Mixed:
    """What one run of one sequence leaves behind.

    Attributes:
        mixers: each mixer's z `[pos, head, d_head]` where it has heads, else its output `[pos, d_model]`.
        last: the stream in front of the final norm `[pos, d_model]`.
    """

    mixers: Mapping[Address, Float[Tensor, "pos *rest"]]
    last: Float[Tensor, "pos d_model"]


@dataclass(frozen=True)
class Sent:
    """What runs with frozen mixers take from another run, at some positions.

    Attributes:
        source: the other run.
        heads: the heads that each cell takes.
        whole: the layers of which each cell takes what mixers without heads put out.
        at: positions in the frozen run.
        at_source: the positions in the other run that they take from.
    """

    source: Mixed
    heads: Bool[Tensor, "cell layer head"]
    whole: Bool[Tensor, "cell layer"]
    at: list[int]
    at_source: list[int]


def mixed(model: HookedModel, parts: Anatomy, tokens: list[int]) -> Mixed:
    """Run one sequence and keep what its mixers put out."""
    kept: dict[Address, Tensor] = {}

    def keep(address: Address) -> Callable[[Tensor], None]:
        return lambda activation: kept.update({address: activation[0].clone()})

    last = _run(model, parts, torch.tensor([tokens], device=device_of(model)), {a: keep(a) for a in addresses(parts)})
    return Mixed(kept, last[0])


def refrozen(
    model: HookedModel, parts: Anatomy, tokens: list[int], frozen: Mixed, sent: Sent
) -> Float[Tensor, "cell pos d_model"]:
    """Run one sequence for each cell, all mixers frozen but for what is sent; the stream before the final norm."""
    cells = len(sent.heads)
    batch = repeat(torch.tensor(tokens, device=device_of(model)), "pos -> cell pos", cell=cells)
    return _run(model, parts, batch, {address: _freeze(parts, address, frozen, sent) for address in addresses(parts)})


def addresses(parts: Anatomy) -> list[Address]:
    """All mixers of a model."""
    return [(layer, name) for layer, names in enumerate(parts.mixers) for name in names]


def has_heads(parts: Anatomy, address: Address) -> bool:
    """Whether a mixer is attention whose heads can be reached."""
    return address[1] == "attn" and address[0] in parts.head_layers


def _freeze(parts: Anatomy, address: Address, frozen: Mixed, sent: Sent) -> Callable[[Tensor], Tensor]:
    layer, own, other = address[0], frozen.mixers[address], sent.source.mixers[address]
    headed = has_heads(parts, address)
    takes = sent.heads[:, layer, :, None] if headed else sent.whole[:, layer, None]

    def write(activation: Tensor) -> Tensor:
        rows = repeat(own.to(activation.device), "... -> cell ...", cell=len(takes)).clone()
        sent_rows = other.to(rows.device)[sent.at_source]
        rows[:, sent.at] = torch.where(takes[:, None].to(rows.device), sent_rows, rows[:, sent.at])
        return rows

    return write


def _run(
    model: HookedModel,
    parts: Anatomy,
    tokens: Int[Tensor, "batch pos"],
    functions: Mapping[Address, Callable[[Tensor], Tensor | None]],
) -> Float[Tensor, "batch pos d_model"]:
    """Run the blocks with a function at every mixer; the stream in front of the final norm."""
    ends: list[Tensor] = []
    fired: Counter[Address] = Counter()
    points = {address: _point(model, parts, address) for address in functions}
    norm = inner_module(model.ln_final)
    with unwrapped(model), ExitStack() as stack:
        for address, function in functions.items():
            if has_heads(parts, address):
                hook = _counted(fired, address, _entering(function, parts.n_heads))
                stack.enter_context(points[address].register_forward_pre_hook(hook))
            else:
                stack.enter_context(points[address].register_forward_hook(_counted(fired, address, _leaving(function))))
        stack.enter_context(norm.register_forward_pre_hook(lambda _module, args: ends.append(args[0])))
        run(model, tokens)
    for layer, name in functions:
        if fired[layer, name] != 1:
            raise InputError(
                f"in one pass, {name} of layer {layer} was called {fired[layer, name]} times instead of once"
            )
    if not ends:
        raise InputError("The final norm is not where the stream ends.")
    return ends[-1]


def _point(model: HookedModel, parts: Anatomy, address: Address) -> Any:
    """The Hugging Face module into which a mixer's heads go, or which is the mixer."""
    module = mixer_module(model, *address)
    return inner_module(module.o if has_heads(parts, address) else module)


def _counted(fired: Counter[Address], address: Address, hook: Callable[..., Any]) -> Callable[..., Any]:
    def counting(*given: Any) -> Any:
        fired[address] += 1
        return hook(*given)

    return counting


def _entering(function: Callable[[Tensor], Tensor | None], n_heads: int) -> Callable[..., Any]:
    """Show the heads' outputs, which enter a module side by side, and replace them by what the function returns."""

    def hook(_module: Any, args: tuple[Any, ...]) -> Any:
        new = function(rearrange(args[0], "batch pos (head d_head) -> batch pos head d_head", head=n_heads))
        return None if new is None else (rearrange(new, "batch pos head d_head -> batch pos (head d_head)"), *args[1:])

    return hook


def _leaving(function: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    """Show what a module puts out, the first of a tuple, and replace it by what the function returns."""

    def hook(_module: Any, _args: Any, out: Any) -> Any:
        new = function(out[0] if isinstance(out, tuple) else out)
        return (new, *out[1:]) if isinstance(out, tuple) and new is not None else new

    return hook


# The proof.


@torch.no_grad()
def frozen_error(model: HookedModel) -> float:
    """How far from exact freezing is, on a few tokens: a relative error.

    With all mixers frozen, the last token's stream must be the model's own whatever stands before it: else something
    else moves information between tokens, or what is written at a mixer is not read. And its logits must be recomputed
    from the stream before the final norm.

    Raises:
        InputError: this model's mixers cannot be frozen.
    """
    parts = anatomy(model)
    tokens = [(7 * i + 3) % parts.d_vocab for i in range(TOKENS)]
    others = [(5 * i + 11) % parts.d_vocab for i in range(TOKENS - 1)] + tokens[-1:]
    if parts.kind == "hooked" or not hasattr(model, "ln_final"):
        raise InputError("No final norm of a Hugging Face model is known, in front of which the stream could be read.")
    own = mixed(model, parts, tokens)
    for layer in parts.head_layers:
        attention = inner_module(mixer_module(model, layer, "attn"))
        width = getattr(attention, "v_head_dim", None) or getattr(attention, "head_dim", None)
        found = own.mixers[layer, "attn"].shape[-1] * parts.n_heads
        if width and found != parts.n_heads * width:
            raise InputError(
                f"Layer {layer} has {found / width:g} attention heads and the configuration says {parts.n_heads}."
            )
    nothing = torch.zeros((1, parts.n_layers, max(parts.n_heads, 1)), dtype=torch.bool)
    again = refrozen(model, parts, others, own, Sent(own, nothing, nothing.any(2), [-1], [-1]))
    logits = original_logits(model, torch.tensor([tokens], device=device_of(model)))
    errors = [relative_error(again[0, -1], own.last[-1])]
    errors += [] if logits is None else [relative_error(parts.unembed(own.last), logits[0])]
    return max(errors)
