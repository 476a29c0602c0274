"""Distillation data beyond the paper: confounding tokens whose attention the student is penalised for.

A pruned prompt cannot teach a student to ignore what is no longer there, and both models solve it already. So originals
are given unpruned, as `Lesson`s whose confounding spans `workbench.leaf.distill` penalises attention to: with its
`attention` option the loss has the attention that later tokens pay to them. The spans come from stage 1
(`counterfactuals`), or from all examples without labels (`candidate_spans`).
"""

from collections.abc import Sequence

from workbench.errors import InputError
from workbench.leaf.asking import ask
from workbench.leaf.distillation_pairs import Lesson
from workbench.leaf.examples import Example
from workbench.leaf.pruning import Pruned, prune
from workbench.leaf.scoring import sensitivity
from workbench.leaf.thresholds import candidates
from workbench.models.state import measures
from workbench.names import TokenScoreName
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize


def attention_penalised(
    examples: Sequence[Example], pruned: Sequence[Pruned], which: Sequence[int] | None = None
) -> list[Lesson]:
    """Originals, read by both models, with what pruning found as ignored positions.

    Args:
        examples: the originals.
        pruned: their counterfactuals; several spans of one original are ignored together.
        which: indices of the originals to take, also of some for which nothing was found; None takes those of `pruned`.

    Raises:
        InputError: a counterfactual of an example that is not there.
    """
    last = max((one.origin for one in pruned), default=-1)
    if last >= len(examples):
        raise InputError(
            f"A counterfactual comes from example {last}, and there are {len(examples)}. Give the examples that "
            "workbench.leaf.counterfactuals was given."
        )
    found: dict[int, set[int]] = {}
    for one in pruned:
        found.setdefault(one.origin, set()).update(one.removed)
    chosen = sorted(found) if which is None else list(which)
    return [Lesson(examples[i], examples[i], ignored=tuple(sorted(found.get(i, ())))) for i in chosen]


@measures
def candidate_spans(
    student: HookedModel,
    teacher: HookedModel,
    examples: Sequence[Example],
    *,
    score: TokenScoreName = "gradient_difference",
    threshold: float = 0.10,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = True,
) -> list[Pruned]:
    """Spans to which the student is sensitive and the teacher is not, in all examples.

    The student is not asked, so that a shortcut is found where it gives the right answer away, too.

    Args:
        student: a bridge from `workbench.load`.
        teacher: another, whose answer must stay right without the span.
        examples: the originals.
        score: the name of a score.
        threshold: a fraction.
        batch_size: examples at a time.
        seed: of the random score.
        progress: show bars.
    """
    found = sensitivity(student, teacher, examples, scores=[score], batch_size=batch_size, seed=seed, progress=progress)
    pruned = prune(examples, candidates(found, threshold=threshold))
    proved = ask(teacher, [one.example for one in pruned], batch_size=batch_size, progress=progress)
    return [one for one, right in zip(pruned, proved["correct"].values, strict=True) if right == 1]
