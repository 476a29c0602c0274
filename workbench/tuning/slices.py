"""Which rows and columns of Hugging Face weights and biases belong to a head.

Query head h of width d owns d outputs of the query projection, with their biases, and d inputs of the output
projection, whose bias belongs to no head. Its KV head owns d outputs each of the key and value projections. Which
outputs these are depends on how an architecture stores the three projections:

    q_proj, k_proj, v_proj   one matrix each                      Llama, Mistral, Qwen, Gemma, OLMo, Granite, GPT-J
    qkv_proj                 all queries, all keys, all values    Phi-3
    c_attn                   the same, transposed (Conv1D)        GPT-2
    query_key_value          query, key, value of head 0, then those of head 1, ...   GPT-NeoX, BLOOM
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy
from workbench.models.original import added_parameters
from workbench.tuning.units import Units

INTERLEAVED = ("gpt_neox", "bloom")
OUT_NAMES = ("o_proj", "out_proj", "dense")


@dataclass(frozen=True)
class Slice:
    """Some outputs ("out": rows of the matrix and their biases) or inputs ("in": columns) of one linear module."""

    module: str
    side: str
    index: tuple[int, ...]


@dataclass(frozen=True)
class Slices:
    """Everything that is tuned: slices of modules, or whole parameters by name."""

    parts: tuple[Slice, ...] = ()
    whole: tuple[str, ...] = ()


@dataclass(frozen=True)
class Projection:
    """One of q, k, v, o in an attention module: the child that holds it and where a head begins in it."""

    child: str
    side: str
    start: Callable[[int], int]


def slices_of(hf: nn.Module, parts: Anatomy, units: Units) -> Slices:
    """The slices of a model's parameters that belong to units; the Hugging Face model must not be wrapped."""
    if units.kind == "all":
        added = added_parameters(hf)
        named = ((name, p) for name, p in hf.named_parameters() if name not in added)
        return Slices(whole=tuple(name for name, p in named if p.is_floating_point()))
    attentions = attention_modules(hf, parts)
    if units.kind == "attention":
        return Slices(whole=_attention_parameters(hf, attentions))
    chosen: dict[tuple[str, str], set[int]] = defaultdict(set)
    for layer, head in units.heads:
        path, projections = attentions[layer]
        kv_head = head // parts.group_size
        wanted = [("q", head), ("o", head)] + ([("k", kv_head), ("v", kv_head)] if units.kv else [])
        for letter, number in wanted:
            projection = projections[letter]
            start = projection.start(number)
            chosen[f"{path}.{projection.child}", projection.side].update(range(start, start + parts.d_head))
    return Slices(tuple(Slice(module, side, tuple(sorted(index))) for (module, side), index in chosen.items()))


def attention_modules(hf: Any, parts: Anatomy) -> list[tuple[str, dict[str, Projection]]]:
    """Path and projections of every layer's attention, in the order of the layers; a vision tower's are left out."""
    kind, decoder = str(getattr(hf.config, "model_type", "")), set(hf.get_decoder().modules())
    found = [
        (path, layout)
        for path, module in hf.named_modules()
        if module in decoder and (layout := _layout({name for name, _ in module.named_children()}, kind, parts))
    ]
    if len(found) != parts.n_layers:
        raise InputError(
            f"{type(hf).__name__}: {len(found)} of {parts.n_layers} layers keep their attention projections in a way "
            "that is known (q_proj/k_proj/v_proj, qkv_proj, c_attn, or query_key_value of GPT-NeoX and BLOOM), so "
            'heads cannot be found in the weights. Use units="all", or another architecture.'
        )
    for path, layout in found:
        _check_sizes(hf, path, layout, parts)
    return found


def rows_of_outputs(module: Any) -> Tensor:
    """The weight of a linear module with a row for each output; GPT-2's Conv1D stores it transposed."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


def _check_sizes(hf: nn.Module, path: str, layout: dict[str, Projection], parts: Anatomy) -> None:
    """Raise where a projection is not exactly its heads, as where a gate is stored in it."""
    heads = {"q": parts.n_heads, "k": parts.n_kv_heads, "v": parts.n_kv_heads, "o": parts.n_heads}
    wanted: dict[tuple[str, str], int] = defaultdict(int)
    for letter, projection in layout.items():
        wanted[projection.child, projection.side] += heads[letter] * parts.d_head
    for (child, side), size in wanted.items():
        module: Any = hf.get_submodule(f"{path}.{child}")
        weight = getattr(module, "weight", None)
        shape = () if weight is None else tuple(weight.shape)
        if len(shape) != 2 or rows_of_outputs(module).shape[0 if side == "out" else 1] != size:
            raise InputError(
                f"{path}.{child} is a {type(module).__name__} with a weight of shape {shape}, and its heads would need "
                f"{size} {'outputs' if side == 'out' else 'inputs'}: it holds something besides heads, or is "
                "quantised. Load the model unquantised, or use an architecture with plain projections."
            )


def _layout(children: set[str], kind: str, parts: Anatomy) -> dict[str, Projection]:
    """The projections of an attention module, by the names of its children; empty for any other module."""
    d, n_heads, n_kv = parts.d_head, parts.n_heads, parts.n_kv_heads
    out = next((name for name in OUT_NAMES if name in children), "")
    if {"q_proj", "k_proj", "v_proj"} <= children and out:
        starts = {f"{letter}_proj": {letter: lambda i: i * d} for letter in "qkv"}
    elif "qkv_proj" in children and out:
        starts = {"qkv_proj": _blocks(d, n_heads, n_kv)}
    elif {"c_attn", "c_proj"} <= children:
        out, starts = "c_proj", {"c_attn": _blocks(d, n_heads, n_kv)}
    elif "query_key_value" in children and out and kind in INTERLEAVED:
        starts = {"query_key_value": {letter: lambda i, k=k: (3 * i + k) * d for k, letter in enumerate("qkv")}}
    else:
        return {}
    layout = {letter: Projection(child, "out", start) for child, by in starts.items() for letter, start in by.items()}
    return layout | {"o": Projection(out, "in", lambda i: i * d)}


def _blocks(d: int, n_heads: int, n_kv: int) -> dict[str, Callable[[int], int]]:
    """All queries, then all keys, then all values."""
    return {"q": lambda i: i * d, "k": lambda i: (n_heads + i) * d, "v": lambda i: (n_heads + n_kv + i) * d}


def _attention_parameters(hf: nn.Module, attentions: list[tuple[str, dict[str, Projection]]]) -> tuple[str, ...]:
    """Weights and biases of the four projections in every layer; norms of queries and keys are not among them."""
    modules = dict.fromkeys(f"{path}.{p.child}" for path, layout in attentions for p in layout.values())
    known: dict[str, Any] = dict(hf.named_parameters())
    return tuple(f"{m}.{name}" for m in modules for name in ("weight", "bias") if f"{m}.{name}" in known)
