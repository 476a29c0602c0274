"""Where the answers of a pair are read, and what is read there.

An answer is one token sequence or a set of them, and its score the logsumexp of their log-probabilities: the log of the
probability that the reply begins with any of them. The sequences of both answers form a tree; each of its inner nodes
(a beginning of a reply, the empty one included) is read once, whichever sequences go through it, so that shared
beginnings are computed once. Where every sequence is a single token, raw logits are read at the last position of the
prompt instead: differences of logits and of log-probabilities are the same number, and no other logit is needed. For
patched runs, of which only such differences are kept, so is every node that all sequences of an example go through.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from scipy.special import logsumexp
from torch import Tensor

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy
from workbench.names import Metric
from workbench.patching.scores import METRICS, check_metrics, contribution
from workbench.prompts.pairs import PromptPairs

ROWS_PER_CALL = 8192
"""Rows of one unembedding call for a few logits; more would cost memory and gain no speed."""
WHOLE_ROWS_PER_CALL = 1024
"""The same where the logits of the whole vocabulary are needed."""


def answer_metrics(pairs: PromptPairs, metrics: Sequence[Metric] | None) -> tuple[Metric, ...]:
    """The metrics to compute: those asked for, or all that the answers allow."""
    if pairs.single_tokens:
        return check_metrics(METRICS if metrics is None else metrics)
    if metrics is not None and "logit_ratio" in metrics:
        raise InputError(
            "logit_ratio is a ratio of two single raw logits, and some answers here have several tokens or are sets of "
            "openers. Use metrics=('logit_diff', 'prob'), which read log-probabilities of the whole answers, or give "
            "one token for each answer."
        )
    return check_metrics(("logit_diff", "prob") if metrics is None else metrics)


@dataclass(frozen=True)
class Reads:
    """The positions that are read, a row for each, and how the answers' scores are made of what is read there.

    An edge is a token that may follow at a row: its logit (raw) or log-probability is read. A sequence's
    log-probability is the sum over its edges, an answer's score the logsumexp over its sequences.

    Attributes:
        base: token sequences to run, each possibly with the beginning of a reply behind the prompt.
        source: the same for source.
        sequence: for each row, which of these it lies in.
        back: for each row, how many positions before the sequence's end it lies.
        example: for each row, its example.
        normalised: for each row, whether log-probabilities are read there, instead of raw logits.
        edge_row: for each edge, the row at which it is read.
        edge_token: for each edge, the token.
        passes: for each answer sequence, its edges.
        belongs: for each answer sequence, its example and its answer (0 for a, 1 for b).
    """

    base: list[list[int]]
    source: list[list[int]]
    sequence: list[int]
    back: list[int]
    example: Int[np.ndarray, " row"]
    normalised: Bool[np.ndarray, " row"]
    edge_row: Int[np.ndarray, " edge"]
    edge_token: Int[np.ndarray, " edge"]
    passes: list[list[int]]
    belongs: list[tuple[int, int]]

    @property
    def raw(self) -> bool:
        """Whether raw logits alone are read, which do where every sequence is a single token."""
        return not self.normalised.any()

    def differences(self) -> "Reads":
        """Raw logits where all sequences of an example pass: scores of both answers up to the same number."""
        passing = np.bincount(
            [self.edge_row[edge] for edges in self.passes for edge in edges], minlength=len(self.example)
        )
        sequences = np.bincount([example for example, _ in self.belongs])
        return replace(self, normalised=self.normalised & (passing < sequences[self.example]))

    def rows(self, chosen: list[int]) -> "Reads":
        """Only the chosen rows, with their edges; sequences keep their places."""
        place = {row: i for i, row in enumerate(chosen)}
        kept = [edge for edge, row in enumerate(self.edge_row) if int(row) in place]
        renamed = {edge: i for i, edge in enumerate(kept)}
        return replace(
            self,
            sequence=[self.sequence[i] for i in chosen],
            back=[self.back[i] for i in chosen],
            example=self.example[chosen],
            normalised=self.normalised[chosen],
            edge_row=np.array([place[int(self.edge_row[edge])] for edge in kept], dtype=int),
            edge_token=self.edge_token[kept],
            passes=[[renamed[edge] for edge in edges if edge in renamed] for edges in self.passes],
        )

    def ends(self, number: int, length: int) -> list[int]:
        """The read positions in the sequence of that number, of which the last `length` positions were run."""
        return [length - 1 - back for back, s in zip(self.back, self.sequence, strict=True) if s == number]

    def targets(self) -> tuple[Int[np.ndarray, "row target"], Int[np.ndarray, " edge"]]:
        """The tokens that are read at each row, the last repeated to fill it up, and the place of each edge there."""
        at: list[list[int]] = [[] for _ in self.sequence]
        slot = np.empty(len(self.edge_row), dtype=int)
        for edge, (row, token) in enumerate(zip(self.edge_row, self.edge_token, strict=True)):
            slot[edge] = len(at[row])
            at[row].append(int(token))
        width = max(map(len, at))
        return np.array([tokens + [tokens[-1]] * (width - len(tokens)) for tokens in at]), slot

    def sums(self) -> Float[np.ndarray, "edge sequence"]:
        """1 where an edge is part of a sequence."""
        matrix = np.zeros((len(self.edge_row), len(self.passes)))
        for column, edges in enumerate(self.passes):
            matrix[edges, column] = 1.0
        return matrix

    def join(self, values: Float[np.ndarray, "*cell sequence"]) -> Float[np.ndarray, "answer *cell example"]:
        """Answers' scores from those of their sequences: the logsumexp, the value itself where there is one."""
        n = 1 + max(example for example, _ in self.belongs)
        joined = np.empty((2, *values.shape[:-1], n))
        owners = np.array(self.belongs)
        for example in range(n):
            for which in (0, 1):
                own = values[..., (owners == (example, which)).all(1)]
                joined[which, ..., example] = own[..., 0] if own.shape[-1] == 1 else logsumexp(own, axis=-1)
        return joined


def reads(pairs: PromptPairs) -> Reads:
    """Where the answers of these pairs are read.

    Each example has a run for each longest beginning of an answer, a row for each beginning, and an edge for each token
    after one.
    """
    base: list[list[int]] = []
    source: list[list[int]] = []
    rows: list[tuple[int, int, int]] = []
    edges: list[tuple[int, int]] = []
    passes: list[list[int]] = []
    belongs: list[tuple[int, int]] = []
    for example, answers in enumerate(pairs.answer_sets):
        listed = [(which, sequence) for which, side in enumerate(answers) for sequence in side]
        inner = {s[:k] for _, s in listed for k in range(len(s))}
        longest = sorted(s for s in inner if not any(t[: len(s)] == s and len(t) > len(s) for t in inner))
        row_of: dict[tuple[int, ...], int] = {}
        for leaf in longest:
            base.append(pairs.base[example] + list(leaf))
            source.append(pairs.source[example] + list(leaf))
            for k in range(len(leaf) + 1):
                if leaf[:k] not in row_of:
                    row_of[leaf[:k]] = len(rows)
                    rows.append((len(base) - 1, len(leaf) - k, example))
        edge_of: dict[tuple[int, ...], int] = {}
        for which, sequence in listed:
            beginnings = [sequence[: k + 1] for k in range(len(sequence))]
            for beginning in beginnings:
                if beginning not in edge_of:
                    edge_of[beginning] = len(edges)
                    edges.append((row_of[beginning[:-1]], beginning[-1]))
            passes.append([edge_of[beginning] for beginning in beginnings])
            belongs.append((example, which))
    in_sequence, back, of_example = (list(column) for column in zip(*rows, strict=True))
    edge_row, edge_token = (np.array(column) for column in zip(*edges, strict=True))
    normalised = np.full(len(rows), any(len(through) > 1 for through in passes))
    return Reads(
        base, source, in_sequence, back, np.array(of_example), normalised, edge_row, edge_token, passes, belongs
    )


def answer_logits(
    parts: Anatomy, stream: Float[Tensor, "cell row d_model"], read: Reads
) -> Float[np.ndarray, "answer cell example"]:
    """Scores of both answers: raw logits, or log-probabilities of the whole of each."""
    return read.join(_edge_values(parts, stream, read) @ read.sums())


def _edge_values(
    parts: Anatomy, stream: Float[Tensor, "cell row d_model"], read: Reads
) -> Float[np.ndarray, "cell edge"]:
    """Raw logit or log-probability of each edge."""
    targets, slot = read.targets()
    values = np.empty((len(stream), *targets.shape))
    for normalised in (False, True):
        rows = np.flatnonzero(read.normalised == normalised)
        if len(rows):
            values[:, rows] = _target_values(parts, stream[:, rows], targets[rows], normalised)
    return values[:, read.edge_row, slot]


def _target_values(
    parts: Anatomy, stream: Float[Tensor, "cell row d_model"], targets: Int[np.ndarray, "row target"], normalised: bool
) -> Float[np.ndarray, "cell row target"]:
    """Log-probabilities or raw logits of each row's targets, some rows at a time."""
    n_rows, dtype = len(targets), getattr(torch, parts.dtype)
    wanted = repeat(torch.from_numpy(targets).to(stream.device), "row target -> (cell row) target", cell=len(stream))
    rows = rearrange(stream, "cell row d_model -> (cell row) d_model")
    found = []
    step = WHOLE_ROWS_PER_CALL if normalised else ROWS_PER_CALL
    for part, tokens in zip(rows.split(step), wanted.split(step), strict=True):
        if normalised:
            values = parts.unembed(part.to(dtype)).log_softmax(-1).gather(-1, tokens)
        else:
            values = parts.unembed(part.to(dtype), tokens)
        found.append(values.double().cpu().numpy())
    return rearrange(np.concatenate(found), "(cell row) target -> cell row target", row=n_rows)


def coverage(parts: Anatomy, stream: Float[Tensor, "run row d_model"], read: Reads) -> Float[np.ndarray, "run example"]:
    """P(a) + P(b): the share of what the model says in these runs that the two answers account for."""
    logprobs = replace(read, normalised=np.ones(len(read.example), dtype=bool))
    return np.exp(logprobs.join(_edge_values(parts, stream, logprobs) @ read.sums())).sum(0)


def cell_scores(parts: Anatomy, stream: Float[Tensor, "cell row d_model"], read: Reads) -> xr.Dataset:
    """Answer scores and coverage of the base run, which is the first cell, the source run, the last, and the rest.

    Both answers' scores of a run may be off by the same number, which no metric of theirs sees.

    Raises:
        InputError: scores that are not finite.
    """
    logits = answer_logits(parts, stream, read.differences())
    refuse_nan(logits, parts)
    return scored_cells(logits[:, 0], logits[:, -1], logits[:, 1:-1], coverage(parts, stream[[0, -1]], read))


def scored_cells(
    base: Float[np.ndarray, "answer example"],
    source: Float[np.ndarray, "answer example"],
    patched: Float[np.ndarray, "answer cell example"],
    covered: Float[np.ndarray, "run example"],
) -> xr.Dataset:
    """Answer scores of some examples, as they are kept until all are measured."""
    return xr.Dataset(
        {
            "base": (("answer", "example"), base),
            "source": (("answer", "example"), source),
            "patched": (("answer", "cell", "example"), patched),
            "coverage": (("side", "example"), covered),
        }
    )


def patching_result(
    found: xr.Dataset,
    dims: Sequence[str],
    coords: Mapping[str, Any],
    metrics: Sequence[Metric],
    cells: Int[np.ndarray, " cell"] | None = None,
) -> xr.Dataset:
    """Metrics, contributions and coverage from the answer scores of all examples.

    `cells` are the places of the measured cells on the grid where not all were measured; the others become NaN.
    """
    base, source, patched, covered = (found[name].values for name in ("base", "source", "patched", "coverage"))
    if cells is not None:
        grid = np.full((2, math.prod(len(coords[dim]) for dim in dims), patched.shape[-1]), np.nan)
        grid[:, cells] = patched
        patched = grid
    result = contribution(base, source, patched, dims=dims, coords=coords, metrics=metrics)
    return result.assign(coverage=("example", covered[0]), coverage_source=("example", covered[1]))


def differentiable_sequences(
    parts: Anatomy, stream: Float[Tensor, "row d_model"], read: Reads
) -> Float[Tensor, " sequence"]:
    """Logit or log-probability of each answer sequence as a tensor that carries gradients."""
    rows = torch.from_numpy(read.edge_row).to(stream.device)
    tokens = torch.from_numpy(read.edge_token).to(stream.device)
    logits = parts.unembed(stream)
    values = (logits if read.raw else logits.log_softmax(-1))[rows, tokens]
    return values @ torch.from_numpy(read.sums()).to(values)


def refuse_nan(logits: np.ndarray, parts: Anatomy) -> None:
    """Raise where a logit is NaN or infinite; the last axis is the example's."""
    bad = np.argwhere(~np.isfinite(logits))
    if len(bad):
        raise InputError(
            f"{parts.name} gives NaN or infinite logits, first for example {bad[0][-1]} of the batch. The "
            f"weights are damaged, or {parts.dtype} overflows in this model: load it with dtype='float32' "
            "or 'bfloat16'."
        )
