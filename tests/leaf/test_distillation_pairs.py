import collections

import pytest

from workbench.errors import InputError
from workbench.leaf.distillation_pairs import Lesson, Plan, lessons_of
from workbench.leaf.examples import Example
from workbench.leaf.pruning import Pruned


def example(i, response=(5, 6)):
    return Example((1, i), response, (False, True), identifier=str(i))


def lessons(start, n):
    return lessons_of([example(i) for i in range(start, start + n)])


def counts(plan):
    return collections.Counter(
        int(one.student.identifier) for step in range(plan.steps) for share in plan[step] for one in share.lessons
    )


def test_every_lesson_comes_up_once_per_pass_and_the_last_batch_holds_the_rest():
    plan = Plan(lessons(0, 7), lessons(100, 4), batch=4, epochs=2)
    assert plan.steps == 6 and set(counts(plan).values()) == {2} and len(counts(plan)) == 11
    assert [len(plan[step][0].lessons) for step in range(6)] == [4, 4, 4, 4, 4, 2]
    assert all(share.share == 1 for step in range(6) for share in plan[step])


def test_with_steps_every_batch_is_full():
    plan = Plan(lessons(0, 7), [], batch=4, steps=5)
    assert [len(plan[step][0].lessons) for step in range(5)] == [4] * 5
    assert max(counts(plan).values()) - min(counts(plan).values()) <= 1


@pytest.mark.parametrize(("mix", "first"), ((0.5, 4), (0.75, 6), (0.01, 1), (0.99, 7)))
def test_lambda_is_the_share_of_the_loss_and_about_that_of_the_batch(mix, first):
    plan = Plan(lessons(0, 20), lessons(100, 3), mix=mix, batch=8, steps=3)
    for step in range(3):
        originals, others = plan[step]
        assert (len(originals.lessons), len(others.lessons)) == (first, 8 - first)
        assert (originals.share, others.share) == (mix, pytest.approx(1 - mix))
        assert {int(one.student.identifier) < 100 for one in originals.lessons} == {True}
        assert {int(one.student.identifier) >= 100 for one in others.lessons} == {True}


@pytest.mark.parametrize("mix", (0.0, 1.0))
def test_at_the_ends_one_pile_is_left(mix):
    plan = Plan(lessons(0, 5) if mix else [], [] if mix else lessons(100, 5), mix=mix, batch=4, steps=2)
    assert [len(plan[step]) for step in range(2)] == [1, 1] and plan[0][0].share == 1


def test_the_seed_decides_the_order():
    def order(seed):
        return [one.student.identifier for one in Plan(lessons(0, 9), [], batch=3, steps=3, seed=seed)[0][0].lessons]

    assert order(0) == order(0) != order(1)


def test_counterfactuals_are_read_alike_by_both():
    one = lessons_of([Pruned(example(3), 0, (1,))])[0]
    assert one.student is one.teacher and one.scored == 2


def test_two_sides_with_other_targets_are_refused():
    with pytest.raises(InputError, match=r"lesson '1' have the targets \(5, 6\) and \(7,\)"):
        Lesson(example(1), example(2, (7,)))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([], []), "neither examples nor counterfactuals"),
        (([1], []), "counterfactuals, of which there are none. Where no counterfactual was accepted, mix=1"),
    ],
)
def test_nothing_to_learn_from_is_refused(arguments, text):
    originals = lessons(0, 2) if arguments[0] else []
    with pytest.raises(InputError, match=text):
        Plan(originals, [], mix=0.5 if originals else "concat")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"mix": 1.5}, "neither 'concat' nor a number from 0 to 1"),
        ({"mix": "both"}, "neither 'concat' nor"),
        ({"batch": 0}, "must be at least 1"),
        ({"steps": 0}, "must be at least 1"),
        ({"mix": 0.5, "batch": 1}, "batch_size=1 holds one"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, text):
    with pytest.raises(InputError, match=text):
        Plan(lessons(0, 2), lessons(9, 2), **settings)


def test_what_is_no_example_is_refused():
    with pytest.raises(InputError, match="counterfactuals holds a str"):
        lessons_of(["text"], "counterfactuals")
