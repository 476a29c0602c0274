import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from workbench.leaf.divergence import divergence, top_k, top_k_divergence


def logits(seed, positions=5, vocab=11, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(positions, vocab, generator=generator, dtype=torch.float64)


def by_hand(teacher, student, temperature):
    """Sum over the vocabulary, one position and one token at a time."""
    found = []
    for t, s in zip(teacher.numpy() / temperature, student.numpy() / temperature, strict=True):
        p, log_p, log_q = softmax(t), log_softmax(t), log_softmax(s)
        found.append(sum(p[v] * (log_p[v] - log_q[v]) for v in range(len(p))) * temperature**2)
    return np.array(found)


@pytest.mark.parametrize("temperature", (1.0, 2.5))
def test_it_is_the_forward_divergence(temperature):
    teacher, student = logits(0), logits(1)
    found = divergence(teacher, student, temperature)
    np.testing.assert_allclose(found, by_hand(teacher, student, temperature), rtol=1e-12)
    assert (found > 0).all() and not torch.allclose(found, divergence(student, teacher, temperature))
    assert torch.equal(divergence(teacher, teacher, temperature), torch.zeros(5, dtype=torch.float64))


def test_a_probability_that_underflows_keeps_its_position():
    teacher, student = logits(0).float(), logits(1).float().requires_grad_(True)
    teacher[:, 3] = -1e4
    assert torch.softmax(teacher, -1)[0, 3] == 0
    found = divergence(teacher, student)
    found.sum().backward()
    assert torch.isfinite(found).all() and (found > 0.1).all() and torch.isfinite(student.grad).all()
    teacher[:, 3] = -torch.inf
    assert torch.allclose(divergence(teacher, student), found)


@pytest.mark.parametrize("temperature", (1.0, 2.5))
def test_the_whole_vocabulary_as_top_k_is_the_whole_divergence(temperature):
    teacher, student = logits(0), logits(1)
    kept = top_k(teacher, 11, temperature)
    np.testing.assert_allclose(
        top_k_divergence(kept, student, temperature), divergence(teacher, student, temperature), rtol=1e-12
    )


def test_what_is_left_over_is_one_more_outcome():
    teacher, student = logits(0), logits(1)
    kept = top_k(teacher, 3)
    for row in range(5):
        p, q = softmax(teacher[row].numpy()), softmax(student[row].numpy())
        likeliest = np.argsort(-p)[:3]
        assert kept.index[row].tolist() == likeliest.tolist()
        pairs = [(p[v], q[v]) for v in likeliest] + [(1 - p[likeliest].sum(), 1 - q[likeliest].sum())]
        wanted = sum(a * np.log(a / b) for a, b in pairs)
        assert float(top_k_divergence(kept, student)[row]) == pytest.approx(wanted, rel=1e-9)


def test_fewer_tokens_never_give_a_larger_divergence():
    teacher, student = logits(0), logits(1)
    found = torch.stack([top_k_divergence(top_k(teacher, k), student) for k in range(1, 12)])
    assert (found.diff(dim=0) > -1e-12).all()
