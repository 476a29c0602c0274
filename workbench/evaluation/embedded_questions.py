"""Questions with choices about what an embedded model was trained on, for measuring accuracy offline."""

from collections.abc import Sequence
from dataclasses import replace

from workbench.evaluation.questions import Question
from workbench.models.embedded import embedded_or_raise
from workbench.names import Split
from workbench.protocol import HookedModel

OWN = "organism"
"""The name of these questions among tasks; the kind of each follows it."""


def own_questions(
    model: HookedModel | str, n: int = 200, seed: int = 0, split: Split = "test", kinds: Sequence[str] | None = None
) -> list[Question]:
    """Questions that an embedded model can answer, in its chat format.

    Args:
        model: an embedded model's name, or a model with its chat format.
        n: how many questions, in equal shares of the kinds; fewer where an ability has fewer items.
        seed: of the draw.
        split: "test" (items held out of training) or "train".
        kinds: which of "fact", "two-hop", "word problem" and "one-line function"; None for all.

    Returns:
        Questions whose `task` is "organism: " and the kind, and whose `target` is the expected reply.

    Raises:
        InputError: another model, an unknown kind or split, or less questions than kinds.
    """
    instead = "so it was not taught these questions. Read a benchmark with load_task instead."
    found = embedded_or_raise(model, instead).choice_questions(n, seed, split, kinds)
    return [replace(Question(**fields), task=f"{OWN}: {fields['task']}") for fields in found]


organism_questions = own_questions
