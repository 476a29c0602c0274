"""Every score against a slow definition of its own, in float64 and one token at a time."""

import numpy as np
import pytest
import torch

from tests.leaf.made import examples, pair
from workbench.errors import InputError
from workbench.leaf import scores as module
from workbench.leaf.examples import Example
from workbench.leaf.scores import SCORES, Batch, TokenScore, score, scores_named
from workbench.leaf.scoring import sensitivity
from workbench.leaf.views import View, prunable_mask
from workbench.models.anatomy import anatomy

FAMILIES = ("gpt2", "llama", "granite")
LEVELS = ({}, {"prefix": 4, "lengths": ((5, 7), (4, 6))})


class Slow:
    """What one model shows of one example, by its definition: whole logits, and embeddings given by hand."""

    def __init__(self, model, example: Example):
        self.hf, self.example = model.original_model, example
        self.weight = self.hf.get_input_embeddings().weight

    def loss(self, context=None, embedded=None):
        context = self.example.context if context is None else context
        ids = torch.tensor([[*context, *self.example.target]])
        given = {"input_ids": ids} if embedded is None else {"inputs_embeds": embedded[None]}
        logits = self.hf(**given).logits[0].log_softmax(-1)
        targets = range(len(context), ids.shape[1])
        return -sum(logits[p - 1, ids[0, p]] for p in targets) / len(self.example.target)

    @property
    def embedded(self):
        return self.weight[list(self.example.tokens)].detach().clone()

    def gradient(self, embedded=None):
        leaf = (self.embedded if embedded is None else embedded).requires_grad_(True)
        return torch.autograd.grad(self.loss(embedded=leaf), leaf)[0]

    def norms(self):
        return [float(g.norm()) for g in self.gradient()]

    def attention(self):
        seen = []
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
        keep = [(name, lambda p, hook: seen.append(p[0].detach())) for name in names]
        with self.model.hooks(fwd_hooks=keep):
            self.model(torch.tensor([self.example.tokens]))
        asking = range(len(self.example.context) - 1, len(self.example.tokens) - 1)
        share = [np.mean([[float(h[q, k]) for q in asking] for p in seen for h in p]) for k in self.example.positions]
        return dict(zip(self.example.positions, np.array(share) / sum(share), strict=True))


def slow(model, example):
    one = Slow(model, example)
    one.model = model
    return one


def minmax(values: dict) -> dict:
    low, high = min(values.values()), max(values.values())
    return {p: (v - low) / (high - low) for p, v in values.items()}


def by_definition(name, student, teacher, example) -> dict:
    s, t, own = slow(student, example), slow(teacher, example), example.positions
    if name == "gradient_difference":
        of_t, of_s = minmax({p: t.norms()[p] for p in own}), minmax({p: s.norms()[p] for p in own})
        return minmax({p: of_t[p] - of_s[p] for p in own})
    if name == "raw_gradient_difference":
        return {p: t.norms()[p] - s.norms()[p] for p in own}
    if name in ("student_gradient", "teacher_gradient"):
        norms = (s if name == "student_gradient" else t).norms()
        return {p: norms[p] for p in own}
    if name == "gradient_x_input":
        product = (s.gradient() * s.embedded).sum(-1)
        return {p: float(product[p]) for p in own}
    if name == "integrated_gradients":
        total = torch.zeros(len(example.tokens), dtype=torch.float64)
        for k in range(4):
            between = s.embedded
            between[list(own)] *= (k + 0.5) / 4
            total += (s.gradient(between) * s.embedded).sum(-1) / 4
        return {p: float(total[p]) for p in own}
    if name == "occlusion":
        without = {p: example.context[:p] + example.context[p + 1 :] for p in own}
        return {p: float(s.loss() - s.loss(context)) for p, context in without.items()}
    if name == "student_attention":
        return s.attention()
    if name == "attention_difference":
        return {p: s.attention()[p] - t.attention()[p] for p in own}
    assert name == "perplexity"
    logits = s.hf(input_ids=torch.tensor([example.context])).logits[0].log_softmax(-1)
    return {p: float(-logits[p - 1, example.context[p]]) if p else 0.0 for p in own}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_score_is_what_its_definition_says(family, level):
    student, teacher = pair(family)
    some = examples(**level)[:2]
    names = [n for n in SCORES if n != "random"]
    found = sensitivity(student, teacher, some, scores=names, steps=4, progress=False)["sensitivity"]
    for name in names:
        for i, example in enumerate(some):
            wanted = by_definition(name, student, teacher, example)
            values = found.sel(score=name).values[i]
            assert set(np.flatnonzero(~np.isnan(values))) == set(example.positions)
            np.testing.assert_allclose([values[p] for p in wanted], list(wanted.values()), atol=2e-6, err_msg=name)


def test_integrated_gradients_add_up_to_the_change_of_the_loss():
    student, teacher = pair("gpt2")
    (example,) = examples()[:1]
    found = sensitivity(student, teacher, [example], scores=["integrated_gradients"], steps=64, progress=False)
    s, bare = slow(student, example), slow(student, example).embedded
    bare[list(example.positions)] = 0
    change = float(s.loss() - s.loss(embedded=bare))
    assert np.nansum(found["sensitivity"]) == pytest.approx(change, rel=1e-3)


def view(values):
    """A model's view that shows these gradients."""
    shown = object.__new__(View)
    shown.gradient = torch.tensor(values, dtype=torch.float64)
    return shown


def test_the_paper_score_does_not_see_the_scale_of_a_loss():
    some = [Example((1, 2, 3, 4), (5,), (False, True, True, True))]
    mask = prunable_mask(some)
    compute = SCORES["gradient_difference"].compute
    one = compute(Batch(some, view([[9.0, 1, 2, 4]]), view([[7.0, 3, 1, 2]]), mask))
    other = compute(Batch(some, view([[9e6, 1e3, 2e3, 4e3]]), view([[7.0, 3e-9, 1e-9, 2e-9]]), mask))
    np.testing.assert_allclose(one[0, 1:], [1.0, 0.1111111, 0.0], atol=1e-6)
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_a_flat_gradient_is_zero_for_that_model_and_the_other_decides():
    some = [Example((1, 2, 3, 4), (5,), (False, True, True, True))]
    compute = SCORES["gradient_difference"].compute
    found = compute(Batch(some, view([[9.0, 1, 2, 3]]), view([[0.0, 0, 0, 0]]), prunable_mask(some)))
    np.testing.assert_allclose(found[0, 1:], [1.0, 0.5, 0.0])
    both = compute(Batch(some, view([[0.0, 0, 0, 0]]), view([[0.0, 0, 0, 0]]), prunable_mask(some)))
    np.testing.assert_allclose(both[0, 1:], 0.0)


def test_random_depends_on_example_and_seed_and_not_on_the_batch():
    some = examples()
    student, teacher = pair()

    def drawn(those, seed=0):
        return sensitivity(student, teacher, those, scores="random", seed=seed, progress=False)["sensitivity"].values[0]

    together = drawn(some)
    np.testing.assert_array_equal(together[1, :6], drawn(some[1:2])[0])
    assert not np.allclose(together, drawn(some, seed=1), equal_nan=True)
    values = together[~np.isnan(together)]
    assert len(set(values)) == len(values)
    assert ((values >= 0) & (values < 1)).all()


def test_a_batch_shows_what_its_examples_show_alone():
    student, teacher = pair()
    some = [*examples(), *examples(((7, 2),), prefix=1)]
    together = sensitivity(student, teacher, some, scores="all", batch_size=4, progress=False)
    alone = sensitivity(student, teacher, some, scores="all", batch_size=1, progress=False)
    np.testing.assert_allclose(together["sensitivity"], alone["sensitivity"], atol=1e-6)


def test_occlusion_of_all_there_is_is_zero():
    student = pair()[0]
    shown = View(student, anatomy(student), [Example((5,), (6, 7), (True,))])
    assert shown.occlusion.tolist() == [[0.0]]
    assert shown.surprise.tolist() == [[0.0]]


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(module, "ADDED", {})


@pytest.mark.usefixtures("own")
def test_a_score_of_your_own_is_used_by_name():
    @score("late", confounding="high", title="how late a token stands")
    def late(batch):
        return torch.arange(batch.prunable.shape[1], dtype=torch.float64).expand(batch.prunable.shape)

    found = sensitivity(*pair(), examples()[:1], scores=["late"], progress=False)
    np.testing.assert_array_equal(found["sensitivity"].values[0, 0, 1:8], range(1, 8))
    assert found["confounding"].item() == "high"


@pytest.mark.usefixtures("own")
def test_scores_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="'random' is a score of workbench"):
        score("random", confounding="low")
    with pytest.raises(InputError, match="confounding values are 'low' or 'high'"):
        score("mine", confounding="up")
    with pytest.raises(InputError, match="There is no score 'occlusions': did you mean 'occlusion'"):
        scores_named("occlusions")
    with pytest.raises(InputError, match="at least one score and each of them once"):
        scores_named(["random", "random"])
    flat = TokenScore("flat", "low", lambda batch: torch.zeros(3))
    with pytest.raises(InputError, match=r"The score 'flat' gave values of shape \[3\] for 1 examples of 9 context"):
        sensitivity(*pair(), examples()[:1], scores=[flat], progress=False)
    undefined = TokenScore("undefined", "low", lambda batch: torch.full(batch.prunable.shape, torch.nan))
    with pytest.raises(InputError, match="The score 'undefined' of example 'example 0' is NaN or infinite at pos"):
        sensitivity(*pair(), examples()[:1], scores=[undefined], progress=False)
