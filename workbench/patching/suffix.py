"""Cached runs of one base and one source sequence, to be patched many times from any layer on.

Tokens that base and source share at their beginning have equal activations, so patching there changes
nothing. Only what follows them, the suffix, is ever run again; the keys and values of the shared prefix are
computed once. The suffixes are aligned from the right: the last token of base takes activations from the last
token of source, and positions of base that have no partner keep their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.models.anatomy import Anatomy
from workbench.models.capture import capture
from workbench.models.forward import HookFn, copies, hooked, prefix_cache, run_from, supports_prefix
from workbench.patching.sites import Site
from workbench.prompts.pairs import shared_prefix
from workbench.protocol import HookedModel


@dataclass(frozen=True)
class Suffix:
    """What the two runs of a pair give, over the positions after the shared prefix.

    Attributes:
        tokens: of base.
        past: keys and values of the prefix; None where nothing is shared, or where the model cannot reuse
            them and the shared prefix is run with the rest.
        resid: the stream in front of each layer of base, and after the last, `[layer + 1, pos, d_model]`.
        base: the site's activation in each layer of base that has it, `[1, pos, ...]`.
        source: the same of source, aligned to base's positions.
        source_end: the stream after the last layer of source at its last positions, aligned like `resid`.
        partner: which positions of base have a partner in source.
    """

    model: HookedModel
    n_layers: int
    tokens: Int[Tensor, " pos"]
    past: Any
    resid: Float[Tensor, "depth pos d_model"]
    base: dict[int, Tensor]
    source: dict[int, Tensor]
    source_end: Float[Tensor, "pos d_model"]
    partner: Bool[Tensor, " pos"]

    @property
    def length(self) -> int:
        """Positions in the suffix of base."""
        return self.resid.shape[1]

    def final_stream(
        self, layer: int, resid: Float[Tensor, "cell pos d_model"], hooks: Mapping[str, HookFn]
    ) -> Float[Tensor, "cell pos d_model"]:
        """Run layers `layer` and above on given streams with hooks; the stream after the last layer."""
        if layer == self.n_layers:
            return resid
        ends: list[Tensor] = []
        name = f"blocks.{self.n_layers - 1}.hook_resid_post"
        with hooked(self.model, hooks), hooked(self.model, {name: lambda t: ends.append(t)}):
            tokens = repeat(self.tokens, "pos -> cell pos", cell=len(resid))
            run_from(self.model, layer, resid, tokens, copies(self.past, len(resid)))
        return ends[0].to(resid.device)


def suffix(
    model: HookedModel, parts: Anatomy, base: list[int], source: list[int], where: Site, n_read: int = 1
) -> Suffix:
    """Run a pair once and keep what patching a site needs.

    The last `n_read` positions are read, and so must be run even where base and source agree.
    """
    shared = min(shared_prefix(base, source), len(base) - n_read, len(source) - n_read)
    reused = shared if supports_prefix(model) else 0
    past = prefix_cache(model, [base[:reused]])
    streams = [f"blocks.{layer}.hook_resid_pre" for layer in range(parts.n_layers)]
    end = f"blocks.{parts.n_layers - 1}.hook_resid_post"
    sites = {layer: where.name(layer) for layer in where.layers(model, parts)}
    of_base = _record(model, base[reused:], past, [*streams, end, *sites.values()])
    of_source = _record(model, source[reused:], past, [end, *sites.values()])
    n_base, common = len(base) - reused, min(len(base), len(source)) - shared
    partner = torch.arange(n_base, device=of_base[end].device) >= n_base - common
    axis = 2 if where.hook == "pattern" else 1
    return Suffix(
        model=model,
        n_layers=parts.n_layers,
        tokens=torch.tensor(base[reused:], device=of_base[end].device),
        past=past,
        resid=torch.cat([of_base[name] for name in [*streams, end]]),
        base={layer: of_base[name] for layer, name in sites.items()},
        source={layer: _align(of_source[name], of_base[name], axis, common) for layer, name in sites.items()},
        source_end=_align(of_source[end], of_base[end], 1, common)[0],
        partner=partner,
    )


def _record(model: HookedModel, tokens: list[int], past: Any, names: list[str]) -> dict[str, Tensor]:
    with torch.no_grad():
        return capture(model, [tokens], dict.fromkeys(names, Tensor.detach), copies(past, 1))


def _align(source: Tensor, base: Tensor, axis: int, common: int) -> Tensor:
    """Base's activation with its last `common` positions from source."""
    kept = base.narrow(axis, 0, base.shape[axis] - common)
    return torch.cat([kept, source.narrow(axis, source.shape[axis] - common, common)], axis)
