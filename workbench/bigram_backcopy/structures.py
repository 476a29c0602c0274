"""The toy architectures: blocks by name, their sizes and their initialization.

A block is "tf" (attention and MLP), "attn" or "mlp" (one of the two). The paper's minimal structures are lists of
these; all have one pre-norm residual stream, learned absolute positions, no biases in linear maps and an untied
unembedding.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from workbench.errors import InputError, check_known, suggest
from workbench.names import ToyAttention, ToyStart

BlockName = Literal["tf", "attn", "mlp"]

STRUCTURES: dict[str, tuple[BlockName, ...]] = {
    "1xTF": ("tf",),
    "2xTF": ("tf", "tf"),
    "3xTF": ("tf", "tf", "tf"),
    "2xTF+MLP": ("tf", "tf", "mlp"),
    "MLP+TF+MLP": ("mlp", "tf", "mlp"),
    "Attn+TF+MLP": ("attn", "tf", "mlp"),
    "Attn": ("attn",),
}


@dataclass(frozen=True)
class Architecture:
    """A toy transformer's shape.

    Attributes:
        name: what the structure is called.
        blocks: "tf", "attn" or "mlp" per layer.
        attention: "softmax", or "relu" for max(0, logit) divided by the number of visible keys.
        d_model: width of the residual stream.
        n_heads: heads per layer, each `d_model / n_heads` wide.
        d_mlp: width of the MLPs.
        n_ctx: longest sequence.
        norm: whether there are layer norms; without, the stream is read as it is.
        embedding_std: standard deviation of embeddings at the start. The paper's is 1; 0.1, as small as
            TransformerLens's default, delays the sink.
        start: how a seed becomes weights: "here", or "authors" for the order in which the authors' code draws the
            same laws, so that with `published.SEED` and its vocabulary training begins with their very weights.
    """

    name: str = "1xTF"
    blocks: tuple[BlockName, ...] = ("tf",)
    attention: ToyAttention = "softmax"
    d_model: int = 64
    n_heads: int = 1
    d_mlp: int = 256
    n_ctx: int = 64
    norm: bool = True
    embedding_std: float = 1.0
    start: ToyStart = "here"

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        wrong = [block for block in self.blocks if block not in get_args(BlockName)]
        if wrong or not self.blocks:
            raise InputError(f"blocks={self.blocks}: a model is a list of blocks, each 'tf', 'attn' or 'mlp'.")
        check_known("attention", self.attention, get_args(ToyAttention))
        check_known("start", self.start, get_args(ToyStart))
        if self.d_model % self.n_heads:
            raise InputError(f"d_model={self.d_model} cannot be shared by {self.n_heads} heads; it must be divisible.")

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    def has(self, layer: int, part: Literal["attn", "mlp"]) -> bool:
        """Whether a layer has attention, or an MLP."""
        return self.blocks[layer] in ("tf", part)

    @property
    def settings(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return asdict(self) | {"blocks": list(self.blocks)}


def architecture(name: str = "1xTF", **sizes: Any) -> Architecture:
    """A structure of the paper by name, such as "3xTF", with other sizes, such as `d_model=256` or `attention="relu"`.

    The MLP is four times as wide as the stream unless `d_mlp` is given.

    Raises:
        InputError: there is no such structure or no such size.
    """
    if name not in STRUCTURES:
        raise InputError(f"There is no structure {name!r}; {suggest(name, STRUCTURES)}")
    unknown = sorted(set(sizes) - set(Architecture.__dataclass_fields__))
    if unknown:
        raise InputError(
            f"An architecture has no {unknown[0]!r}; {suggest(unknown[0], Architecture.__dataclass_fields__)}"
        )
    sizes.setdefault("d_mlp", 4 * sizes.get("d_model", Architecture.d_model))
    return replace(Architecture(name=name, blocks=STRUCTURES[name]), **sizes)
