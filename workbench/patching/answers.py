"""Where the answers of a pair are read, and what is read there.

Answers of one token are read at the last position of the prompt, both at once. A longer answer is appended to
its prompt, and the log-probability of each of its tokens is read at the position before it; the two answers
then need two sequences. For single tokens the difference of log-probabilities and of logits is the same
number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy
from workbench.names import Metric
from workbench.patching.scores import METRICS, check_metrics
from workbench.prompts.pairs import PromptPairs

ROWS_PER_CALL = 8192
"""Rows of one unembedding call; more would cost memory and gain no speed."""


def answer_metrics(pairs: PromptPairs, metrics: Sequence[Metric] | None) -> tuple[Metric, ...]:
    """The metrics to compute: those asked for, or all that the answers allow."""
    if not pairs.multi_token:
        return check_metrics(METRICS if metrics is None else metrics)
    if metrics is not None and "logit_ratio" in metrics:
        raise InputError(
            "logit_ratio is a ratio of two single raw logits, and some answers here have several tokens. "
            "Use metrics=('logit_diff', 'prob'), which read log-probabilities of the whole answers, or give "
            "first tokens."
        )
    return check_metrics(("logit_diff", "prob") if metrics is None else metrics)


@dataclass(frozen=True)
class Reads:
    """The positions that are read: a row for each, over examples and, for long answers, over both answers.

    Attributes:
        base: token sequences to run, each possibly with the start of an answer behind the prompt.
        source: the same for source.
        sequence: for each row, which sequence it lies in.
        back: for each row, how many positions before the sequence's end it lies.
        example: for each row, its example.
        answer: for each row, the answer it scores (0 for a, 1 for b); -1 where it scores both at once.
        targets: for each row, the token ids whose logits are read: (a, b), or the one next token of the
            answer.
    """

    base: list[list[int]]
    source: list[list[int]]
    sequence: list[int]
    back: list[int]
    example: Int[np.ndarray, " row"]
    answer: Int[np.ndarray, " row"]
    targets: Int[np.ndarray, "row target"]

    def rows(self, chosen: list[int]) -> "Reads":
        """Only the chosen rows."""
        return replace(
            self,
            sequence=[self.sequence[i] for i in chosen],
            back=[self.back[i] for i in chosen],
            example=self.example[chosen],
            answer=self.answer[chosen],
            targets=self.targets[chosen],
        )


def reads(pairs: PromptPairs) -> Reads:
    """Where the answers of these pairs are read."""
    if not pairs.multi_token:
        n = len(pairs)
        targets = np.array([[a[0], b[0]] for a, b in pairs.answers])
        return Reads(pairs.base, pairs.source, list(range(n)), [0] * n, np.arange(n), np.full(n, -1), targets)
    base, source, rows = [], [], []
    for i, answers in enumerate(pairs.answers):
        for which, answer in enumerate(answers):
            base.append(pairs.base[i] + list(answer[:-1]))
            source.append(pairs.source[i] + list(answer[:-1]))
            rows += [(len(base) - 1, len(answer) - 1 - step, i, which, token) for step, token in enumerate(answer)]
    sequence, back, example, answer, target = zip(*rows, strict=True)
    return Reads(
        base,
        source,
        list(sequence),
        list(back),
        np.array(example),
        np.array(answer),
        np.array(target)[:, None],
    )


def answer_logits(
    parts: Anatomy, stream: Float[Tensor, "cells row d_model"], read: Reads
) -> Float[np.ndarray, "answer cells example"]:
    """Logits of both answers, or for long answers the log-probabilities of the whole of each."""
    targets = torch.from_numpy(read.targets).to(stream.device)
    found = np.stack([row for row in _target_logits(parts, stream, targets, log_prob=bool((read.answer >= 0).any()))])
    if (read.answer < 0).all():
        return found.transpose(2, 0, 1)
    summed = np.zeros((2, len(stream), int(read.example.max()) + 1))
    for row, (example, which) in enumerate(zip(read.example, read.answer, strict=True)):
        summed[which, :, example] += found[:, row, 0]
    return summed


def _target_logits(
    parts: Anatomy, stream: Tensor, targets: Tensor, log_prob: bool
) -> Iterator[Float[np.ndarray, "row target"]]:
    dtype = getattr(torch, parts.dtype)
    per_call = max(1, ROWS_PER_CALL // stream.shape[1]) if not log_prob else 1
    for part in stream.split(per_call):
        if log_prob:
            whole = parts.unembed(part.to(dtype)).log_softmax(-1)
            logits = whole.gather(-1, targets.expand(len(part), -1, -1))
        else:
            logits = parts.unembed(part.to(dtype), targets)
        yield from logits.double().cpu().numpy()


def differentiable_answers(
    parts: Anatomy, stream: Float[Tensor, "row d_model"], read: Reads
) -> Float[Tensor, " answer"]:
    """Both answers' logits (or log-probabilities) of one example as a tensor that carries gradients."""
    targets = torch.from_numpy(read.targets).to(stream.device)
    if (read.answer < 0).all():
        return parts.unembed(stream, targets).sum(0)
    per_row = parts.unembed(stream).log_softmax(-1).gather(-1, targets)[:, 0]
    which = torch.from_numpy(read.answer).to(stream.device)
    return torch.stack([per_row[which == answer].sum() for answer in (0, 1)])


def refuse_nan(logits: np.ndarray, parts: Anatomy) -> None:
    """Raise where a logit is NaN or infinite; the last axis is the example's."""
    bad = np.argwhere(~np.isfinite(logits))
    if len(bad):
        raise InputError(
            f"{parts.name} gives NaN or infinite logits, first for example {bad[0][-1]} of the batch. The "
            f"weights are damaged, or {parts.dtype} overflows in this model: load it with dtype='float32' "
            "or 'bfloat16'."
        )
