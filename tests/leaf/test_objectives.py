import numpy as np
import pytest
import torch

from tests.leaf.made import examples, pair
from workbench.errors import InputError
from workbench.leaf.distillation_pairs import Lesson
from workbench.leaf.objectives import attention_penalised, candidate_spans
from workbench.leaf.pruning import prune
from workbench.leaf.teacher_student_gap import gaps, hardest
from workbench.models.original import unwrapped


def setting():
    whole = examples(((9, 4), (6, 3), (12, 5)))
    return whole, prune(whole, [[2, 3], [1], [4, 5, 8]])


def by_hand(student, teacher, lesson):
    with unwrapped(student) as own, unwrapped(teacher) as other, torch.no_grad():
        logits = [
            hf(torch.tensor([side.tokens])).logits[0, len(side.context) - 1 : -1]
            for hf, side in ((other, lesson.teacher), (own, lesson.student))
        ]
    p, q = (one.log_softmax(-1) for one in logits)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_gaps_are_divergences_and_the_hardest_have_the_largest():
    student, teacher = pair()
    whole, pruned = setting()
    lessons = [*(Lesson(whole[one.origin], one.example) for one in pruned), *(Lesson(one, one) for one in whole)]
    found = gaps(student, teacher, lessons, micro_batch=3)
    np.testing.assert_allclose(found, [by_hand(student, teacher, one) for one in lessons], rtol=1e-5)
    assert hardest(student, teacher, lessons, 2) == [lessons[i] for i in np.argsort(-found)[:2]]


def test_released_lessons_are_the_originals():
    whole, pruned = setting()
    assert [(one.student, one.ignored) for one in attention_penalised(whole, pruned)] == [
        (whole[0], (2, 3)),
        (whole[1], (1,)),
        (whole[2], (4, 5, 8)),
    ]
    assert [one.ignored for one in attention_penalised(whole, pruned[:1], [2, 0])] == [(), (2, 3)]


def test_suspects_are_spans_that_the_teacher_can_do_without():
    student, teacher = pair()
    whole, _ = setting()
    assert candidate_spans(student, teacher, whole, progress=False) == []  # a random teacher answers wrongly
    told = [
        one.__class__(one.prompt, (said,), one.prunable)
        for one, said in zip(whole, said_first(teacher, whole), strict=True)
    ]
    found = candidate_spans(student, teacher, told, threshold=0.5, progress=False)
    assert all(said_first(teacher, [one.example])[0] == one.example.target[0] for one in found)


def said_first(model, cases):
    with unwrapped(model) as hf, torch.no_grad():
        return [int(hf(torch.tensor([one.prompt])).logits[0, -1].argmax()) for one in cases]


def test_a_counterfactual_of_an_example_that_is_not_there():
    whole, pruned = setting()
    with pytest.raises(InputError, match="counterfactual comes from example 2, and there are 1"):
        attention_penalised(whole[:1], pruned)
