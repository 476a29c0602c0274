"""The original Hugging Face model inside a bridge, unwrapped for comparison with the loaded model.

Wrapping replaces the model's modules by TransformerLens's, which keep the replaced ones. Put back for a
moment, they are the original model with the same parameters in memory, so the comparison costs no second
copy.
"""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.models.anatomy import kind_of
from workbench.protocol import HookedModel


@contextmanager
def unwrapped(model: HookedModel) -> Generator[Any, None, None]:
    """The Hugging Face model of a bridge with its own modules in place; they are wrapped again on leaving.

    Args:
        model: a TransformerBridge.
    """
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
            restore(own)

    try:
        restore(model.original_model)
        yield model.original_model
    finally:
        for parent, name, child in reversed(replaced):
            parent._modules[name] = child


def inner_module(module: nn.Module) -> nn.Module:
    """The innermost module that TransformerLens's component stands for; any other module itself."""
    while any(c.__name__ == "GeneralizedComponent" for c in type(module).__mro__):
        inner = getattr(module, "original_component", None)
        if inner is None:
            break
        module = inner
    return module


def original_logits(model: HookedModel, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"] | None:
    """Logits of the Hugging Face model itself; None where there is none, as for a HookedTransformer.

    Args:
        model: a TransformerLens model.
        tokens: token ids without padding.
    """
    if kind_of(model) == "hooked":
        return None
    with unwrapped(model) as hf:
        return hf(input_ids=tokens, use_cache=False).logits


def left_padded_logits(model: HookedModel, sequences: list[list[int]]) -> Float[Tensor, "batch d_vocab"]:
    """Logits at the last token of sequences padded on the left under a mask, as text generation does it.

    Args:
        model: a TransformerLens model.
        sequences: token ids, of any lengths.
    """
    device = next(model.parameters()).device
    length = max(len(s) for s in sequences)
    tokens = torch.tensor([[s[0]] * (length - len(s)) + s for s in sequences], device=device)
    mask = torch.tensor([[0] * (length - len(s)) + [1] * len(s) for s in sequences], device=device)
    if kind_of(model) == "hooked":
        return model(tokens, attention_mask=mask)[:, -1]
    hf = model.original_model
    keywords = {"attention_mask": mask, "use_cache": False}
    if "position_ids" in inspect.signature(hf.forward).parameters:
        keywords["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return hf(input_ids=tokens, **keywords).logits[:, -1]
