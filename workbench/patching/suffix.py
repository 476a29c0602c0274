"""One base and one source sequence, run once, ready to be patched many times from any layer on.

Tokens that base and source share at their beginning have equal activations, so patching there changes
nothing. Only what follows them, the suffix, is ever run again; the keys and values of the shared prefix are
computed once. The suffixes are aligned from the right: the last token of base takes activations from the last
token of source, and positions of base that have no partner keep their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.capture import device_of
from workbench.models.anatomy import Anatomy
from workbench.models.forward import HookFn, copies, hooked, prefix_cache, run, run_from, supports_prefix
from workbench.patching.sites import Site


@dataclass(frozen=True)
class Suffix:
    """What the two runs of a pair leave behind, over the positions after the shared prefix.

    Attributes:
        model: the model.
        n_layers: its layers.
        past: keys and values of the prefix; None where nothing is shared or reused.
        resid: the stream in front of each layer of base, and behind the last, `[layer + 1, pos, d_model]`.
        base: the site's activation in each layer of base, `[1, pos, ...]`.
        source: the same of source, aligned to base's positions.
        source_end: the stream behind the last layer of source at its last positions, aligned like `resid`.
        partner: which positions of base have a partner in source.
    """

    model: Any
    n_layers: int
    past: Any
    resid: Float[Tensor, "layers pos d_model"]
    base: list[Tensor]
    source: list[Tensor]
    source_end: Float[Tensor, "pos d_model"]
    partner: Bool[Tensor, " pos"]

    @property
    def length(self) -> int:
        """Positions in the suffix of base."""
        return self.resid.shape[1]

    def final_stream(
        self, layer: int, resid: Float[Tensor, "cell pos d_model"], hooks: Mapping[str, HookFn]
    ) -> Float[Tensor, "cell pos d_model"]:
        """Run layers `layer` and above on given streams with hooks; the stream behind the last layer."""
        if layer == self.n_layers:
            return resid
        ends: list[Tensor] = []
        name = f"blocks.{self.n_layers - 1}.hook_resid_post"
        past = None if self.past is None else copies(self.past, len(resid))
        with hooked(self.model, hooks), hooked(self.model, {name: lambda t: ends.append(t)}):
            run_from(self.model, layer, resid, past)
        return ends[0]


def suffix(model: Any, parts: Anatomy, base: list[int], source: list[int], where: Site) -> Suffix:
    """Run a pair once and keep what patching a site needs."""
    shared = _shared(base, source) if supports_prefix(model) else 0
    past = prefix_cache(model, _row(model, base[:shared])) if shared else None
    streams = [f"blocks.{layer}.hook_resid_pre" for layer in range(parts.n_layers)]
    end = f"blocks.{parts.n_layers - 1}.hook_resid_post"
    sites = [where.name(layer) for layer in range(parts.n_layers)]
    of_base = _record(model, base[shared:], past, [*streams, end, *sites])
    of_source = _record(model, source[shared:], past, [end, *sites])
    n_base, n_source = len(base) - shared, len(source) - shared
    partner = torch.arange(n_base, device=of_base[end].device) >= n_base - n_source
    axes = (2, 3) if where.hook == "pattern" else (1,)
    return Suffix(
        model=model,
        n_layers=parts.n_layers,
        past=past,
        resid=torch.cat([of_base[name] for name in [*streams, end]]),
        base=[of_base[name] for name in sites],
        source=[_align(of_source[name], of_base[name], axes) for name in sites],
        source_end=_align(of_source[end], of_base[end], (1,))[0],
        partner=partner,
    )


def _shared(base: list[int], source: list[int]) -> int:
    """Length of the common prefix, leaving at least one token of each to run."""
    most = min(len(base), len(source)) - 1
    return next((i for i in range(most) if base[i] != source[i]), most)


def _row(model: Any, tokens: list[int]) -> Tensor:
    return torch.tensor([tokens], device=device_of(model))


def _record(model: Any, tokens: list[int], past: Any, names: list[str]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> HookFn:
        def hook(activation: Tensor) -> None:
            seen[name] = activation.detach().clone()

        return hook

    with torch.no_grad(), hooked(model, {name: keep(name) for name in dict.fromkeys(names)}):
        run(model, _row(model, tokens), None if past is None else copies(past, 1))
    return seen


def _align(source: Tensor, base: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Source's activation cut or filled at the left of the position axes to base's length."""
    aligned = base.clone()
    inside_base, inside_source = [slice(None)] * base.dim(), [slice(None)] * base.dim()
    for axis in axes:
        common = min(base.shape[axis], source.shape[axis])
        inside_base[axis] = slice(base.shape[axis] - common, None)
        inside_source[axis] = slice(source.shape[axis] - common, None)
    aligned[tuple(inside_base)] = source[tuple(inside_source)]
    return aligned
