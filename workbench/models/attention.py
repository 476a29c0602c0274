"""Reading attention on long texts: the model runs once, and its attention is passed to a function in chunks of queries.

A pattern has `head × length²` numbers per layer and does not fit where texts are long. Here the Hugging Face
modules run with an attention function of ours, which computes the pattern of a few queries at a time, shows it,
adds its z and forgets it: exact, in memory O(chunk × length). It knows causal masks, sliding windows, soft caps
and learned sinks (GPT-OSS), and is compared with the model's own attention on a few tokens before its first use.

Where only sums over queries are asked for, `fused.py` takes the place of the chunks: z by a fused function, the sums by
one pass over the products. It is compared with the chunks on a few tokens before its first use on a model.

Where that cannot be, the pattern is read whole through TransformerLens's hooks: on architectures that don't take
an attention function (GPT-J, BLOOM, Falcon), on HookedTransformers, and while other hooks are on the
model, so that an intervention's effect is seen.
"""

import contextlib
import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AttentionInterface

from workbench.errors import InputError
from workbench.models import fused, kernels
from workbench.models.anatomy import Anatomy, anatomy, kind_of, require_heads
from workbench.models.devices import device_of
from workbench.models.exact import require_original
from workbench.models.forward import hooked, require_positions, run
from workbench.models.original import inner_module, unwrapped
from workbench.models.state import hooks_of
from workbench.protocol import HookedModel

NAME = "workbench_in_chunks"
_BUDGET = {"cpu": 2**20, "cuda": 2**27}
"""Numbers in one chunk's pattern: what stays in a CPU's cache, and what keeps a GPU busy."""
_LOG_ZERO = -104.0
"""The logarithm of what float32 rounds to zero: the logit given to a visible key whose weight vanished."""


@dataclass(frozen=True)
class Chunk:
    """The attention of consecutive queries in one layer.

    Attributes:
        layer: the layer.
        start: position of the first query.
        logits: what goes into the softmax, -inf where a key is not visible; keys are positions 0, 1, ….
            Where the pattern is read through hooks of a Bridge, its logarithm: equal up to a number per query.
        pattern: what the values are weighted by.
        visible: which keys the mask lets each query see.
    """

    layer: int
    start: int
    logits: Float[Tensor, "batch head query key"]
    pattern: Float[Tensor, "batch head query key"]
    visible: Bool[Tensor, "query key"]


@dataclass(frozen=True)
class Observers:
    """Functions that read a run; each is called once per layer (`attention` once per chunk), `embed` once.

    `attended` is called in place of `attention` where attention is fused.
    """

    attention: Callable[[Chunk], None] | None = None
    attended: Callable[[fused.Attended], None] | None = None
    values: Callable[[int, Tensor], None] | None = None
    z: Callable[[int, Tensor], None] | None = None
    embed: Callable[[Tensor], None] | None = None
    resid_post: Callable[[int, Tensor], None] | None = None


@torch.no_grad()
def observe(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    *,
    attention: Callable[[Chunk], None] | None = None,
    attended: Callable[[fused.Attended], None] | None = None,
    values: Callable[[int, Tensor], None] | None = None,
    z: Callable[[int, Tensor], None] | None = None,
    embed: Callable[[Tensor], None] | None = None,
    resid_post: Callable[[int, Tensor], None] | None = None,
    chunk: int | Literal["auto"] = "auto",
) -> None:
    """Run the blocks once and call the given functions with what they compute, on the device of its layer.

    No logits are computed.

    Args:
        model: a TransformerLens model.
        tokens: token ids, right-padded; positions after a row's end are computed like any other.
        attention: gets each `Chunk` of each layer.
        attended: gets the attention of each layer that can be fused, which `attention` does not get then.
        values: gets the layer and its values `[batch, pos, kv_head, d_head]`; like z and attention only of layers
            that have heads.
        z: gets the layer and z `[batch, pos, head, d_head]`.
        embed: gets the stream in front of the first layer `[batch, pos, d_model]`.
        resid_post: gets the layer and the stream after it `[batch, pos, d_model]`.
        chunk: queries at a time; by default as many as fit a fixed budget of memory, or all in a fused function.

    Raises:
        InputError: a model without attention heads, or a chunk below 1.
    """
    if chunk != "auto" and chunk < 1:
        raise InputError(f"chunk={chunk} queries at a time; give at least 1, or 'auto'.")
    require_heads(model)
    wanted = Observers(attention, attended, values, z, embed, resid_post)
    if streams(model):
        if attended and (chunk != "auto" or not fuses(model)):
            wanted = replace(wanted, attended=None)
        _observe_chunks(model, tokens, wanted, chunk)
    else:
        require_original(model)
        _observe_hooks(model, tokens, wanted)


def streams(model: HookedModel) -> bool:
    """Whether attention can be read in chunks now; otherwise its pattern is materialised, layer by layer."""
    if kind_of(model) == "hooked" or has_hooks(model):
        return False
    if model not in _streamable:
        _streamable[model] = _proved(model)
    return _streamable[model]


def fuses(model: HookedModel) -> bool:
    """Whether sums over the queries of attention are read without its pattern, where a layer allows it."""
    if not streams(model):
        return False
    if model not in _fusable:
        _fusable[model] = _fused_proved(model)
    return _fusable[model]


def way_of_reading(model: HookedModel, chunk: int | Literal["auto"]) -> str:
    """How sums over the queries of attention are read now, for a result's attributes."""
    if not streams(model):
        return "materialised"
    return "fused" if chunk == "auto" and fuses(model) else "in chunks"


def has_hooks(model: HookedModel) -> bool:
    """Whether any hook point of the model carries a hook, such as an intervention's."""
    return any(hooks_of(point) for point in model.hook_dict.values())


def require_no_hooks(model: HookedModel, consequence: str, name: str = "this model") -> None:
    """Refuse a model with an intervention on it, which would `consequence`, such as "not be copied"."""
    if has_hooks(model):
        raise InputError(f"An intervention is active on {name} and would {consequence}. Leave its `with` block first.")


_streamable: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
_fusable: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


@torch.no_grad()
def _proved(model: HookedModel) -> bool:
    """Whether the model's stream is the same with attention in chunks as with its own attention."""
    hf, parts = model.original_model, anatomy(model)
    if not hf._can_set_attn_implementation() or getattr(hf.config, "attention_chunk_size", None):
        return False
    tokens = _few_tokens(model)
    layers: list[int] = []
    ends: list[Tensor] = []
    last = Observers(
        resid_post=lambda layer, resid: ends.append(resid.double()) if layer == parts.n_layers - 1 else None
    )
    counted = replace(last, values=lambda layer, _values: layers.append(layer))
    try:
        with unwrapped(model) as own, _reading_stream(model, last):
            own.base_model(input_ids=tokens, use_cache=False)
        _observe_chunks(model, tokens, counted, 5)
    except _FAILURES:
        return False
    return tuple(layers) == parts.head_layers and _close(ends[1], ends[0], parts)


@torch.no_grad()
def _fused_proved(model: HookedModel) -> bool:
    """Whether the stream and what each token receives are the same with fused attention as in chunks."""
    parts = anatomy(model)
    tokens = _few_tokens(model)
    ends: list[Tensor] = []
    received: list[dict[int, Tensor]] = [{}, {}]
    counted = torch.ones_like(tokens, dtype=torch.bool)
    last = Observers(resid_post=lambda layer, resid: ends.append(resid) if layer == parts.n_layers - 1 else None)
    for found, size in zip(received, (tokens.shape[1], "auto"), strict=True):

        def of_chunk(chunk: Chunk, found: dict[int, Tensor] = found) -> None:
            found[chunk.layer] = chunk.pattern.sum(-2)

        def of_fused(seen: fused.Attended, found: dict[int, Tensor] = found) -> None:
            found[seen.layer] = seen.over_queries(counted.to(seen.query.device)).received

        wanted = replace(last, attention=of_chunk, attended=of_fused if size == "auto" else None)
        try:
            _observe_chunks(model, tokens, wanted, size)
        except (*_FAILURES, *kernels.FAILURES):
            return False
    pairs = [(ends[1], ends[0]), *((received[1][layer], received[0][layer]) for layer in parts.head_layers)]
    return all(_close(found, wanted, parts) for found, wanted in pairs)


_FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, KeyError, StopIteration)


def _few_tokens(model: HookedModel) -> Int[Tensor, "batch pos"]:
    return (torch.arange(12, device=device_of(model)) * 7 + 3)[None] % int(model.cfg.d_vocab)


def _close(found: Tensor, wanted: Tensor, parts: Anatomy) -> bool:
    limit = {"float64": 1e-5, "float32": 1e-3}.get(parts.dtype, 0.1)
    return float((found.double() - wanted.double()).norm()) <= limit * float(wanted.double().norm())


# In chunks, with an attention function of ours in the Hugging Face modules.


def _observe_chunks(model: HookedModel, tokens: Tensor, wanted: Observers, chunk: int | Literal["auto"]) -> None:
    require_positions(model, tokens.shape[1])
    parts = anatomy(model)
    into = {layer: inner_module(model.blocks[layer].attn.o) for layer in parts.head_layers}
    with (
        unwrapped(model) as hf,
        _attending(hf, wanted, chunk, parts.head_layers),
        _reading_stream(model, wanted),
        contextlib.ExitStack() as hooks,
    ):
        if wanted.z:
            for layer, module in into.items():
                hooks.enter_context(module.register_forward_pre_hook(_heads_entering(layer, parts.n_heads, wanted.z)))
        hf.base_model(input_ids=tokens, use_cache=False)


@contextlib.contextmanager
def _attending(hf: Any, wanted: Observers, chunk: int | Literal["auto"], head_layers: Sequence[int]) -> Generator[None]:
    """Let the modules attend in chunks, in the order of the layers with heads, and call the observers."""
    left = iter(head_layers)

    def attend(_module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **given: Any) -> Any:
        layer = next(left)
        if wanted.values:
            wanted.values(layer, rearrange(value, "batch kv_head pos d_value -> batch pos kv_head d_value"))
        found = fused.attend(query, key, value, layer, given) if wanted.attended else None
        if found is None or wanted.attended is None:
            return attend_in_chunks(query, key, value, layer, wanted.attention, chunk, given), None
        z, seen = found
        wanted.attended(seen)
        return z, None

    before = hf.config._attn_implementation
    AttentionInterface.register(NAME, attend)
    hf.set_attn_implementation(NAME)
    try:
        yield
    finally:
        hf.set_attn_implementation(before)
        AttentionInterface._global_mapping.pop(NAME, None)


def attend_in_chunks(
    query: Float[Tensor, "batch head pos d_head"],
    key: Float[Tensor, "batch kv_head pos d_head"],
    value: Float[Tensor, "batch kv_head pos d_value"],
    layer: int,
    observer: Callable[[Chunk], None] | None,
    chunk: int | Literal["auto"],
    given: dict[str, Any],
) -> Float[Tensor, "batch pos head d_value"]:
    """Causal attention of rotated queries and keys, `chunk` queries at a time.

    Query head h reads KV head `h // group_size`. `given` is what the model hands to its attention function: `scaling`,
    `softcap`, `sliding_window` and `s_aux`, the logit of a learned sink per head.
    """
    batch, heads, length, width = query.shape
    kv_heads = key.shape[1]
    scaling = given.get("scaling") or width**-0.5
    special = any(given.get(name) is not None for name in ("softcap", "sliding_window", "s_aux"))
    if observer is None and not special:
        z = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=kv_heads != heads
        )
        return rearrange(z, "batch head pos d_value -> batch pos head d_value")
    size = chunk_size(batch * heads, length, query.device) if chunk == "auto" else chunk
    out = query.new_empty(batch, length, heads, value.shape[-1])
    # Plain views: with einops in this loop, scores of short texts take 8 % longer.
    for start in range(0, length, size):
        stop = min(start + size, length)
        rows = query[:, :, start:stop].reshape(batch, kv_heads, -1, width)
        logits = (rows @ key[:, :, :stop].transpose(-1, -2)).view(batch, heads, stop - start, stop)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * scaling
        if given.get("softcap"):
            logits = given["softcap"] * torch.tanh(logits / given["softcap"])
        visible = torch.ones(stop - start, stop, dtype=torch.bool, device=query.device).tril_(start)
        if window := given.get("sliding_window"):
            visible.triu_(start - window + 1)
        logits = logits.masked_fill_(~visible, -torch.inf)
        pattern = _softmax(logits, given.get("s_aux"))
        if observer:
            observer(Chunk(layer, start, logits, pattern, visible))
        weights = pattern.to(value.dtype).view(batch, kv_heads, -1, stop)
        z = (weights @ value[:, :, :stop]).view(batch, heads, stop - start, -1)
        out[:, start:stop] = z.transpose(1, 2)
    return out


def chunk_size(rows: int, length: int, device: torch.device) -> int:
    """Queries at a time so that a chunk's pattern stays within the budget of numbers of its device."""
    return max(1, min(length, _BUDGET.get(device.type, _BUDGET["cpu"]) // (rows * length)))


def _softmax(logits: Tensor, sinks: Tensor | None) -> Tensor:
    if sinks is None:
        return logits.softmax(-1)
    batch, _, query, _ = logits.shape
    column = repeat(sinks.to(logits.dtype), "head -> batch head query 1", batch=batch, query=query)
    return torch.cat([logits, column], -1).softmax(-1)[..., :-1]


@contextlib.contextmanager
def _reading_stream(model: HookedModel, wanted: Observers) -> Generator[None]:
    """Hooks on the Hugging Face layers for the stream in front of the first and after each."""
    with contextlib.ExitStack() as hooks:
        for i, block in enumerate(model.blocks):
            layer = inner_module(block)
            if i == 0 and wanted.embed:
                hooks.enter_context(layer.register_forward_pre_hook(_entering(wanted.embed), with_kwargs=True))
            if wanted.resid_post:
                hooks.enter_context(layer.register_forward_hook(_leaving(i, wanted.resid_post)))
        yield


def _heads_entering(layer: int, n_heads: int, tell: Callable[[int, Tensor], None]) -> Callable[..., None]:
    """The outputs of all heads side by side, as the output projection gets them: with a gate where there is one."""
    return lambda _module, args: tell(
        layer, rearrange(args[0], "batch pos (head d_value) -> batch pos head d_value", head=n_heads)
    )


def _entering(tell: Callable[[Tensor], None]) -> Callable[..., None]:
    return lambda _module, args, keywords: tell(args[0] if args else keywords["hidden_states"])


def _leaving(layer: int, tell: Callable[[int, Tensor], None]) -> Callable[..., None]:
    return lambda _module, _args, out: tell(layer, out[0] if isinstance(out, tuple) else out)


# Through TransformerLens's hooks, with the pattern of a layer materialised.


def _observe_hooks(model: HookedModel, tokens: Tensor, wanted: Observers) -> None:
    hooks: dict[str, Callable[[Tensor], None]] = {}
    parts = anatomy(model)
    for layer in range(parts.n_layers):
        at = f"blocks.{layer}."
        if layer == 0 and wanted.embed:
            hooks[at + "hook_resid_pre"] = wanted.embed
        told: dict[str, Any] = {"hook_resid_post": wanted.resid_post}
        if layer in parts.head_layers:
            told |= {"attn.hook_v": wanted.values, "attn.hook_z": wanted.z}
            hooks |= _pattern_hooks(parts.kind, layer, wanted.attention) if wanted.attention else {}
        hooks |= {at + name: partial(tell, layer) for name, tell in told.items() if tell}
    with hooked(model, hooks):
        run(model, tokens)


def _pattern_hooks(kind: str, layer: int, observer: Callable[[Chunk], None]) -> dict[str, Callable[[Tensor], None]]:
    """Hooks that show a whole layer as one chunk; scores are read where they are what goes into the softmax."""
    at = f"blocks.{layer}.attn."
    scores: list[Tensor] = []

    def show(pattern: Tensor) -> None:
        weights = pattern.to(torch.promote_types(pattern.dtype, torch.float32))
        logits = scores.pop().to(weights.dtype) if scores else weights.log()
        visible = (logits > torch.finfo(weights.dtype).min / 2).any(0).any(0)
        logits = logits.clamp_min(_LOG_ZERO).masked_fill(~visible, -torch.inf)
        observer(Chunk(layer, 0, logits, weights, visible))

    hooks: dict[str, Callable[[Tensor], None]] = {at + "hook_pattern": show}
    if kind == "hooked":
        hooks[at + "hook_attn_scores"] = scores.append
    return hooks
