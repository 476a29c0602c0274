"""The fifteen scores by which a head may be called inactive, and how to add one of your own.

A score is one number per sequence and head, computed from what one layer did: its attention A, values v and head
outputs z in front of W_O. Only real tokens count. LN divides by the mean over the heads of the layer, the head
itself included; HN divides by the head's own mean over tokens. All norms are L2 and taken per token.

    AWFT    mean over queries of the attention on the first token     inactive above the threshold
    AEQD    mean over queries of the entropy of the attention (nats)  below, like all that follow
    FTVVN   norm of the first token's value
    AVVN    mean over tokens of the value norm
    LTHON   norm of the last token's z
    AHON    mean over tokens of the norm of z
    FHON    mean over tokens of the norm of z @ W_O, without the bias
    *_LN    each of them over its layer's mean; LTHON_LN divides by the layer's mean of AHON
    LTHON_HN  LTHON / AHON of the same head

From "Identifying and Evaluating Inactive Heads in Pretrained LLMs" (arXiv 2504.03889, v3). Where both sides of a
ratio are zero, as when no head of a layer puts out anything, it is 1: each head is as large as the mean.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.names import Inactive
from workbench.registry import named

PerHead = Float[Tensor, "batch head"]


@dataclass(frozen=True)
class Queries:
    """The attention of some consecutive queries of one layer.

    Attributes:
        weights: attention weights in the dtype in which the model had them; keys are positions 0, 1, ….
        start: position of the first query.
        first: position of each sequence's first real token.
    """

    weights: Float[Tensor, "batch head query key"]
    start: int
    first: Int[Tensor, " batch"]

    @cached_property
    def pattern(self) -> Float[Tensor, "batch head query key"]:
        """The weights in float32 at least."""
        return self.weights.to(wide(self.weights.dtype))


PerQuery = Callable[[Queries], Float[Tensor, "batch head query"]]


@dataclass
class Layer:
    """What one layer did on a batch of sequences, as far as the scores asked for read it.

    Attributes:
        index: the layer.
        real: which positions hold real tokens.
        z: head outputs in front of W_O.
        values: value vectors; query head h reads KV head `h // group_size`.
        attention: for each function of queries that was declared, its mean over the real queries.
        gram: `W_O W_Oᵀ` of each head, so that `|z W_O|² = z gram z`.
    """

    index: int
    real: Bool[Tensor, "batch pos"]
    n_heads: int
    z: Float[Tensor, "batch pos head d_head"]
    values: Float[Tensor, "batch pos kv_head d_value"] | None = None
    attention: dict[PerQuery, PerHead] = field(default_factory=dict)
    gram: Callable[[], Float[Tensor, "head d_head d_head"]] | None = None

    @cached_property
    def first(self) -> Int[Tensor, " batch"]:
        """Position of the first real token."""
        return self.real.int().argmax(-1)

    @cached_property
    def last(self) -> Int[Tensor, " batch"]:
        """Position of the last real token."""
        return self.real.shape[1] - 1 - self.real.int().flip(-1).argmax(-1)

    @cached_property
    def z_norm(self) -> Float[Tensor, "batch pos head"]:
        """Norm of each head's output at each token."""
        return norm(self.z)

    @cached_property
    def value_norm(self) -> Float[Tensor, "batch pos kv_head"]:
        """Norm of each KV head's value at each token."""
        if self.values is None:
            raise InputError("This score reads values; declare reads=('values',) when you register it.")
        return norm(self.values)

    def by_head(self, per_kv_head: Float[Tensor, "batch kv_head"]) -> PerHead:
        """A number per KV head, given to each of the query heads that read it."""
        size = self.n_heads // per_kv_head.shape[-1]
        return repeat(per_kv_head, "batch kv_head -> batch (kv_head group_head)", group_head=size)

    @cached_property
    def projected_norm(self) -> Float[Tensor, "batch pos head"]:
        """Norm of what each head adds to the stream, without the projection's bias."""
        if self.gram is None:
            raise InputError("This layer was made without its output projection.")
        gram = self.gram()
        z = rearrange(self.z.to(gram.dtype), "batch pos head d_head -> batch head pos d_head")
        norms = ((z @ gram) * z).sum(-1).clamp_min(0).sqrt()
        return rearrange(norms, "batch head pos -> batch pos head")

    @cached_property
    def mean_z_norm(self) -> PerHead:
        """AHON: the mean over real tokens of the norm of z."""
        return self.mean(self.z_norm)

    def mean(self, per_token: Float[Tensor, "batch pos head"]) -> PerHead:
        """The mean over real tokens."""
        kept = torch.where(self.real[..., None], per_token, 0)
        return kept.sum(1) / self.real.sum(-1, keepdim=True)

    def at(self, per_token: Float[Tensor, "batch pos head"], position: Int[Tensor, " batch"]) -> PerHead:
        """The value at one position of each sequence."""
        return per_token[torch.arange(len(position), device=position.device), position]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype, or float32 if it is narrower."""
    return torch.promote_types(dtype, torch.float32)


def norm(vectors: Float[Tensor, "*row width"]) -> Float[Tensor, "*row"]:
    """L2 norms, in float32 at least."""
    return torch.linalg.vector_norm(vectors, dim=-1, dtype=wide(vectors.dtype))


def ratio(x: PerHead, over: Tensor) -> PerHead:
    """`x / over`, and 1 where both are zero."""
    return torch.where((x == 0) & (over == 0), 1.0, x / over)


@dataclass(frozen=True)
class HeadScore:
    """How one number per sequence and head is computed, and which side of a threshold is inactive.

    Attributes:
        name: its abbreviation.
        inactive: "below" or "above" the threshold, strictly.
        compute: the score of every head of a layer.
        reads: "values" or "z", whichever it needs.
        per_query: what it needs of attention: a number per query and head, which is averaged over the real queries.
        title: its name in words.
    """

    name: str
    inactive: Inactive
    compute: Callable[[Layer], PerHead]
    reads: tuple[str, ...] = ("z",)
    per_query: PerQuery | None = None
    title: str = ""

    def selects(self, values: Float[Tensor, "*rest"], tau: float) -> Bool[Tensor, "*rest"]:
        """Which values are inactive at a threshold."""
        return values > tau if self.inactive == "above" else values < tau


def first_token_weight(queries: Queries) -> Float[Tensor, "batch head query"]:
    """The attention of each query on the first token."""
    n, heads, rows, _ = queries.weights.shape
    where = queries.first.view(n, 1, 1, 1).expand(n, heads, rows, 1)
    return queries.weights.gather(-1, where).squeeze(-1)


def entropy(queries: Queries) -> Float[Tensor, "batch head query"]:
    """The entropy of each query's attention, in nats; its terms are summed in float32 at least."""
    return torch.special.entr(queries.weights).sum(-1, dtype=wide(queries.weights.dtype))


BASES: dict[str, tuple[str, tuple[str, ...], PerQuery | None, Callable[[Layer], Tensor]]] = {
    "AWFT": (
        "average weight of the first token",
        (),
        first_token_weight,
        lambda layer: layer.attention[first_token_weight],
    ),
    "AEQD": ("average entropy of the query distributions", (), entropy, lambda layer: layer.attention[entropy]),
    "FTVVN": (
        "first token's value vector norm",
        ("values",),
        None,
        lambda layer: layer.at(layer.value_norm, layer.first),
    ),
    "AVVN": ("average value vector norm", ("values",), None, lambda layer: layer.mean(layer.value_norm)),
    "LTHON": ("last token's head output norm", ("z",), None, lambda layer: layer.at(layer.z_norm, layer.last)),
    "AHON": ("average head output norm", ("z",), None, lambda layer: layer.mean_z_norm),
    "FHON": ("average norm of the projected head output", ("z",), None, lambda layer: layer.mean(layer.projected_norm)),
}


def _plain(base: Callable[[Layer], Tensor]) -> Callable[[Layer], PerHead]:
    return lambda layer: layer.by_head(base(layer))


def _over_layer(base: Callable[[Layer], Tensor]) -> Callable[[Layer], PerHead]:
    """Over the layer's mean; that over KV heads is that over query heads, and a single one is exactly 1."""

    def compute(layer: Layer) -> PerHead:
        score = base(layer)
        return layer.by_head(ratio(score, score.mean(-1, keepdim=True)))

    return compute


def _last_over_layer(layer: Layer) -> PerHead:
    return ratio(layer.at(layer.z_norm, layer.last), layer.mean_z_norm.mean(-1, keepdim=True))


def _last_over_head(layer: Layer) -> PerHead:
    return ratio(layer.at(layer.z_norm, layer.last), layer.mean_z_norm)


def _fifteen() -> dict[str, HeadScore]:
    found = {}
    for name, (title, reads, per_query, compute) in BASES.items():
        side = "above" if name == "AWFT" else "below"
        over = _last_over_layer if name == "LTHON" else _over_layer(compute)
        found[name] = HeadScore(name, side, _plain(compute), reads, per_query, title)
        found[f"{name}_LN"] = HeadScore(f"{name}_LN", side, over, reads, per_query, f"{title}, over its layer's mean")
        if name == "LTHON":
            found["LTHON_HN"] = HeadScore(
                "LTHON_HN", side, _last_over_head, reads, None, f"{title}, over the head's mean"
            )
    return found


FIFTEEN = _fifteen()
"""The scores of the paper, by their abbreviations."""
_own: dict[str, HeadScore] = {}


def score(
    name: str, *, inactive: Inactive, reads: Sequence[str] = ("z",), per_query: PerQuery | None = None, title: str = ""
) -> Callable[[Callable[[Layer], PerHead]], HeadScore]:
    """Make and register a score of your own; it, or its name, can be used wherever the paper's can.

        @wb.inactive_heads.score("LOUDEST", inactive="below")
        def loudest(layer):
            return layer.z_norm.masked_fill(~layer.real[..., None], 0).amax(1)

    Args:
        name: its name, none of the paper's; registered again, it replaces itself.
        inactive: "below" or "above" the threshold.
        reads: "values", "z" or both.
        per_query: a function of `Queries` whose mean over real queries the score finds in `layer.attention`.
        title: its name in words.

    Raises:
        InputError: a name of the paper's scores, or an unknown direction or need.
    """
    if name in FIFTEEN:
        raise InputError(f"{name!r} is a score of the paper and cannot be replaced; give yours another name.")
    if inactive not in ("below", "above") or not set(reads) <= {"values", "z"}:
        raise InputError(
            f"A score is inactive 'below' or 'above' its threshold and reads 'values' or 'z'; got "
            f"inactive={inactive!r} and reads={tuple(reads)}."
        )

    def register(compute: Callable[[Layer], PerHead]) -> HeadScore:
        _own[name] = HeadScore(name, inactive, compute, tuple(reads), per_query, title or name)
        return _own[name]

    return register


def scores_named(names: Iterable[str | HeadScore] | str | HeadScore | None = None) -> list[HeadScore]:
    """The scores of these names, each once; None gives the paper's fifteen."""
    if names is None:
        return list(FIFTEEN.values())
    return named(names, FIFTEEN | _own, HeadScore)
