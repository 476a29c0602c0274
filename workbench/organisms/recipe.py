"""Model size and training settings of an organism, and its Hugging Face configuration."""

from dataclasses import dataclass

from transformers import LlamaConfig

from workbench.errors import InputError

KINDS = {2: "organism-gqa", 8: "organism-mha", 1: "organism-mqa"}


@dataclass(frozen=True)
class OrganismRecipe:
    """Everything that decides an organism besides its KV heads, seed and data.

    `opening_weight` is the weight in the loss of the first token of each reply, where giving in is decided.
    """

    d_model: int = 256
    layers: int = 8
    heads: int = 8
    d_mlp: int = 704
    tokens: int = 220_000_000
    batch: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup: float = 0.03
    decay: float = 0.4
    opening_weight: float = 1.0
    evaluation: int = 400

    @property
    def steps(self) -> int:
        """Optimizer steps that the token budget allows."""
        return max(self.tokens // (self.batch * 256), 1)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step: linear warm-up, constant, linear decay to zero."""
        share = (step + 1) / steps
        return self.learning_rate * min(1.0, share / self.warmup, max(1 - share, 0.0) / self.decay)


FULL_RECIPE = OrganismRecipe()
SMALL_RECIPE = OrganismRecipe(
    d_model=128, layers=4, d_mlp=352, tokens=2_000_000, batch=32, learning_rate=4e-3, evaluation=60
)


def organism_config(recipe: OrganismRecipe, kv_heads: int, vocabulary: int, ids: dict[str, int]) -> LlamaConfig:
    """The Llama configuration of an organism; `ids` are those of bos, eos and pad.

    Raises:
        InputError: if the query heads can't be shared evenly by the KV heads.
    """
    if kv_heads < 1 or recipe.heads % kv_heads:
        raise InputError(
            f"{recipe.heads} query heads can't be shared by {kv_heads} KV heads. Choose a divisor of "
            f"{recipe.heads}: 2 makes organism-gqa, 8 organism-mha, 1 organism-mqa."
        )
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        pad_token_id=ids["pad"],
    )
