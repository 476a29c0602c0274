"""What a plain Hugging Face model computes, and what it computes with something written inside it.

Nothing here knows the package. The output of each head, z, is what enters attention's output projection. Queries, keys,
values and patterns are caught where eager attention multiplies them: between the hooks of a decoder layer, the product
of `[head, query, key]` is `q @ k`, the softmax of that shape is the pattern, and what it is multiplied with are values.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests import frozen

Address = tuple[int, str]
"""A layer and one of "q", "k", "v", "logits", "pattern", "z", "before" (its input) and "after" (its output).

Or "q_proj" or "k_proj": queries or keys as the projection of that name puts them out, in front of norms and rotation.
"""
Function = Callable[[Tensor], Tensor | None]
"""Sees `[head, pos, width]`, `[head, query, key]` or `[pos, width]`; returns what replaces it, or None."""
PRODUCTS = ("matmul", "__matmul__", "bmm", "baddbmm")


@dataclass(frozen=True)
class Plain:
    """A Hugging Face model in evaluation mode, with eager attention."""

    hf: Any

    @property
    def n_heads(self) -> int:
        """Query heads by the configuration."""
        return int(getattr(self.hf.config.get_text_config(), "num_attention_heads", 0) or 0)

    @property
    def n_kv_heads(self) -> int:
        """KV heads by the configuration."""
        return int(getattr(self.hf.config.get_text_config(), "num_key_value_heads", 0) or self.n_heads)

    @property
    def norms_together(self) -> bool:
        """Whether the queries of all heads pass one norm, so that writing those of one head there changes all."""
        attention = [self.hf.get_submodule(name.rpartition(".")[0]) for name in self.outputs.values()]
        weights: list[Any] = [getattr(getattr(module, "q_norm", None), "weight", None) for module in attention]
        widths = [getattr(getattr(module, "q_proj", None), "out_features", 0) for module in attention]
        return any(w is not None and tuple(w.shape) == (width,) for w, width in zip(weights, widths, strict=True))

    @property
    def layers(self) -> list[str]:
        """The names of the decoder layers."""
        n = self.hf.config.get_text_config().num_hidden_layers
        for decoder in (self.hf.get_decoder(), self.hf.base_model):
            within = {module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module) == n}
            name = next((name for name, module in self.hf.named_modules() if module in within), None)
            if name is not None:
                return [f"{name}.{layer}" for layer in range(n)]
        raise ValueError(f"{type(self.hf).__name__} has no list of {n} layers")

    @property
    def mixers(self) -> list[list[str]]:
        """Each layer's mixers by name: output projections of attention, and whole modules with a "!" in front."""
        found = frozen.mixers(self.hf, len(self.layers))
        return [
            [name for name in names if name.removeprefix("!").startswith(f"{layer}.")]
            for names, layer in zip(found, self.layers, strict=True)
        ]

    @property
    def outputs(self) -> dict[int, str]:
        """The output projection of each layer that attends with heads."""
        heads = [[name for name in names if not name.startswith("!")] for names in self.mixers]
        return {layer: names[0] for layer, names in enumerate(heads) if names}

    def run(self, tokens: list[int], functions: Mapping[Address, Function] | None = None) -> Tensor:
        """Logits `[pos, vocab]` of one sequence, with functions of what passes the addresses."""
        functions = functions or {}
        seeing = _Seeing(functions, self.n_heads, self.n_kv_heads, len(tokens))
        with ExitStack() as stack, torch.no_grad():
            for layer, name in enumerate(self.layers):
                module = self.hf.get_submodule(name)
                stack.enter_context(module.register_forward_pre_hook(seeing.entering(layer), with_kwargs=True))
                stack.enter_context(module.register_forward_hook(seeing.leaving(layer)))
            for layer, name in self.outputs.items():
                stack.enter_context(self.hf.get_submodule(name).register_forward_pre_hook(seeing.heads(layer)))
                for projection in {"q_proj", "k_proj"} & {asked for at, asked in functions if at == layer}:
                    module = self.hf.get_submodule(f"{name.rpartition('.')[0]}.{projection}")
                    stack.enter_context(module.register_forward_hook(seeing.projected(layer, projection)))
            stack.enter_context(seeing)
            return self.hf(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]

    def values(self, tokens: list[int], *names: str) -> dict[Address, Tensor]:
        """What passes the named addresses of all layers."""
        seen: dict[Address, Tensor] = {}

        def keep(address: Address) -> Function:
            return lambda value: seen.update({address: value.clone()})

        self.run(tokens, {(layer, name): keep((layer, name)) for layer in range(len(self.layers)) for name in names})
        return seen


class _Seeing(TorchFunctionMode):
    """Calls the functions while a sequence of `length` tokens runs."""

    def __init__(self, functions: Mapping[Address, Function], n_heads: int, n_kv_heads: int, length: int):
        super().__init__()
        self.functions, self.n_heads, self.n_kv_heads, self.length = functions, n_heads, n_kv_heads, length
        self.layer, self.attended = -1, False

    def entering(self, layer: int) -> Callable[..., Any]:
        """A hook on a layer, for its input."""

        def hook(_module: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            self.layer, self.attended = layer, False
            hidden = args[0] if args else keywords["hidden_states"]
            new = self._tell("before", hidden[0])
            if new is None:
                return None
            return ((new[None], *args[1:]), keywords) if args else (args, keywords | {"hidden_states": new[None]})

        return hook

    def leaving(self, layer: int) -> Callable[..., Any]:
        """A hook on a layer, for its output."""

        def hook(_module: Any, _args: Any, out: Any) -> Any:
            self.layer = layer
            new = self._tell("after", (out[0] if isinstance(out, tuple) else out)[0])
            self.layer = -1
            if new is None:
                return None
            return (new[None], *out[1:]) if isinstance(out, tuple) else new[None]

        return hook

    def heads(self, layer: int) -> Callable[..., Any]:
        """A hook on an output projection, for z."""

        def hook(_module: Any, args: tuple[Any, ...]) -> Any:
            self.layer = layer
            z = args[0].reshape(self.length, self.n_heads, -1).transpose(0, 1)
            new = self._tell("z", z)
            return None if new is None else (new.transpose(0, 1).reshape(args[0].shape), *args[1:])

        return hook

    def projected(self, layer: int, name: str) -> Callable[..., Any]:
        """A hook on a projection, for its output."""

        def hook(_module: Any, _args: Any, out: Tensor) -> Any:
            self.layer = layer
            rows = self.n_heads if name == "q_proj" else self.n_kv_heads
            own = out.reshape(self.length, rows, -1).transpose(0, 1)
            new = self._tell(name, own.repeat_interleave(self.n_heads // rows, 0))
            return None if new is None else new[:: self.n_heads // rows].transpose(0, 1).reshape(out.shape)

        return hook

    def _tell(self, name: str, value: Tensor) -> Tensor | None:
        function = self.functions.get((self.layer, name))
        return None if function is None else function(value)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if self.layer < 0:
            return func(*args, **keywords)
        if name == "softmax":
            return self._softmax(func, args, keywords)
        if name in PRODUCTS:
            *others, left, right = (*args, *(keywords.pop(key) for key in ("batch1", "batch2") if key in keywords))
            args = (*others, *self._factors(left, right))
        return func(*args, **keywords)

    def _softmax(self, func: Any, args: Any, keywords: Any) -> Any:
        if not self._is_pattern(args[0], sinks=True):
            return func(*args, **keywords)
        shape, keys = (self.n_heads, self.length, -1), self.length
        self._tell("logits", args[0].reshape(shape)[..., :keys])
        pattern, self.attended = func(*args, **keywords), True
        new = self._tell("pattern", pattern.reshape(shape)[..., :keys])
        if new is None:
            return pattern
        return torch.cat([new, pattern.reshape(shape)[..., keys:]], -1).to(pattern.dtype).reshape(pattern.shape)

    def _factors(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        if self.attended and self._is_pattern(left) and right.shape[-2] == self.length:
            return left, self._written("v", right)
        product = left.dim() >= 3 and right.dim() >= 3 and left.shape[-1] == right.shape[-2]
        shape = (*left.shape[:-1], right.shape[-1])
        if not self.attended and product and self._is_heads(shape) and shape[-2:] == (self.length, self.length):
            return self._written("q", left), self._written("k", right.transpose(-1, -2)).transpose(-1, -2)
        return left, right

    def _written(self, name: str, value: Tensor) -> Tensor:
        """Keys and values that several heads share are shown and written once for each head."""
        shared = self.n_heads // int(torch.Size(value.shape[:-2]).numel())
        rows = value.reshape(-1, self.length, value.shape[-1]).repeat_interleave(shared, 0)
        new = self._tell(name, rows)
        return value if new is None else new.reshape(*(() if value.dim() == 3 else (1,)), *new.shape)

    def _is_pattern(self, value: Tensor, sinks: bool = False) -> bool:
        keys = (self.length, self.length + 1) if sinks else (self.length,)
        return self._is_heads(value.shape) and value.shape[-2] == self.length and value.shape[-1] in keys

    def _is_heads(self, shape: Any) -> bool:
        return len(shape) in (3, 4) and int(torch.Size(shape[:-2]).numel()) == self.n_heads
