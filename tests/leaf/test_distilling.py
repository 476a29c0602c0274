import numpy as np
import pytest
import torch

from tests.interrupts import Killed, killed_before_update, spoiled, watched
from tests.leaf.made import examples, pair
from tests.tiny import tiny
from workbench.errors import InputError, WorkbenchWarning
from workbench.leaf.distillation_pairs import Lesson, Plan, lessons_of
from workbench.leaf.distilling import Settings, distill
from workbench.leaf.passes import target_rows
from workbench.models.load import load
from workbench.models.original import added_parameters, unwrapped
from workbench.runs.processes import Processes

QUICK = {"learning_rate": 1e-2, "batch_size": 4, "micro_batch": 2, "progress": False}
MANY = ((9, 4), (6, 3), (12, 5), (7, 1), (10, 2), (8, 3))


def made(n=6, prefix=0):
    return examples(MANY[:n], prefix)


def losses(*arguments, **options):
    return distill(*arguments, **QUICK | options).record["loss"].values


def by_hand(student, teacher, plan, reduction, temperature=1.0):
    """The same run token by token and without batches: KL of the logits before each response token."""
    import copy

    with unwrapped(student) as hf:
        own = copy.deepcopy(hf).requires_grad_(True)
    for parameter in added_parameters(own).values():
        parameter.requires_grad_(False)
    settings, found = Settings(1e-2), []
    optimizer = torch.optim.AdamW([p for p in own.parameters() if p.requires_grad], weight_decay=0.0)
    with unwrapped(teacher) as other:
        for step in range(plan.steps):
            loss = 0.0
            for share in plan[step]:
                each = []
                for one in share.lessons:
                    t = other(torch.tensor([one.teacher.tokens])).logits[0] / temperature
                    s = own(torch.tensor([one.student.tokens])).logits[0] / temperature
                    for k in range(len(one.student.target)):
                        at, bt = len(one.student.context) + k - 1, len(one.teacher.context) + k - 1
                        p = torch.softmax(t[bt], -1)
                        kl = (p * (torch.log_softmax(t[bt], -1) - torch.log_softmax(s[at], -1))).sum()
                        weight = one.weight / (1 if reduction == "token" else len(one.student.target))
                        each.append((weight, temperature**2 * kl))
                loss = loss + share.share * sum(w * kl for w, kl in each) / sum(w for w, _ in each)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(own.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = settings.rate(step, plan.steps)
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
    return np.array(found)


@pytest.mark.parametrize(("reduction", "temperature"), (("token", 1.0), ("example", 2.0)))
def test_training_equals_the_definition_token_by_token(reduction, temperature):
    student, teacher = pair()
    whole = made()
    crossed = [
        Lesson(one, one.without(one.positions[1:3]), weight) for one, weight in zip(whole[:3], (1, 2, 0.5), strict=True)
    ]
    plan = Plan(lessons_of(whole), crossed, mix=0.5, batch=4, steps=3)
    found = losses(student, teacher, whole, crossed, mix=0.5, steps=3, reduction=reduction, temperature=temperature)
    np.testing.assert_allclose(found, by_hand(student, teacher, plan, reduction, temperature), rtol=1e-6)


def test_the_first_response_token_is_scored_and_nothing_behind_the_last():
    one = made(1)[0]
    rows = target_rows([one], "cpu")
    assert rows.position.tolist() == [8, 9, 10, 11] and rows.row.tolist() == [0] * 4  # a prompt of 9, a response of 4
    early = examples(MANY[:1], prefix=2)[0]
    assert target_rows([early], "cpu").position.tolist() == [10, 11]


def test_how_a_batch_is_cut_changes_nothing_and_a_smaller_last_batch_is_averaged_over_its_own():
    student, teacher = pair()
    cuts = [losses(student, teacher, made(), epochs=2, batch_size=5, micro_batch=m) for m in (1, 2, 5)]
    assert len(cuts[0]) == 3
    np.testing.assert_allclose(cuts[0], cuts[1], rtol=1e-9)
    np.testing.assert_allclose(cuts[0], cuts[2], rtol=1e-9)
    plan = Plan(lessons_of(made()), [], batch=5, epochs=2)
    np.testing.assert_allclose(cuts[0], by_hand(student, teacher, plan, "token"), rtol=1e-6)


def test_concatenation_is_lambda_by_numbers():
    student, teacher = pair()
    originals, others = made(4), [one.without(one.positions[:1]) for one in made(6)[4:]]
    options = {"reduction": "example", "batch_size": 6, "steps": 1}
    together = losses(student, teacher, originals, others, **options)
    mixed = losses(student, teacher, originals, others, mix=4 / 6, **options)
    np.testing.assert_allclose(together, mixed, rtol=1e-10)


def test_all_teacher_logits_from_disk_are_the_teacher_in_the_loop(tmp_path):
    student, teacher = pair()
    live = losses(student, teacher, made(), steps=4)
    stored = losses(student, teacher, made(), steps=4, top_k=97, cache=tmp_path)
    np.testing.assert_allclose(stored, live, rtol=1e-9)
    assert len(list(tmp_path.iterdir())) == 1

    def asked(*_):
        raise Killed

    hook = teacher.original_model.register_forward_pre_hook(asked)
    with pytest.warns(WorkbenchWarning, match="the whole model"):
        again = losses(student, teacher, made()[::-1], steps=4, top_k=97, cache=tmp_path)
    assert len(again) == 4
    with pytest.raises(Killed), pytest.warns(WorkbenchWarning, match="the whole model"):
        losses(student, teacher, made(), steps=4, top_k=5, cache=tmp_path)
    hook.remove()


def test_few_teacher_logits_are_a_smaller_loss(tmp_path):
    student, teacher = pair()
    assert losses(student, teacher, made(), steps=1, top_k=3, cache=tmp_path) < losses(
        student, teacher, made(), steps=1
    )


def test_a_killed_run_goes_on_with_the_same_curve(tmp_path):
    student, teacher = pair()
    options = QUICK | {"steps": 6, "every": 2}
    whole = distill(student, teacher, made(), **options)
    with killed_before_update(5):
        distill(student, teacher, made(), resume=tmp_path / "run", **options)
    with watched(torch.optim.AdamW, "step") as updates:
        resumed = distill(student, teacher, made(), resume=tmp_path / "run", **options)
    assert len(updates) == 2
    for name in whole.record:
        assert np.array_equal(whole.record[name], resumed.record[name]), name
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(InputError, match="belongs to a distillation run with another configuration"):
        distill(student, teacher, made(), resume=tmp_path / "run", **options | {"learning_rate": 2e-2})


def test_rows_that_pad_the_teachers_vocabulary_are_cut_off_before_the_softmax():
    student, _ = pair()
    plain = tiny("llama", seed=7)
    wide = tiny("llama", seed=7)
    wide.resize_token_embeddings(128, mean_resizing=False)
    with torch.no_grad():
        wide.lm_head.weight[97:] = 5.0
    narrow = losses(student, load(plain), made(), steps=2)
    np.testing.assert_allclose(losses(student, load(wide), made(), steps=2), narrow, rtol=1e-9)


def test_the_given_student_stays_as_it_was_and_the_copy_comes_closer_to_the_teacher():
    student, teacher = pair()
    before = [p.clone() for p in student.parameters()]
    found = distill(student, teacher, made(), steps=15, **QUICK)
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert found.record["loss"].values[-3:].mean() < 0.5 * found.record["loss"].values[:3].mean()
    assert next(found.model.parameters()).dtype == torch.float64 and not next(found.model.parameters()).requires_grad


def test_a_bf16_student_learns_in_float32():
    student, teacher = (load(tiny("llama", torch.bfloat16, seed)) for seed in (0, 7))
    seen = []

    def update(adamw, _closure=None):
        seen.append({p.dtype for group in adamw.param_groups for p in group["params"]})

    with watched(torch.optim.AdamW, "step", 0, update):
        made_ = distill(student, teacher, made(), steps=1, **QUICK)
    assert seen == [{torch.float32}] and next(made_.model.parameters()).dtype == torch.bfloat16


def test_the_rate_rises_and_falls_to_zero():
    rates = [Settings(1.0, warm_up=4).rate(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == pytest.approx(rates[4]) and rates[100] == pytest.approx(0)


def test_a_loss_that_is_not_finite_stops_the_run():
    with (
        watched(Processes, "backward", 0, spoiled),
        pytest.raises(InputError, match=r"Distillation stopped at update 0: loss nan"),
    ):
        distill(*pair(), made(), steps=2, **QUICK)


def test_what_cannot_be_distilled_is_refused(tmp_path):
    student, teacher = pair()
    bos = made(1)[0].__class__((1, 1, 5), (6, 2), (False, False, True), identifier="twice")
    with pytest.raises(InputError, match="Example 'twice' begins with BOS twice"):
        distill(student, teacher, [bos], steps=1, progress=False)
    long = examples(((130, 2),))
    with pytest.raises(InputError, match="has 132 tokens, but the student's context has 128"):
        distill(student, teacher, long, steps=1, progress=False)
    with pytest.raises(InputError, match="give cache= a folder"):
        distill(student, teacher, made(), steps=1, top_k=5, progress=False)
    with pytest.raises(InputError, match="top_k=98 must be between 1 and the vocabulary's 97"):
        distill(student, teacher, made(), steps=1, top_k=98, cache=tmp_path, progress=False)
