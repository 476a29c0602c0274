"""Runs of the Hugging Face model itself, without TransformerLens's components around its modules.

Where nothing is read or written but the stream and z, this computes the same in less time: no hook points are passed,
attention is fused where the architecture allows it, blocks below the first that changes are skipped, and the last block
computes queries, output projection and MLP only where the stream is read behind it. Interventions at TransformerLens's
hook points would not be seen, so a model that carries any runs as a bridge (`runs_bare`).
"""

import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.models.anatomy import Anatomy, anatomy, kind_of
from workbench.models.attention import has_hooks
from workbench.models.capture import capture
from workbench.models.devices import device_of, devices_of
from workbench.models.forward import (
    can_skip,
    copies,
    entering,
    noting_tuples,
    prefix_cache,
    replaced_forward,
    run,
    skipping,
    supports_prefix,
)
from workbench.models.original import fused_attention, inner_module, unwrapped
from workbench.models.state import modules_of
from workbench.protocol import HookedModel

Rows = tuple[Int[Tensor, "..."], Int[Tensor, "..."]]
"""Which positions of which sequences are read: indices of both, which broadcast to two axes of rows."""


@dataclass(frozen=True)
class Read:
    """What a run leaves behind at the rows that are read.

    Attributes:
        z: each head's output in every layer that has heads.
        first: the stream in front of layer 0.
        last: the stream behind the last layer.
    """

    z: dict[int, Float[Tensor, "row read head d_head"]]
    first: Float[Tensor, "row read d_model"]
    last: Float[Tensor, "row read d_model"]


def read_bare(
    model: HookedModel, parts: Anatomy, tokens: Int[Tensor, "batch pos"], rows: Rows, past: Any = None
) -> Read:
    """Run right-padded sequences, possibly behind a prefix from `prefix_cache`, whose `past` is consumed."""
    z: dict[int, Tensor] = {}
    first: list[Tensor] = []

    def heads(layer: int) -> Callable[[Tensor], None]:
        split = partial(rearrange, pattern="row read (head d_head) -> row read head d_head", head=parts.n_heads)
        return lambda x: z.update({layer: split(_at(x, rows))})

    with ExitStack() as stack:
        for layer in parts.head_layers:
            stack.enter_context(_seeing(inner_module(model.blocks[layer].attn.o), heads(layer)))
        stack.enter_context(_seeing(inner_module(model.blocks[0]), lambda x: first.append(_at(x, rows))))
        last = _run(model, tokens, rows, past)
    return Read(z, first[0], last)


def continue_bare(
    model: HookedModel,
    layer: int,
    resid: Float[Tensor, "batch pos d_model"],
    tokens: Int[Tensor, "batch pos"],
    past: Any,
    rows: Rows,
) -> Float[Tensor, "row read d_model"]:
    """Run blocks `layer` and above on a given stream, as `forward.run_from` does; the stream behind the last one."""
    blocks = [inner_module(block) for block in model.blocks]
    with skipping(blocks, layer), entering(blocks[layer], resid):
        return _run(model, tokens, rows, past)


def rows_of(sequences: int, positions: Sequence[int], device: torch.device) -> Rows:
    """The same positions of so many sequences: rows `[sequence, position]`."""
    return torch.arange(sequences, device=device)[:, None], torch.tensor(list(positions), device=device)[None]


def _run(model: HookedModel, tokens: Tensor, rows: Rows, past: Any) -> Tensor:
    ends: list[Tensor] = []
    with unwrapped(model) as hf, _fused(hf), ExitStack() as stack:
        stack.enter_context(noting_tuples(inner_module(model.blocks[0])))
        for module in _by_position(model.blocks[-1]):
            stack.enter_context(_only_at(module, rows))
        stack.enter_context(_seeing(inner_module(model.ln_final), lambda x: ends.append(_at(x, rows))))
        run(model, tokens, past)
    return ends[0]


def _fused(hf: Any) -> AbstractContextManager[None]:
    """Fused attention, but in float64, for which many architectures take the softmax in float32: it stays so."""
    return nullcontext() if next(hf.parameters()).dtype == torch.float64 else fused_attention(hf)


def _at(activation: Tensor, rows: Rows) -> Tensor:
    return activation[rows[0].to(activation.device), rows[1].to(activation.device)]


def _seeing(module: nn.Module, see: Callable[[Tensor], None]) -> Any:
    """A hook that shows what enters a module."""

    def hook(_module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        see(args[0] if args else keywords["hidden_states"])

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _by_position(block: Any) -> Iterator[nn.Module]:
    """The modules of a block that compute each position by itself and whose output no other position reads."""
    attention = getattr(block, "attn", None)
    for component in (getattr(attention, "q", None), getattr(attention, "o", None), getattr(block, "mlp", None)):
        if component is not None:
            yield inner_module(component)


@contextmanager
def _only_at(module: nn.Module, rows: Rows) -> Generator[None]:
    """Let a module compute some rows only; what it puts out at others, which nothing reads, is 0."""
    whole = module.forward

    def forward(x: Tensor, *more: Any, **keywords: Any) -> Any:
        if more or keywords:
            return whole(x, *more, **keywords)
        out = whole(_at(x, rows))
        computed = out[0] if isinstance(out, tuple) else out
        full = computed.new_zeros(*x.shape[:2], computed.shape[-1])
        full[rows[0].to(x.device), rows[1].to(x.device)] = computed
        return (full, *out[1:]) if isinstance(out, tuple) else full

    with replaced_forward(module, forward):
        yield


# The proof.


def runs_bare(model: HookedModel) -> bool:
    """Whether a model can run bare now: on one device, untouched, and proved on a few tokens against the bridge."""
    spread = len(devices_of(model)) > 1 or any(parameter.is_meta for parameter in model.parameters())
    if kind_of(model) == "hooked" or spread or not _untouched(model) or not can_skip(model):
        return False
    if model not in _proved:
        _proved[model] = _same(model)
    return _proved[model]


def _untouched(model: HookedModel) -> bool:
    """Whether nothing was added to TransformerLens's modules, which a bare run leaves out."""
    if has_hooks(model):
        return False
    for _, module in modules_of(model):
        names = {cls.__name__ for cls in type(module).__mro__}
        if names.isdisjoint(("GeneralizedComponent", "HookPoint")):
            continue
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if "forward" in vars(module) or any(
            not str(getattr(hook, "__module__", "")).startswith("transformer_lens.") for hook in hooks
        ):
            return False
    return True


_proved: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


@torch.no_grad()
def _same(model: HookedModel) -> bool:
    """Whether streams and z agree with the bridge's, of whole runs and of those that begin in the middle."""
    parts = anatomy(model)
    tokens = torch.tensor([[(7 * i + 3) % parts.d_vocab for i in range(8)]], device=device_of(model))
    starts = sorted({0, 1, parts.n_layers - 1} - {parts.n_layers})
    names = [f"blocks.{layer}.hook_resid_pre" for layer in starts]
    names += [f"blocks.{layer}.attn.hook_z" for layer in parts.head_layers]
    end = f"blocks.{parts.n_layers - 1}.hook_resid_post"
    shared, some = 4 if supports_prefix(model) else 0, [0, 3, 7]
    try:
        own = capture(model, tokens.tolist(), dict.fromkeys([*names, end], lambda activation: activation))
        found = read_bare(model, parts, tokens, rows_of(1, some, tokens.device))
        pairs = [(found.first, own[names[0]][:, some]), (found.last, own[end][:, some])]
        pairs += [(z, own[f"blocks.{layer}.attn.hook_z"][:, some]) for layer, z in found.z.items()]
        for layer, name in zip(starts, names, strict=False):
            past = copies(prefix_cache(model, tokens[:, :shared].tolist()), 2)
            resid, rest = (x[:, shared:].repeat_interleave(2, 0) for x in (own[name], tokens))
            rows = rows_of(2, [0, rest.shape[1] - 1], tokens.device)
            last = continue_bare(model, layer, resid, rest, past, rows)
            pairs.append((last, own[end][:, [shared, 7]].expand(2, -1, -1)))
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError, NotImplementedError):
        return False
    limit = {"float64": 1e-5, "float32": 1e-3}.get(parts.dtype, 0.1)
    return all(float((a - b).double().norm()) <= limit * float(b.double().norm()) for a, b in pairs)
