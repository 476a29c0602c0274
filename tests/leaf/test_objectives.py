import numpy as np
import pytest
import torch

from tests.leaf.made import examples, pair
from workbench.errors import InputError
from workbench.leaf import objectives as beyond
from workbench.leaf.distillation_pairs import Lesson
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
    lessons = [*beyond.crossed(whole, pruned), *(Lesson(one, one) for one in whole)]
    found = gaps(student, teacher, lessons, micro_batch=3)
    np.testing.assert_allclose(found, [by_hand(student, teacher, one) for one in lessons], rtol=1e-5)
    assert hardest(student, teacher, lessons, 2) == [lessons[i] for i in np.argsort(-found)[:2]]


def test_crossed_lessons_hide_the_span_from_the_teacher_alone():
    whole, pruned = setting()
    for lesson, one in zip(beyond.crossed(whole, pruned), pruned, strict=True):
        assert lesson.student == whole[one.origin] and lesson.teacher == one.example


def test_exchanged_lessons_have_another_examples_span_in_the_gap():
    whole, pruned = setting()
    givers = {tuple(whole[one.origin].tokens[p] for p in one.removed): one.origin for one in pruned}
    for lesson in beyond.exchanged(whole, pruned, 30, seed=1):
        host = next(one for one in pruned if one.example == lesson.teacher)
        at, longer = host.removed[0], len(lesson.student.tokens) - len(lesson.teacher.tokens)
        span = lesson.student.tokens[at : at + longer]
        assert givers[span] != host.origin
        assert lesson.student.without(range(at, at + longer)) == lesson.teacher


@pytest.mark.parametrize("prefix", (0, 2))
def test_transplanted_spans_lie_among_what_may_be_pruned(prefix):
    whole = examples(((9, 4), (6, 5), (12, 5)), prefix)
    pruned = prune(whole, [[one.positions[0]] for one in whole])
    for lesson in beyond.transplanted(whole, pruned, 30, seed=1):
        added = [i for i in lesson.student.positions if lesson.student.without([i]) == lesson.teacher]
        assert added and len(lesson.student.positions) == len(lesson.teacher.positions) + 1
        assert lesson.student.target == lesson.teacher.target


def test_shifts_are_what_pruning_does_to_the_student():
    student, _ = pair()
    whole, pruned = setting()
    found = beyond.shifted(student, whole, pruned)
    assert [lesson.student for lesson in found] == whole
    for i, lesson in enumerate(found):
        moved = [by_hand(student, student, Lesson(p.example, whole[i])) for p in pruned if p.origin == i]
        assert lesson.weight == pytest.approx(max(moved), rel=1e-5)


def test_released_and_repaired_lessons_are_the_originals():
    whole, pruned = setting()
    assert [(one.student, one.ignored) for one in beyond.attention_penalised(whole, pruned)] == [
        (whole[0], (2, 3)),
        (whole[1], (1,)),
        (whole[2], (4, 5, 8)),
    ]
    assert [one.ignored for one in beyond.attention_penalised(whole, pruned[:1], [2, 0])] == [(), (2, 3)]
    assert [one.student for one in beyond.repaired(whole, pruned)] == whole


def test_suspects_are_spans_that_the_teacher_can_do_without():
    student, teacher = pair()
    whole, _ = setting()
    assert beyond.candidate_spans(student, teacher, whole, progress=False) == []  # a random teacher answers wrongly
    told = [
        one.__class__(one.prompt, (said,), one.prunable)
        for one, said in zip(whole, said_first(teacher, whole), strict=True)
    ]
    found = beyond.candidate_spans(student, teacher, told, threshold=0.5, progress=False)
    assert all(said_first(teacher, [one.example])[0] == one.example.target[0] for one in found)


def said_first(model, cases):
    with unwrapped(model) as hf, torch.no_grad():
        return [int(hf(torch.tensor([one.prompt])).logits[0, -1].argmax()) for one in cases]


def test_a_single_original_has_nobody_to_exchange_with():
    whole, pruned = setting()
    with pytest.raises(InputError, match="no other example to take a span from"):
        beyond.exchanged(whole, pruned[:1], 3)
    with pytest.raises(InputError, match="counterfactual comes from example 1, and there are 1"):
        beyond.crossed(whole[:1], pruned)
