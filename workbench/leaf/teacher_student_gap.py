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
from workbench.protocol import HookedModel


def gaps(student: HookedModel, teacher: HookedModel, lessons: Sequence[Any], *, micro_batch: int = 8) -> np.ndarray:
    """The gap of every lesson.

    Args:
        student: a bridge from `workbench.load`.
        teacher: another; it may be the student itself.
        lessons: `Lesson`s, or examples that both read.
        micro_batch: lessons per pass.
    """
    made = lessons_of(lessons, "lessons")
    vocabulary = min(int(model.cfg.d_vocab) for model in (student, teacher))
    order = sorted(range(len(made)), key=lambda i: len(made[i].student.tokens))
    found = np.empty(len(made))
    for start in range(0, len(made), micro_batch):
        index = order[start : start + micro_batch]
        some = [made[i] for i in index]
        said = _logits(teacher, [one.teacher for one in some], vocabulary)
        own = _logits(student, [one.student for one in some], vocabulary)
        each = divergence(said.to(own.device), own).split([one.scored for one in some])
        found[index] = [float(part.mean()) for part in each]
    return found


def hardest(
    student: HookedModel, teacher: HookedModel, lessons: Sequence[Any], n: int, *, micro_batch: int = 8
) -> list[Lesson]:
    """The lessons with the largest gaps, the largest first. Of a corpus: up-weighting without labels.

    Args:
        student: a bridge from `workbench.load`.
        teacher: another.
        lessons: `Lesson`s, or examples that both read.
        n: how many to keep.
        micro_batch: lessons per pass.
    """
    made = lessons_of(lessons, "lessons")
    order = np.argsort(-gaps(student, teacher, made, micro_batch=micro_batch), kind="stable")
    return [made[i] for i in order[:n]]


@torch.no_grad()
def _logits(model: HookedModel, examples: Sequence[Any], vocabulary: int) -> torch.Tensor:
    with unwrapped(model) as hf:
        return observed(hf, examples, vocabulary)[0]
