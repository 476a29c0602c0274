"""How far a student's next-token distribution is from its teacher's: KL(teacher || student) per position.

All logarithms come from log-softmax in float32 at least, so a teacher's probability that underflows to zero counts as
the zero that it contributes, and its position stays in the loss. Of top-k logits the remaining mass counts as one more
outcome: the divergence of the distributions over "each of the k, or any other token". It is never larger than the whole
one, by the data-processing inequality, and equal to it where k is the vocabulary.

At temperature T both logits are divided by T and the divergence is multiplied by T^2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class TopK(NamedTuple):
    """The likeliest next tokens at some positions: their ids, their log-probabilities, and that of all others."""

    index: Int[Tensor, "scored rank"]
    log_p: Float[Tensor, "scored rank"]
    rest: Float[Tensor, " scored"]


def log_probabilities(
    logits: Float[Tensor, "scored d_vocab"], temperature: float | int
) -> Float[Tensor, "scored d_vocab"]:
    """Log-softmax at a temperature, in float32 at least."""
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature, -1)


def divergence(
    teacher: Float[Tensor, "scored d_vocab"], student: Float[Tensor, "scored d_vocab"], temperature: float = 1.0
) -> Float[Tensor, " scored"]:
    """KL(teacher || student) x T^2 at each position."""
    log_p, log_q = log_probabilities(teacher, temperature), log_probabilities(student, temperature)
    return _weighted(log_p, log_q).sum(-1) * temperature**2


def top_k(logits: Float[Tensor, "scored d_vocab"], k: int, temperature: float = 1.0) -> TopK:
    """The k likeliest next tokens at each position, by falling probability."""
    log_p = log_probabilities(logits, temperature)
    kept, index = log_p.topk(k, -1)
    return TopK(index, kept, log_p.scatter(-1, index, -torch.inf).logsumexp(-1))


def top_k_divergence(
    teacher: TopK, student: Float[Tensor, "scored d_vocab"], temperature: float = 1.0
) -> Float[Tensor, " scored"]:
    """KL over the k tokens and the one outcome "any other", x T^2."""
    log_q = log_probabilities(student, temperature)
    kept = log_q.gather(-1, teacher.index)
    found = _weighted(teacher.log_p, kept).sum(-1)
    if teacher.index.shape[-1] < student.shape[-1]:
        others = log_q.scatter(-1, teacher.index, -torch.inf).logsumexp(-1)
        found = found + _weighted(teacher.rest, others)
    return found * temperature**2


def _weighted(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Every term p (log p - log q), and 0 where p is 0 whatever q is."""
    p = log_p.exp()
    there = p > 0
    gap = log_p.masked_fill(~there, 0) - log_q.masked_fill(~there, 0)
    return p * gap
