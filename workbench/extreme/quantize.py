"""Simulated quantization of the linear layers in a model's blocks: weights and activations rounded to few bits.

1. A tensor is cut into pieces that share one scale, `max |x| / (2^(bits-1) - 1)`, and every number is rounded to a
   whole multiple of it: symmetric absmax rounding (Dettmers et al. 2022, LLM.int8(); Xiao et al. 2023, SmoothQuant).
2. Weights: one scale per output channel, per group of consecutive inputs of a channel (which 4 bits need) or per
   tensor.
3. Activations in front of each layer: one scale per token, taken from the token itself (dynamic), or one per tensor or
   per input channel, taken beforehand from texts (static). A few tokens with massive activations (Sun et al. 2024)
   stretch the one scale for all tokens, while a scale per token confines the harm to themselves, and one per channel
   to their few channels (integer kernels cannot use it; it tells where the harm comes from).
4. The products are computed in the model's own dtype from the rounded numbers. Embedding, norms, attention's softmax
   and unembedding stay as they are, which is what kernels for integers do.

This is not done through torchao: its simulated layers know neither symmetric scales per token nor one per tensor nor
4-bit activations, and its integer layers replace parameters and cannot be taken off again. Both round alike (tested).
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from workbench.errors import InputError, check_known
from workbench.models.anatomy import kind_of
from workbench.models.original import inner_module, unwrapped
from workbench.models.weights import require_changeable
from workbench.names import ScalePer, WeightScalePer
from workbench.protocol import HookedModel


@dataclass(frozen=True)
class Scheme:
    """How weights and activations are rounded.

    Attributes:
        weight_bits: 2 to 16.
        activation_bits: 2 to 16.
        activations: "token" for a scale per token, "tensor" for one scale of all tokens, "channel" for one per input.
        group: consecutive inputs of an output channel that share a scale; None for the whole channel.
        weights: "channel" for a scale per output channel (or group), "tensor" for one of the matrix; queries, keys
            and values have one each, also where the model keeps them in one.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    activations: ScalePer = "token"
    group: int | None = None
    weights: WeightScalePer = "channel"

    def __post_init__(self):
        """Refuse what is no rounding."""
        if not (2 <= self.weight_bits <= 16 and 2 <= self.activation_bits <= 16):
            raise InputError(
                f"{self.weight_bits} and {self.activation_bits} bits for weights and activations: give 2 to 16 each; "
                "1 bit has no symmetric scale, and above 16 nothing is lost."
            )
        check_known("activations", self.activations, get_args(ScalePer))
        check_known("weights", self.weights, get_args(WeightScalePer))
        if self.group is not None and (self.group < 1 or self.weights == "tensor"):
            raise InputError(
                f"group={self.group} inputs share a scale: give at least 1, with weights='channel', or None for none."
            )

    @property
    def name(self) -> str:
        """Such as "W4A8 per token": 4-bit weights, 8-bit activations with a scale per token."""
        joined = " per tensor, " if self.weights == "tensor" else ""
        return f"W{self.weight_bits}{joined}A{self.activation_bits} per {self.activations}"


SCHEMES = (
    Scheme(8, 8, "token"),
    Scheme(8, 8, "tensor"),
    Scheme(4, 8, "token", group=32),
    Scheme(4, 8, "tensor", group=32),
    Scheme(4, 4, "token", group=32),
    Scheme(4, 4, "tensor", group=32),
)
"""int8 and int4, each with both scales for activations; 4-bit weights with activations of 8 and of 4 bits."""


def absmax_scale(x: Float[Tensor, "*row d_in"], bits: int) -> Float[Tensor, "*row 1"]:
    """The scale at which the largest number of each row is the largest whole number of that many bits."""
    return x.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)


def rounded(x: Float[Tensor, "*row d_in"], scale: Tensor, bits: int) -> Float[Tensor, "*row d_in"]:
    """The nearest whole multiples of the scale, as far as the bits reach; where the scale is 0, 0."""
    top = 2 ** (bits - 1) - 1
    whole = (x / torch.where(scale > 0, scale, torch.ones_like(scale))).round()
    return whole.clamp(-top, top) * scale


def rounded_weight(
    weight: Float[Tensor, "d_out d_in"], bits: int, group: int | None = None, per: WeightScalePer = "channel"
) -> Float[Tensor, "d_out d_in"]:
    """A weight matrix with one scale per row, per group of consecutive columns of a row, or for all of it.

    The last group of a row may be narrower.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if per == "tensor":
        return rounded(wide, absmax_scale(wide.flatten(), bits), bits).to(weight.dtype)
    pieces = [wide] if group is None else wide.split(group, dim=1)
    return torch.cat([rounded(piece, absmax_scale(piece, bits), bits) for piece in pieces], 1).to(weight.dtype)


def linear_layers(model: HookedModel) -> dict[str, nn.Module]:
    """The linear layers inside the model's blocks, by name.

    Where TransformerLens runs queries, keys and values as layers of their own, both these and the joint one that they
    were cut from are listed; only one kind runs at a time.

    Raises:
        InputError: a model that is not made of such layers.
    """
    if kind_of(model) != "bridge":
        raise InputError(
            f"A {type(model).__name__} keeps its weights by head and has no linear layers whose inputs could be "
            "rounded. Load it with backend='bridge', or leave quantization out (schemes=())."
        )
    require_changeable(model, "rounding")
    found: dict[nn.Module, str] = {}
    with unwrapped(model) as hf:
        inside = {part for block in model.blocks for part in inner_module(block).modules()}
        for name, part in hf.named_modules():
            if isinstance(part, nn.Linear | Conv1D) and part in inside:
                found[part] = name
    for i, block in enumerate(model.blocks):
        for name, part in block.named_modules():
            if isinstance(part, nn.Linear | Conv1D) and part not in found:
                found[part] = f"blocks.{i}.{name}".replace("._original_component", "")
    if not found:
        raise InputError(f"{type(model.original_model).__name__} has no linear layers in its blocks to round.")
    return {name: part for part, name in found.items()}


def rounded_share(model: HookedModel) -> float:
    """The share of the weight matrices in the blocks that are rounded; below 1 for mixtures of experts."""
    weights = {_weight(layer) for layer in linear_layers(model).values()}
    with unwrapped(model):
        matrices = [p for block in model.blocks for p in inner_module(block).parameters() if p.dim() >= 2]
    return sum(p.numel() for p in matrices if p in weights) / sum(p.numel() for p in matrices)


class Ranges:
    """The largest activation in front of each linear layer, over everything that runs while they are observed.

    Args:
        model: a TransformerBridge.

    Attributes:
        largest: by layer, of each input channel.
    """

    def __init__(self, model: HookedModel):
        self.layers = linear_layers(model)
        self.largest: dict[str, Tensor] = {}
        self._by_token: dict[str, list[Tensor]] = {name: [] for name in self.layers}

    @contextmanager
    def observing(self) -> Generator[None]:
        """Take note of what runs through the layers."""

        def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def hook(_layer: nn.Module, args: tuple[Any, ...]) -> None:
                size = args[0].detach().abs().float()
                by_channel = size.flatten(0, -2).amax(0)
                self.largest[name] = torch.maximum(self.largest.get(name, by_channel), by_channel)
                self._by_token[name].append(size.amax(-1).flatten().cpu())

            return hook

        with _before(self.layers, note):
            yield

    def stretch(self) -> dict[str, float]:
        """By how much one scale for all tokens is too wide: the largest token's maximum over the median token's."""
        tokens = {name: torch.cat(seen) for name, seen in self._by_token.items() if seen}
        return {name: float(seen.max() / seen.median().clamp_min(1e-12)) for name, seen in tokens.items()}


@contextmanager
def quantized(model: HookedModel, scheme: Scheme, ranges: Ranges | None = None) -> Generator[None]:
    """Run the model with rounded weights and activations inside a `with` block; afterwards it is as before, bit by bit.

    Args:
        model: a TransformerBridge.
        scheme: how to round.
        ranges: what the layers' inputs reached on texts, for scales per tensor or channel; values beyond are cut off.

    Raises:
        InputError: a model without linear layers, or a static scale and a layer that was never observed.
    """
    layers = linear_layers(model)
    largest = {} if ranges is None else ranges.largest
    bits, by_token = scheme.activation_bits, scheme.activations == "token"

    def enter(name: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def hook(_layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            if not by_token and name not in largest:
                raise InputError(
                    f"{scheme.name} needs to know what reaches each layer, and '{name}' was never observed. "
                    "Run texts inside `with ranges.observing():` first and pass ranges=."
                )
            wide = args[0].to(torch.promote_types(args[0].dtype, torch.float32))
            if by_token:
                scale = absmax_scale(wide, bits)
            else:
                reached = largest[name].to(wide)
                scale = (reached if scheme.activations == "channel" else reached.max()) / (2 ** (bits - 1) - 1)
            return (rounded(wide, scale, bits).to(args[0].dtype), *args[1:])

        return hook

    with _weights(layers, scheme), _before(layers, enter):
        yield


@contextmanager
def _weights(layers: Mapping[str, nn.Module], scheme: Scheme) -> Generator[None]:
    """Let the layers have rounded weights, and put their own back."""
    own = {name: _weight(layer).data for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            across = own[name].T if isinstance(layer, Conv1D) else own[name]
            low = rounded_weight(across, scheme.weight_bits, scheme.group, scheme.weights)
            _weight(layer).data = (low.T if isinstance(layer, Conv1D) else low).contiguous()
        yield
    finally:
        for name, layer in layers.items():
            _weight(layer).data = own[name]


@contextmanager
def _before(layers: Mapping[str, nn.Module], hook: Callable[[str], Callable[..., Any]]) -> Generator[None]:
    """Hooks that see the input of each layer first."""
    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _weight(layer: nn.Module) -> nn.Parameter:
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    return weight
