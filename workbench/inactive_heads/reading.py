"""Collects a layer's values, attention and z as they are computed, and gives the scores of its heads."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import InputError
from workbench.inactive_heads.definitions import (
    HeadScore,
    Layer,
    PerQuery,
    Queries,
    entropy,
    first_token_weight,
    wide,
)
from workbench.models.anatomy import Anatomy
from workbench.models.fused import Attended
from workbench.models.grams import Grams


class Reader:
    """Collects the activations of a layer, and gives its scores once all that they need has been seen.

    Values, attention and z of a layer come in this order on most architectures; GPT-J tells its attention last.

    `real` says which positions hold real tokens; `compat` averages attention over padded queries too, as the released
    code does. `found` has the scores `[batch, head]` by name of each layer whose activations are complete.
    """

    def __init__(
        self,
        parts: Anatomy,
        grams: Grams,
        scores: Sequence[HeadScore],
        real: Bool[Tensor, "batch pos"],
        compat: bool = False,
    ):
        self.parts, self.grams, self.scores, self.real, self.compat = parts, grams, scores, real, compat
        self.functions: list[PerQuery] = list(dict.fromkeys(s.per_query for s in scores if s.per_query is not None))
        self.fusable = not compat and set(self.functions) <= {first_token_weight, entropy}
        self.reads_values = any("values" in s.reads for s in scores)
        self.found: dict[int, dict[str, Tensor]] = {}
        self._first = real.int().argmax(-1)
        self._weight = torch.ones_like(real) if compat else real
        self._values: dict[int, Tensor] = {}
        self._sums: dict[int, dict[PerQuery, Tensor]] = {}
        self._seen: dict[int, int] = {}
        self._z: dict[int, Tensor] = {}

    def values(self, layer: int, values: Float[Tensor, "batch pos kv_head d_value"]) -> None:
        """Take a layer's values."""
        self._values[layer] = values
        self._finish(layer)

    def pattern(self, layer: int, pattern: Float[Tensor, "batch head query key"], start: int = 0) -> None:
        """Add the queries of a pattern to the means over queries."""
        if self.compat:
            pattern = pattern * self.real[:, None, None, : pattern.shape[-1]].to(pattern.device)
        queries = Queries(pattern, start, self._first.to(pattern.device))
        counted = self._weight[:, None, start : start + pattern.shape[2]].to(pattern.device)
        sums = self._sums.setdefault(layer, {})
        for function in self.functions:
            found = function(queries)
            found = torch.where(counted, found, 0).sum(-1, dtype=wide(found.dtype))
            sums[function] = sums[function] + found if function in sums else found
        self._seen[layer] = start + pattern.shape[2]
        self._finish(layer)

    def attended(self, seen: Attended) -> None:
        """Take a layer's attention that is never materialised, of sequences that begin at position 0.

        A mean entropy within the rounding of its terms is zero.
        """
        real = self.real.to(seen.query.device)
        found = seen.over_queries(real, entropy=entropy in self.functions)
        sums: dict[PerQuery, Tensor] = {first_token_weight: found.received[..., 0]}
        if entropy in self.functions:
            rounding = 32 * torch.finfo(found.entropy.dtype).eps * real.sum(-1, keepdim=True)
            sums[entropy] = torch.where(found.entropy.abs() > rounding, found.entropy, 0)
        self._sums[seen.layer] = {function: sums[function] for function in self.functions}
        self._seen[seen.layer] = seen.length
        self._finish(seen.layer)

    def z(self, layer: int, z: Float[Tensor, "batch pos head d_head"]) -> None:
        """Take a layer's z."""
        self._z[layer] = z
        self._finish(layer)

    def _finish(self, layer: int) -> None:
        attended = not self.functions or self._seen.get(layer) == self.real.shape[1]
        if layer not in self._z or not attended or (self.reads_values and layer not in self._values):
            return
        z = self._z.pop(layer)
        n = self._weight.sum(-1, keepdim=True).to(z.device)
        seen = Layer(
            index=layer,
            real=self.real.to(z.device),
            n_heads=self.parts.n_heads,
            z=z,
            values=self._values.pop(layer, None),
            attention={function: total / n for function, total in self._sums.pop(layer, {}).items()},
            gram=partial(self.grams.gram, layer),
        )
        self.found[layer] = {score.name: score.compute(seen).to(self.real.device) for score in self.scores}
        for name, values in self.found[layer].items():
            if values.shape != (z.shape[0], self.parts.n_heads):
                raise InputError(
                    f"The score {name!r} gave shape {list(values.shape)}; it must give [batch, head], here "
                    f"{[z.shape[0], self.parts.n_heads]}: one number per sequence and query head."
                )
