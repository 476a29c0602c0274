"""The KL divergence between teacher and student on each lesson, and the lessons where it is largest.

The gap needs no gold answer: it is the mean over the target tokens of KL(teacher || student), each model reading its
own side of the lesson.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from workbench.leaf.distillation_pairs import Lesson, lessons_of
from workbench.leaf.divergence import divergence
from workbench.leaf.teaching import observed
from workbench.models.original import unwrapped
from workbench.models.state import measures
from workbench.protocol import HookedModel


@measures
def gaps(student: HookedModel, teacher: HookedModel, lessons: Sequence[Any], *, micro_batch: int = 8) -> np.ndarray:
    """The mean KL(teacher || student) per target token, in nats, of each `Lesson` or example that both bridges read."""
    made = lessons_of(lessons, "lessons")
    vocabulary = min(int(model.cfg.d_vocab) for model in (student, teacher))
    order = sorted(range(len(made)), key=lambda i: len(made[i].student.tokens))
    found = np.empty(len(made))
    for start in range(0, len(made), micro_batch):
        index = order[start : start + micro_batch]
        some = [made[i] for i in index]
        with torch.no_grad():
            with unwrapped(teacher) as hf:
                said, _ = observed(hf, [one.teacher for one in some], vocabulary)
            with unwrapped(student) as hf:
                own, _ = observed(hf, [one.student for one in some], vocabulary)
        each = divergence(said.to(own.device), own).split([one.scored for one in some])
        found[index] = [float(part.mean()) for part in each]
    return found


@measures
def hardest(
    student: HookedModel, teacher: HookedModel, lessons: Sequence[Any], n: int, *, micro_batch: int = 8
) -> list[Lesson]:
    """The `n` lessons with the largest gaps, the largest first. Of a corpus: up-weighting without labels."""
    made = lessons_of(lessons, "lessons")
    order = np.argsort(-gaps(student, teacher, made, micro_batch=micro_batch), kind="stable")
    return [made[i] for i in order[:n]]
