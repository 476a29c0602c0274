"""The original Hugging Face model inside a bridge, unwrapped for comparison with the loaded model.

Wrapping replaces the model's modules by TransformerLens's, which keep the replaced ones. Put back for a
moment, they are the original model with the same parameters in memory, so the comparison costs no second
copy.
"""

import copy
import inspect
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.models.anatomy import kind_of
from workbench.models.devices import device_of
from workbench.protocol import HookedModel


@contextmanager
def unwrapped(model: HookedModel) -> Generator[Any, None, None]:
    """The Hugging Face model of a bridge with its own modules in place; they are wrapped again on leaving."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    visited: set[int] = set()

    def restore(parent: nn.Module) -> None:
        if id(parent) in visited:
            return
        visited.add(id(parent))
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            own = inner_module(child)
            if own is not child:
                replaced.append((parent, name, child))
                parent._modules[name] = own
            if own is not None:
                restore(own)

    try:
        restore(model.original_model)
        yield model.original_model
    finally:
        for parent, name, child in reversed(replaced):
            parent._modules[name] = child


def fuses_attention(hf: Any) -> bool:
    """Whether a Hugging Face model computes the same without materialised attention patterns."""
    capped = getattr(hf.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return not capped and bool(getattr(hf, "_supports_sdpa", False))


@contextmanager
def fused_attention(hf: Any) -> Generator[None]:
    """Attention without materialised patterns within a block, where an eager model computes the same with it."""
    if hf.config._attn_implementation != "eager" or not fuses_attention(hf):
        yield
        return
    hf.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        hf.set_attn_implementation("eager")


def half_precision(parameter: Tensor) -> AbstractContextManager[Any]:
    """bf16 products on a GPU, unless the model that a parameter belongs to is in float64."""
    kind = parameter.device.type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" and parameter.dtype != torch.float64)


def inner_module(module: nn.Module) -> Any:
    """The innermost module that TransformerLens's component stands for; any other module itself.

    None where it stands for a part that this model was made without, such as the vision tower of a Gemma-4 for text.
    """
    while any(c.__name__ == "GeneralizedComponent" for c in type(module).__mro__):
        inner = getattr(module, "original_component", None)
        if inner is None:
            return None if type(module).__name__ == "GeneralizedComponent" else module
        module = inner
    return module


def original_logits(model: HookedModel, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"] | None:
    """Logits of the Hugging Face model itself; None where there is none, as for a HookedTransformer."""
    if kind_of(model) == "hooked":
        return None
    with unwrapped(model) as hf:
        return hf(input_ids=tokens, use_cache=False).logits


def left_padded(
    sequences: list[list[int]], device: torch.device
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Sequences padded on the left with each row's own first token, and the mask of real tokens."""
    length = max(map(len, sequences))
    tokens = torch.tensor([[s[0]] * (length - len(s)) + s for s in sequences], device=device)
    mask = torch.tensor([[0] * (length - len(s)) + [1] * len(s) for s in sequences], device=device)
    return tokens, mask


def masked_positions(mask: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Positions that count from each row's first real token."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def left_padded_logits(model: HookedModel, sequences: list[list[int]]) -> Float[Tensor, "batch d_vocab"]:
    """Logits at the last token of sequences padded on the left under a mask, as text generation does it.

    Sequences of one length need no mask, and get none.
    """
    tokens, mask = left_padded(sequences, device_of(model))
    padded = not bool(mask.all())
    if kind_of(model) == "hooked":
        return model(tokens, attention_mask=mask)[:, -1]
    hf = model.original_model
    keywords: dict[str, Any] = {"attention_mask": mask} if padded else {}
    if padded and "position_ids" in inspect.signature(hf.forward).parameters:
        keywords["position_ids"] = masked_positions(mask)
    return hf(input_ids=tokens, use_cache=False, **keywords).logits[:, -1]


def thaw(hf: nn.Module) -> None:
    """Make every weight of a Hugging Face model trainable, but for a bias that a bridge added to its output matrix.

    TransformerLens 3.9 adds one of zeros where the architecture has none; trained, it could not be saved.
    """
    hf.requires_grad_(True)
    for parameter in added_parameters(hf).values():
        parameter.requires_grad_(False)


def added_parameters(hf: Any) -> dict[str, nn.Parameter]:
    """The bias of the output matrix by its name where the architecture has none."""
    head = hf.get_output_embeddings()
    bias = getattr(head, "bias", None)
    if bias is None:
        return {}
    with torch.device("meta"):
        own = type(hf)(copy.deepcopy(hf.config)).get_output_embeddings().bias
    return {} if own is not None else {name: p for name, p in hf.named_parameters() if p is bias}


def n_parameters(model: HookedModel) -> int:
    """How many weights a model has, without what a bridge added."""
    with unwrapped(model) as hf:
        added = {id(parameter) for parameter in added_parameters(hf).values()}
        return sum(parameter.numel() for parameter in hf.parameters() if id(parameter) not in added)
