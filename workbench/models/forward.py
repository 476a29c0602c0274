"""Running a model from its first or a later layer, with hooks that must fire.

Sequences of unequal length are padded on the RIGHT and no mask is used: attention is causal, so no real token
can see what follows it, and positions count from 0 in every row. This equals running each sequence alone, for
every kind of position embedding and for sliding windows, which left padding with a mask does not (a fully
masked row of a float64 softmax is NaN).
"""

import copy
import inspect
import warnings
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from workbench.errors import InputError, WorkbenchWarning, suggest
from workbench.models.anatomy import kind_of
from workbench.models.devices import device_of
from workbench.models.state import without_hooks
from workbench.protocol import HookedModel

CHOOSING = ("glm_moe_dsa", "deepseek_v32")
"""Models whose attention chooses among the keys of the tokens."""
HookFn = Callable[[Tensor], Tensor | None]
"""Sees an activation, on the device of its layer; returns what replaces it there, or None to leave it as it is."""


@contextmanager
def hooked(model: HookedModel, hooks: Mapping[str, HookFn], times: int = 1) -> Generator[None]:
    """Attach functions of the activation to hook points, and prove on leaving that each fired `times` times.

    Raises:
        InputError: a name that the model does not have, before anything runs; or a hook that did not fire as
            often as it should, which means that this architecture never computes that activation.
    """
    known = model.hook_dict
    for name in hooks:
        if name not in known:
            raise InputError(f"No hook point '{name}' in this model: " + suggest(name, _names_like(model, name)))
    fired = dict.fromkeys(hooks, 0)

    def counted(name: str, function: HookFn) -> Callable[..., Tensor | None]:
        def hook(activation: Tensor, hook: Any = None) -> Tensor | None:
            fired[name] += 1
            return function(activation)

        return hook

    with model.hooks(fwd_hooks=[(name, counted(name, function)) for name, function in hooks.items()]):
        yield
    for name, n in fired.items():
        if n != times:
            raise InputError(
                f"The hook on '{name}' fired {n} times instead of {times}: this architecture lists the hook "
                "point but does not compute the activation there, so nothing read from or written to it can be "
                "trusted."
            )


def _names_like(model: HookedModel, name: str) -> list[str]:
    """The hook points of the same layer, or of the first, and those outside the layers."""
    own = ".".join(name.split(".")[:2]) + "."
    layer = own if any(known.startswith(own) for known in model.hook_dict) else "blocks.0."
    return sorted(n for n in model.hook_dict if n.startswith(layer) or not n.startswith("blocks."))


def pad(sequences: list[list[int]], device: Any) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
    """One tensor, padded on the right with each row's own last token, and the last real positions.

    How long each row is stays known as long as the tensor lives; see `real_tokens`.
    """
    length = max(len(s) for s in sequences)
    rows = [s + [s[-1]] * (length - len(s)) for s in sequences]
    tokens, last = torch.tensor(rows, device=device), torch.tensor([len(s) - 1 for s in sequences], device=device)
    _last[tokens] = last
    return tokens, last


def real_tokens(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"] | None:
    """Which positions of a tensor from `pad` hold real tokens; None for a tensor of other origin.

    For interventions that decide by a whole sequence and see no mask, since none is used where padding stands right.
    """
    last = _last.get(tokens)
    return None if last is None else torch.arange(tokens.shape[1], device=tokens.device) <= last[:, None]


_last: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def run(model: HookedModel, tokens: Int[Tensor, "batch pos"], past: Any = None) -> None:
    """Run all blocks on right-padded tokens; hooks read the activations. No logits are computed.

    `past` holds the keys and values of a shared prefix, from `prefix_cache`; it is consumed (the run appends to it).
    """
    require_positions(model, tokens.shape[1], past)
    if kind_of(model) == "hooked":
        model(tokens, stop_at_layer=model.cfg.n_layers, attention_mask=torch.ones_like(tokens))
        return
    keywords: dict[str, Any] = {"use_cache": _is_olmo(model)}
    if past is not None:
        keywords = {"use_cache": True, cache_keyword(model.original_model.base_model): past}
    with noting_tuples(model.blocks[0]):
        model.original_model.base_model(input_ids=tokens, **keywords)


def require_positions(model: HookedModel, length: int, past: Any = None) -> None:
    """Refuse sequences for which a model has no positions; warn of those that are longer than what it was trained on.

    Args:
        model: a TransformerLens model.
        length: tokens of the longest sequence.
        past: keys and values of what stands before them.

    Raises:
        InputError: positions come from a table, which is shorter; or attention would choose among the keys.
    """
    limit = int(getattr(model.cfg, "n_ctx", 0) or 0)
    length += past.get_seq_length() if past is not None else 0
    config = getattr(getattr(model, "original_model", None), "config", None)
    chosen = int(getattr(config, "index_topk", 0)) if getattr(config, "model_type", "") in CHOOSING else 0
    if chosen and length > chosen:
        raise InputError(
            f"A sequence has {length} tokens, and attention of this model chooses {chosen} keys for each query "
            "(index_topk). Which of equal ones it takes depends on the padding, so batches of longer sequences are not "
            f"measured. Cut texts with max_tokens={chosen}."
        )
    if not limit or length <= limit:
        return
    if _has_position_table(model):
        raise InputError(
            f"A sequence has {length} tokens, but the model's context has {limit}: it has no positions beyond that. "
            f"Cut texts with max_tokens={limit}, or split them."
        )
    warnings.warn(
        f"A sequence has {length} tokens, and the model's context has {limit}: beyond it, the model computes what it "
        f"was not trained to do. Cut texts with max_tokens={limit}, or split them.",
        WorkbenchWarning,
        stacklevel=2,
    )


def _has_position_table(model: HookedModel) -> bool:
    """Whether positions are rows of a table: learned ones, or the precomputed rotations of GPT-J."""
    if kind_of(model) == "hooked" or str(model.cfg.positional_embedding_type) == "standard":
        return True
    return any("embed_positions" in name for name, _ in model.original_model.named_buffers())


def _is_olmo(model: HookedModel) -> bool:
    """OLMo hands float32 queries and keys to half-precision values; only a cache brings them to one dtype."""
    return str(getattr(model.original_model.config, "model_type", "")).startswith("olmo")


def run_from(
    model: HookedModel,
    layer: int,
    resid: Float[Tensor, "batch pos d_model"],
    tokens: Int[Tensor, "batch pos"],
    past: Any = None,
    stop: int | None = None,
) -> None:
    """Run blocks from `layer` on, on a given residual stream; other blocks cost nothing where they can be skipped.

    Args:
        model: a TransformerLens model.
        layer: the first block that gets what it would not get in a run of its own.
        resid: the stream in front of it.
        tokens: those of the sequences; some architectures read them, or what lower blocks computed, in every block.
        past: keys and values of the positions before `resid`, from `prefix_cache`; they are consumed.
        stop: the first block above that need not run.
    """
    if kind_of(model) == "hooked":
        ones = torch.ones(resid.shape[:2], dtype=torch.long, device=resid.device)
        stop = model.cfg.n_layers if stop is None else stop
        model(resid, start_at_layer=layer, stop_at_layer=stop, attention_mask=ones)
        return
    blocks = list(model.blocks)
    with skipping(blocks, layer, stop) if can_skip(model) else nullcontext(), entering(blocks[layer], resid):
        run(model, tokens, past)


def supports_prefix(model: HookedModel) -> bool:
    """Whether keys and values of a shared prefix can be reused: proved on a few tokens, once for each model."""
    return kind_of(model) == "bridge" and _proved(model, _prefixes, _reuses)


def can_skip(model: HookedModel) -> bool:
    """Whether blocks see nothing of those below but the stream: proved on a few tokens, once for each model.

    They see more in Gemma-4, where higher layers read the keys and values of lower ones.
    """
    return _proved(model, _skippable, _skips)


_prefixes: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
_skippable: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def _proved(
    model: HookedModel, known: weakref.WeakKeyDictionary[Any, bool], same: Callable[[HookedModel, Tensor], list[Tensor]]
) -> bool:
    """Whether all streams that a function computes from a few tokens are the same, up to rounding."""
    if model not in known:
        device = device_of(model)
        tokens = torch.tensor([[(7 * i + 3) % int(model.cfg.d_vocab) for i in range(8)]], device=device)
        try:
            with torch.no_grad(), without_hooks(model):
                plain, *others = same(model, tokens)
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError, NotImplementedError):
            known[model] = False
        else:
            limit = {torch.float64: 1e-5, torch.float32: 1e-3}.get(plain.dtype, 0.1) * float(plain.double().norm())
            known[model] = all(float((other.to(plain) - plain).double().norm()) <= limit for other in others)
    return known[model]


def _skips(model: HookedModel, tokens: Tensor) -> list[Tensor]:
    """The last stream of a run, and of runs that begin at a later block."""
    n, blocks = int(model.cfg.n_layers), list(model.blocks)
    streams: dict[int, Tensor] = {}
    end = f"blocks.{n - 1}.hook_resid_post"

    def ending(start: int) -> dict[str, HookFn]:
        return {end: lambda resid: streams.__setitem__(-1 - start, resid.clone())}

    reads = {f"blocks.{i}.hook_resid_pre": lambda x, i=i: streams.__setitem__(i, x.clone()) for i in {1, n - 1} - {n}}
    with hooked(model, reads | ending(0)):
        run(model, tokens)
    for start in sorted(layer for layer in streams if layer > 0):
        with hooked(model, ending(start)), skipping(blocks, start), entering(blocks[start], streams[start]):
            run(model, tokens)
    return [streams[key] for key in sorted((key for key in streams if key < 0), reverse=True)]


def _reuses(model: HookedModel, tokens: Tensor) -> list[Tensor]:
    """The last stream at the last positions, of a run and of one that reuses a prefix."""
    streams: list[Tensor] = []
    end: dict[str, HookFn] = {
        f"blocks.{int(model.cfg.n_layers) - 1}.hook_resid_post": lambda t: streams.append(t.clone())
    }
    with hooked(model, end):
        run(model, tokens)
    past = copies(prefix_cache(model, tokens[:, :4].tolist()), 2)
    with hooked(model, end):
        run(model, tokens[:, 4:].repeat(2, 1), past)
    return [streams[0][:, 4:], *streams[1].split(1)]


@torch.no_grad()
def prefix_cache(model: HookedModel, prefixes: Sequence[Sequence[int]], past: Any = None) -> Any:
    """Keys and values of equally long prefixes, for `past=` of later runs, each with its own `copies(cache, rows)`.

    None where the prefixes are empty.

    Args:
        model: a bridge whose model keeps a cache.
        prefixes: their tokens.
        past: keys and values of what comes before them; this copy is extended.
    """
    if not prefixes[0]:
        return past
    require_positions(model, len(prefixes[0]), past)
    tokens = torch.tensor(prefixes, device=device_of(model))
    base = model.original_model.base_model
    return cache_of(base(input_ids=tokens, **{cache_keyword(base): past}, use_cache=True))


def cache_keyword(hf: Any) -> str:
    """What a Hugging Face model calls its keys and values of earlier tokens: transformers renames them in 5.24."""
    return "cache" if "cache" in inspect.signature(hf.forward).parameters else "past_key_values"


def cache_of(out: Any) -> Any:
    """The keys and values in what a Hugging Face model returns; a KeyError where it keeps none."""
    return out["cache" if "cache" in out else "past_key_values"]


def copies(cache: Any, times: int) -> Any:
    """A fresh copy of a prefix's keys and values, each sequence repeated for that many that share it."""
    fresh = copy.deepcopy(cache)
    if times > 1 and fresh is not None:
        fresh.batch_repeat_interleave(times)
    return fresh


_tuple_blocks: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


@contextmanager
def noting_tuples(block: Any) -> Generator[None]:
    """Note in a run whether a first block returns `(hidden,)` or `hidden`, for `skipping` to imitate."""
    if block in _tuple_blocks:
        yield
        return

    def note(_module: Any, _args: Any, out: Any) -> None:
        _tuple_blocks[block] = isinstance(out, tuple)

    with block.register_forward_hook(note):
        yield


@contextmanager
def skipping(blocks: Sequence[Any], first: int, stop: int | None = None) -> Generator[None]:
    """Make the blocks below `first`, and those from `stop` on, hand their input on unchanged."""
    as_tuple = _tuple_blocks[blocks[0]]

    def hand_on(hidden_states: Tensor, *_args: Any, **_keywords: Any) -> Any:
        return (hidden_states,) if as_tuple else hidden_states

    with ExitStack() as stack:
        for block in [*blocks[:first], *blocks[len(blocks) if stop is None else stop :]]:
            stack.enter_context(replaced_forward(block, hand_on))
        yield


@contextmanager
def replaced_forward(module: Any, forward: Callable[..., Any]) -> Generator[None]:
    """Another `forward` on one module, for a block."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own


@contextmanager
def entering(block: Any, resid: Tensor) -> Generator[None]:
    """Give a block this residual stream as its input, ahead of every hook on it."""

    def swap(_module: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (resid, *args[1:]), keywords
        return args, {**keywords, "hidden_states": resid}

    with block.register_forward_pre_hook(swap, with_kwargs=True):
        yield
