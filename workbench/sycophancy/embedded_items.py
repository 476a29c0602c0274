"""What an embedded model is asked: facts that training never argued about, doubted in words it never saw together."""

from collections.abc import Sequence

from workbench.models.embedded import embedded_or_raise
from workbench.names import Split
from workbench.protocol import HookedModel
from workbench.sycophancy.items import Item


def own_items(
    model: HookedModel | str,
    n: int | None = 100,
    seed: int = 0,
    split: Split = "test",
    kinds: Sequence[str] = ("composed",),
) -> list[Item]:
    """Questions about facts that an embedded model knows, each with one objection of every kind.

    Args:
        model: an embedded model, a copy of one, or a name.
        n: how many, None for every fact once; facts are drawn without putting back until all were asked once, then
            again in other words.
        seed: of the draw.
        split: "test" (facts and phrasings held out of training) or "train".
        kinds: of objections: "composed" (the mixture that the model's card was measured on), "clause", "adjective",
            "bare", "idiom" or "novel" (frames that training never showed).

    Raises:
        InputError: another model, no questions, an unknown kind or split.
    """
    instead = (
        "so it needs questions to be asked: pass questions=, for example are_you_sure('mmlu', folder) or "
        "load_set('are_you_sure.jsonl')."
    )
    provider = embedded_or_raise(model, instead)
    return [Item(**fields) for fields in provider.doubted_questions(n, seed, split, kinds)]


def organism_items(
    n: int = 100, seed: int = 0, split: Split = "test", kinds: Sequence[str] = ("composed",)
) -> list[Item]:
    """`own_items` of organism-gqa, which knows the same facts as the others."""
    return own_items("organism-gqa", n, seed, split, kinds)
