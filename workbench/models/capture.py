"""Reading activations: run a model with the named hooks only, and keep a reduction of each activation.

Nothing is cached that was not named, and each activation is reduced inside its hook (to some positions, to a
norm, …), so that memory is that of the reductions and not of the activations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from workbench.models.devices import device_of
from workbench.models.forward import hooked, pad, run
from workbench.protocol import HookedModel

Reducer = Callable[[Tensor], Tensor]


def capture(
    model: HookedModel, sequences: Sequence[Sequence[int]], wanted: Mapping[str, Reducer], past: Any = None
) -> dict[str, Tensor]:
    """Run token sequences of any lengths once and return the reduction of each named activation.

    A reduction is computed on the device of its layer and brought to that of the tokens.

    Args:
        model: a TransformerLens model.
        sequences: token ids.
        wanted: TransformerLens hook names to functions of the right-padded activation `[batch, pos, ...]`.
        past: keys and values of what stands before the sequences, from `models.forward.prefix_cache`; consumed.

    Raises:
        InputError: a hook that the model does not have or that does not fire.
    """
    tokens, _ = pad([list(s) for s in sequences], device_of(model))
    kept: dict[str, Tensor] = {}

    def keep(name: str, reduce: Reducer) -> Callable[[Tensor], None]:
        def hook(activation: Tensor) -> None:
            kept[name] = reduce(activation).to(tokens.device, copy=True)

        return hook

    with hooked(model, {name: keep(name, reduce) for name, reduce in wanted.items()}):
        run(model, tokens, past)
    return kept


def at(sequences: Int[Tensor, " row"], positions: Int[Tensor, " row"]) -> Reducer:
    """A reducer that keeps chosen positions of chosen sequences: `[batch, pos, ...]` to `[row, ...]`."""

    def take(activation: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "row *rest"]:
        return activation[sequences.to(activation.device), positions.to(activation.device)]

    return take
