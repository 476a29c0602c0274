"""Which rows and columns of Hugging Face weights and biases belong to a head.

Query head h of width d owns d outputs of the query projection, with their biases, and d inputs of the output
projection, whose bias belongs to no head. Its KV head owns d outputs each of the key and value projections. Which
outputs these are depends on how an architecture stores the three projections:

    q_proj, k_proj, v_proj   one matrix each                      Llama, Mistral, Qwen, Gemma, OLMo, Granite, GPT-J
    qkv_proj, Wqkv           all queries, all keys, all values    Phi-3, MPT
    c_attn                   the same, transposed (Conv1D)        GPT-2
    query_key_value          query, key, value of head 0, then those of head 1, ...   GPT-NeoX, BLOOM, Falcon
                             all queries, the key, the value                          Falcon with one KV head
    qkv_proj                 queries, values, keys of a quarter of the heads, then of the next   CodeGen
    q_b_proj, kv_b_proj      queries; key and value of head 0, then those of head 1, ...         DeepSeek-V2 and V3

Where the queries of all heads pass one norm together (OLMo-2, OLMoE, MiniMax-M2), a head's queries cannot be changed
without changing those of the others; they and the keys belong to no head then.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from workbench.errors import InputError, WorkbenchWarning
from workbench.models.anatomy import Anatomy
from workbench.models.original import added_parameters
from workbench.tuning.units import Units

INTERLEAVED = ("gpt_neox", "bloom", "falcon")
OUT_NAMES = ("o_proj", "out_proj", "dense", "Wo")


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
    """One of q, k, v, o in an attention module.

    Attributes:
        child: the module that holds it.
        side: "out" or "in", as in `Slice`.
        width: outputs or inputs of a head.
        start: where a head begins.
        normed_together: whether its heads pass one norm together, so that none can be changed alone.
    """

    child: str
    side: str
    width: int
    start: Callable[[int], int]
    normed_together: bool = False


def slices_of(hf: nn.Module, parts: Anatomy, units: Units) -> Slices:
    """The slices of a model's parameters that belong to units; the Hugging Face model must not be wrapped."""
    if units.kind == "all":
        added = added_parameters(hf)
        named = ((name, p) for name, p in hf.named_parameters() if name not in added)
        return Slices(whole=tuple(name for name, p in named if p.is_floating_point()))
    layers = sorted({layer for layer, _ in units.heads})
    attentions = _known(hf, parts, layers)
    if units.kind == "attention":
        return Slices(whole=_attention_parameters(hf, list(attentions.values())))
    chosen: dict[tuple[str, str], set[int]] = defaultdict(set)
    for layer, head in units.heads:
        path, projections = attentions[layer]
        kv_head = head // parts.group_size
        wanted = [("q", head), ("o", head)] + ([("k", kv_head), ("v", kv_head)] if units.kv else [])
        for letter, number in wanted:
            projection = projections[letter]
            if not projection.normed_together:
                rows = range(projection.start(number), projection.start(number) + projection.width)
                chosen[f"{path}.{projection.child}", projection.side].update(rows)
    if any(layout["q"].normed_together for _, layout in attentions.values()):
        warnings.warn(
            f"The queries of all heads of {type(hf).__name__} pass one norm together, and so do the keys, so changing "
            'those of one head would change all heads. They are left as they are; units="attention" tunes them.',
            WorkbenchWarning,
            stacklevel=2,
        )
    return Slices(tuple(Slice(module, side, tuple(sorted(index))) for (module, side), index in chosen.items()))


def attention_modules(hf: Any, parts: Anatomy) -> dict[int, tuple[str, dict[str, Projection]]]:
    """Path and projections of the attention of each layer that keeps them in a known way; a vision tower is left out.

    Layers without heads are left out too, though their mixers may call their parts the same.
    """
    kind, decoder = str(getattr(hf.config, "model_type", "")), set(_decoder(hf).modules())
    found = {}
    for path, module in hf.named_modules():
        layout = _layout(module, kind, parts) if module in decoder else {}
        if layout and (layer := _layer(path)) in parts.head_layers:
            found[layer] = path, layout
    return found


def _decoder(hf: Any) -> nn.Module:
    """The text layers; ModernBERT calls its unembedding its decoder."""
    decoder = hf.get_decoder()
    return decoder if any(isinstance(module, nn.ModuleList) for module in decoder.modules()) else hf.base_model


def _layer(path: str) -> int:
    return [int(piece) for piece in path.split(".") if piece.isdigit()][-1]


def _known(hf: Any, parts: Anatomy, layers: Sequence[int]) -> dict[int, tuple[str, dict[str, Projection]]]:
    """Path and projections of the attention of some layers.

    Raises:
        InputError: they are not known, or hold something besides heads.
    """
    found = attention_modules(hf, parts)
    missing = [layer for layer in layers if layer not in found]
    if missing:
        raise InputError(
            f"{type(hf).__name__}: {len(found)} of {len(parts.head_layers)} layers with heads keep their attention "
            "projections in a way that is known (q_proj/k_proj/v_proj, qkv_proj, Wqkv, c_attn, query_key_value, or "
            f"kv_b_proj), and layer {missing[0]} is none of them, so its heads cannot be found in the "
            'weights. Use units="all", or another architecture.'
        )
    for layer in layers:
        path, layout = found[layer]
        _check_sizes(hf, path, layout, parts)
    return {layer: found[layer] for layer in layers}


def rows_of_outputs(module: Any) -> Tensor:
    """The weight of a linear module with a row for each output; GPT-2's Conv1D stores it transposed."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


def _check_sizes(hf: nn.Module, path: str, layout: dict[str, Projection], parts: Anatomy) -> None:
    """Raise where a projection is not exactly its heads, as where a gate is stored in it."""
    heads = {"q": parts.n_heads, "k": parts.n_kv_heads, "v": parts.n_kv_heads, "o": parts.n_heads}
    wanted: dict[tuple[str, str], int] = defaultdict(int)
    for letter, projection in layout.items():
        wanted[projection.child, projection.side] += heads[letter] * projection.width
    for (child, side), size in wanted.items():
        module: Any = hf.get_submodule(f"{path}.{child}")
        weight = getattr(module, "weight", None)
        shape = () if weight is None else tuple(weight.shape)
        if len(shape) != 2 or rows_of_outputs(module).shape[0 if side == "out" else 1] != size:
            raise InputError(
                f"{path}.{child} is a {type(module).__name__} with a weight of shape {shape}, and its heads would need "
                f"{size} {'outputs' if side == 'out' else 'inputs'}: it holds something besides heads, or is "
                'quantised. Load the model unquantised, use units="all", or an architecture with plain projections.'
            )


def _layout(attention: Any, kind: str, parts: Anatomy) -> dict[str, Projection]:
    """The projections of an attention module, by the names of its children; empty for any other module."""
    children, n_heads, n_kv = dict(attention.named_children()), parts.n_heads, parts.n_kv_heads
    out = next((name for name in OUT_NAMES if name in children), "c_proj" if "c_attn" in children else "")
    weight = getattr(children.get(out), "weight", None)
    if weight is None or weight.dim() != 2:
        return {}
    d = rows_of_outputs(children[out]).shape[1] // n_heads
    whole = next((name for name in ("qkv_proj", "Wqkv", "c_attn", "query_key_value") if name in children), "")
    if "kv_b_proj" in children:
        return _latent(attention, n_heads) | {"o": Projection(out, "in", d, lambda i: i * d)}
    if {"q_proj", "k_proj", "v_proj"} <= children.keys():
        starts = {f"{letter}_proj": {letter: lambda i: i * d} for letter in "qkv"}
    elif whole == "query_key_value" and kind in INTERLEAVED and n_kv == n_heads:
        starts = {whole: {letter: lambda i, k=k: (3 * i + k) * d for k, letter in enumerate("qkv")}}
    elif whole and kind == "codegen":
        starts = {whole: _quarters(d, n_heads // 4)}
    elif whole and (whole != "query_key_value" or (kind == "falcon" and n_kv == 1)):
        starts = {whole: _blocks(d, n_heads, n_kv)}
    else:
        return {}
    together = _normed_together(children, n_heads * d)
    layout = {
        letter: Projection(child, "out", d, start, together and letter in "qk")
        for child, by in starts.items()
        for letter, start in by.items()
    }
    return layout | {"o": Projection(out, "in", d, lambda i: i * d)}


def _quarters(d: int, heads: int) -> dict[str, Callable[[int], int]]:
    """Four parts of as many heads each, with all their queries, all their values and all their keys."""
    starts = {}
    for number, letter in enumerate("qvk"):
        starts[letter] = lambda i, number=number: ((i // heads * 3 + number) * heads + i % heads) * d
    return starts


def _latent(attention: Any, n_heads: int) -> dict[str, Projection]:
    """Queries, keys and values of latent attention; what heads share, such as the rotary key, belongs to none."""
    key, value = int(attention.qk_nope_head_dim), int(attention.v_head_dim)
    query = "q_b_proj" if hasattr(attention, "q_b_proj") else "q_proj"
    width = rows_of_outputs(attention.get_submodule(query)).shape[0] // n_heads
    return {
        "q": Projection(query, "out", width, lambda i: i * width),
        "k": Projection("kv_b_proj", "out", key, lambda i: i * (key + value)),
        "v": Projection("kv_b_proj", "out", value, lambda i: i * (key + value) + key),
    }


def _normed_together(children: dict[str, nn.Module], width: int) -> bool:
    """Whether the queries of all heads pass one norm."""
    norms = [module for name, module in children.items() if "norm" in name and name.startswith("q")]
    weights: list[Any] = [getattr(module, "weight", None) for module in norms]
    return any(weight is not None and tuple(weight.shape) == (width,) for weight in weights)


def _blocks(d: int, n_heads: int, n_kv: int) -> dict[str, Callable[[int], int]]:
    """All queries, then all keys, then all values."""
    return {"q": lambda i: i * d, "k": lambda i: (n_heads + i) * d, "v": lambda i: (n_heads + n_kv + i) * d}


def _attention_parameters(hf: nn.Module, attentions: list[tuple[str, dict[str, Projection]]]) -> tuple[str, ...]:
    """Weights and biases of the four projections in every layer; norms of queries and keys are not among them."""
    modules = dict.fromkeys(f"{path}.{p.child}" for path, layout in attentions for p in layout.values())
    known: dict[str, Any] = dict(hf.named_parameters())
    return tuple(f"{m}.{name}" for m in modules for name in ("weight", "bias") if f"{m}.{name}" in known)
