"""Which tokens of a running forward pass are real, and whether keys are cached, when other code started the pass.

An intervention that decides by a whole sequence must know where it ends. In this order: tensors made by
`models.forward.pad` know their lengths; an attention mask says which tokens are real; a padding id, if given, is
padding where it stands in an unbroken run at the end of a row (lm-evaluation-harness pads with 0 and gives no mask);
else every token is real.
"""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.errors import InputError
from workbench.models.anatomy import kind_of
from workbench.models.forward import cache_keyword, real_tokens
from workbench.protocol import HookedModel


class Passes:
    """The passes of a model, while `watching` it: how many have begun, and how many cached positions this one has."""

    def __init__(self, padding: int | None = None):
        self.padding = padding
        self.number = 0
        self.past = 0
        self.tokens: Tensor | None = None
        self.mask: Tensor | None = None
        self._real: Tensor | None = None

    def begin(self, tokens: Tensor | None, mask: Tensor | None, past: int) -> None:
        """A pass begins."""
        self.number += 1
        self.tokens, self.mask, self.past, self._real = tokens, mask, past, None

    def real(self, z: Tensor) -> Bool[Tensor, "batch pos"]:
        """Which positions of a pass hold real tokens; z `[batch, pos, ...]` tells its shape."""
        if self._real is None:
            self._real = self._found(z)
        return self._real

    def _found(self, z: Tensor) -> Tensor:
        shape = z.shape[:2]
        real = torch.ones(shape, dtype=torch.bool, device=z.device)
        known = None if self.tokens is None else real_tokens(self.tokens)
        if known is not None:
            return known.to(z.device)
        if self.mask is not None:
            if self.mask.shape != shape:
                raise InputError(
                    f"The attention mask of this pass has shape {list(self.mask.shape)}, but it runs {list(shape)} "
                    "tokens; heads are judged by whole sequences and need a mask [batch, pos] of 0 and 1."
                )
            real = self.mask.to(z.device).bool()
        elif self.padding is not None and self.tokens is not None:
            behind = (self.tokens == self.padding).flip(-1).cumprod(-1).flip(-1).bool()
            real = ~behind.to(z.device)
        empty = (~real.any(-1)).nonzero().flatten().tolist()
        if empty:
            raise InputError(
                f"Row {empty[0]} of this pass is all padding, and heads cannot be judged on it. Leave such rows out."
            )
        return real


@contextmanager
def watching(model: HookedModel, padding: int | None = None) -> Generator[Passes]:
    """Follow the passes of a model; nothing stays on the model.

    `padding` is a token id whose run at the end of a row is padding, where nothing else says what is real.
    """
    passes = Passes(padding)
    handles = _watch_hooked(model, passes) if kind_of(model) == "hooked" else [_watch_bridge(model, passes)]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def _watch_bridge(model: HookedModel, passes: Passes) -> Any:
    base = model.original_model.base_model
    signature = inspect.signature(base.forward)

    def begin(_module: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        given = signature.bind_partial(*args, **keywords).arguments
        given = given.get("kwargs", {}) | given
        past = given.get(cache_keyword(base))
        passes.begin(given.get("input_ids"), given.get("attention_mask"), int(past.get_seq_length()) if past else 0)

    return base.register_forward_pre_hook(begin, with_kwargs=True)


def _watch_hooked(model: HookedModel, passes: Passes) -> list[Any]:
    """A HookedTransformer's passes: `forward` may be called around its hooks, the embedding and attention are not."""
    given: dict[str, Any] = {}

    def called(_module: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        given.update(keywords)
        if keywords.get("start_at_layer") is not None:
            passes.begin(None, keywords.get("attention_mask"), 0)

    def embedding(_module: Any, args: tuple[Any, ...]) -> None:
        passes.begin(args[0], given.get("attention_mask"), 0)
        given.clear()

    def attending(_module: Any, _args: Any, keywords: dict[str, Any]) -> None:
        if keywords.get("attention_mask") is not None:
            passes.mask = keywords["attention_mask"]
        cache = keywords.get("past_kv_cache_entry")
        passes.past = int(cache.past_keys.shape[1]) if cache is not None else 0

    return [
        model.register_forward_pre_hook(called, with_kwargs=True),
        model.embed.register_forward_pre_hook(embedding),
        model.blocks[0].attn.register_forward_pre_hook(attending, with_kwargs=True),
    ]
