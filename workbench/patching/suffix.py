"""Cached runs of one base and one source sequence, to be patched many times from any layer on.

Tokens that base and source share at their beginning have equal activations, so patching there changes
nothing. Only what follows them, the suffix, is ever run again; the keys and values of the shared prefix are
computed once. The suffixes are aligned from the right: the last token of base takes activations from the last
token of source, and positions of base that have no partner keep their own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.models.anatomy import Anatomy
from workbench.models.bare import continue_bare, rows_of, runs_bare
from workbench.models.capture import capture
from workbench.models.checks import recomputes
from workbench.models.exact import block_output
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
        source_start: the stream in front of layer 0 of source, aligned like `resid`.
        source_end: the stream after the last layer of source at its last positions, aligned like `resid`.
        partner: which positions of base have a partner in source.
        bare: whether layers may run bare.
        replayed: whether layers can be recomputed from z.
    """

    model: HookedModel
    parts: Anatomy
    where: Site
    tokens: Int[Tensor, " pos"]
    past: Any
    resid: Float[Tensor, "depth pos d_model"]
    base: dict[int, Tensor]
    source: dict[int, Tensor]
    source_start: Float[Tensor, "pos d_model"]
    source_end: Float[Tensor, "pos d_model"]
    partner: Bool[Tensor, " pos"]
    bare: bool
    replayed: bool

    @property
    def length(self) -> int:
        """Positions in the suffix of base."""
        return self.resid.shape[1]

    def behind(self, start: int) -> "Suffix":
        """The same without the first `start` positions, where nothing is patched; base's keys and values stand there.

        It is this one where keys and values cannot be reused.
        """
        if start == 0 or not supports_prefix(self.model):
            return self
        axis = 2 if self.where.hook == "pattern" else 1
        base, source = (
            {layer: t.narrow(axis, start, t.shape[axis] - start) for layer, t in side.items()}
            for side in (self.base, self.source)
        )
        return replace(
            self,
            tokens=self.tokens[start:],
            past=prefix_cache(self.model, [self.tokens[:start].tolist()], copies(self.past, 1)),
            resid=self.resid[:, start:],
            base=base,
            source=source,
            source_start=self.source_start[start:],
            source_end=self.source_end[start:],
            partner=self.partner[start:],
        )

    def final_stream(
        self, layer: int, resid: Float[Tensor, "cell pos d_model"], hooks: Mapping[str, HookFn]
    ) -> Float[Tensor, "cell pos d_model"]:
        """Run layers `layer` and above on given streams with hooks; the stream after the last layer."""
        if layer == self.parts.n_layers:
            return resid
        return self._through(layer, self.parts.n_layers, resid, hooks)

    def patched_stream(
        self,
        layer: int,
        resid: Float[Tensor, "cell pos d_model"],
        write: Callable[[Tensor], Tensor] | None,
        at: list[int],
    ) -> Float[Tensor, "cell read d_model"]:
        """The stream after the last layer at some positions, from given streams in front of a layer.

        Args:
            layer: where `write` replaces the site's activation; layers above it run bare where they can.
            resid: the streams in front of it.
            write: None where the streams themselves are patched.
            at: the positions that are read.
        """
        last = self.parts.n_layers - 1
        if not self.bare:
            hooks = {} if write is None else {self.where.name(layer): write}
            return self.final_stream(layer, resid, hooks)[:, at]
        if write is not None and self.where.hook == "z" and self.replayed:
            rows = at if layer == last else list(range(self.length))
            resid = self._recomputed(layer, resid[:, rows], write(self.base[layer])[:, rows])
            if layer == last:
                return resid
            layer += 1
        elif write is not None:
            resid = self._through(layer, layer + 1, resid, {self.where.name(layer): write})
            layer += 1
        if layer > last:
            return resid[:, at]
        rows = rows_of(len(resid), at, resid.device)
        return continue_bare(self.model, layer, resid, *self._repeated(len(resid)), rows)

    def _recomputed(self, layer: int, resid: Tensor, z: Tensor) -> Tensor:
        """The stream after a layer, from the one before it and z."""
        return block_output(self.parts, layer, resid, self.parts.blocks[layer].attn_out(z))

    def _through(self, layer: int, stop: int, resid: Tensor, hooks: Mapping[str, HookFn]) -> Tensor:
        """The stream in front of layer `stop`, from the one in front of `layer`, with hooks on the bridge."""
        ends: list[Tensor] = []
        with hooked(self.model, hooks), hooked(self.model, {f"blocks.{stop - 1}.hook_resid_post": ends.append}):
            run_from(self.model, layer, resid, *self._repeated(len(resid)), stop)
        return ends[0].to(resid.device)

    def _repeated(self, cells: int) -> tuple[Tensor, Any]:
        """Tokens and a prefix of their own for so many cells."""
        return repeat(self.tokens, "pos -> cell pos", cell=cells), copies(self.past, cells)


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
    of_source = _record(model, source[reused:], past, [streams[0], end, *sites.values()])
    n_base, common = len(base) - reused, min(len(base), len(source)) - shared
    partner = torch.arange(n_base, device=of_base[end].device) >= n_base - common
    axis = 2 if where.hook == "pattern" else 1
    return Suffix(
        model=model,
        parts=parts,
        where=where,
        tokens=torch.tensor(base[reused:], device=of_base[end].device),
        past=past,
        resid=torch.cat([of_base[name] for name in [*streams, end]]),
        base={layer: of_base[name] for layer, name in sites.items()},
        source={layer: _align(of_source[name], of_base[name], axis, common) for layer, name in sites.items()},
        source_start=_align(of_source[streams[0]], of_base[streams[0]], 1, common)[0],
        source_end=_align(of_source[end], of_base[end], 1, common)[0],
        partner=partner,
        bare=runs_bare(model),
        replayed=recomputes(model),
    )


def _record(model: HookedModel, tokens: list[int], past: Any, names: list[str]) -> dict[str, Tensor]:
    with torch.no_grad():
        return capture(model, [tokens], dict.fromkeys(names, Tensor.detach), copies(past, 1))


def _align(source: Tensor, base: Tensor, axis: int, common: int) -> Tensor:
    """Base's activation with its last `common` positions from source."""
    kept = base.narrow(axis, 0, base.shape[axis] - common)
    return torch.cat([kept, source.narrow(axis, source.shape[axis] - common, common)], axis)
