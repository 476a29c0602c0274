"""Accuracy on multiple-choice questions: the continuation with the highest log-likelihood, as in lm-evaluation-harness.

1. Prompt and choice are tokenized together and split where the prompt ends (`questions`).
2. Each different row of prompt and continuation without its last token runs once; choices of one token share a row.
3. A choice's log-likelihood is the sum over its tokens; the largest is chosen, after dividing by a length if wanted.

Rows that begin alike (few-shot examples) run their beginning once and use its keys and values again. While hooks
are on the model, an intervention may depend on the whole sequence: then every row runs from its first token, and only
rows of one length share a batch, so that no padding is seen either.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError, check_known
from workbench.evaluation.questions import Encoded, Question, Text, encode_question
from workbench.models.anatomy import Anatomy, anatomy
from workbench.models.attention import has_hooks
from workbench.models.capture import at, capture
from workbench.models.devices import device_of, devices_of
from workbench.models.exact import require_original
from workbench.models.forward import copies, prefix_cache, supports_prefix
from workbench.models.identity import fingerprint
from workbench.models.state import measures
from workbench.names import Normalise
from workbench.prompts.pairs import shared_prefix
from workbench.prompts.texts import digest
from workbench.protocol import HookedModel
from workbench.runs.batching import Batches, BatchSize
from workbench.runs.progress import hidden
from workbench.runs.run import Run

NORMALISE: dict[Normalise, Callable[[Text, tuple[int, ...]], float]] = {
    "none": lambda choice, tokens: 1.0,
    "characters": lambda choice, tokens: float(len(_text(choice))),
    "bytes": lambda choice, tokens: float(len(_text(choice).encode())),
    "tokens": lambda choice, tokens: float(len(tokens)),
}
WORTH_SHARING = 512
"""Tokens that a shared beginning must save to be worth a forward pass of its own."""
_ALIKE = 32
"""Rows whose first so many tokens agree are looked at for a longer shared beginning."""
_POSITIONS = 128
"""Positions unembedded at a time: a row of the vocabulary is large."""

Row = tuple[int, ...]


class Read(NamedTuple):
    """A log-likelihood to read from a row: of `tokens`, the first of which is predicted at `start`."""

    row: int
    start: int
    tokens: tuple[int, ...]
    question: int
    choice: int


@measures
@torch.no_grad()
def score_choices(
    model: HookedModel,
    questions: Sequence[Question],
    *,
    normalise: Normalise = "none",
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Choose the likeliest continuation of every question; hooks that are on the model are active.

    Args:
        model: a TransformerLens model.
        questions: from `load_task`, `own_questions` or your own; each with choices.
        normalise: what a log-likelihood is divided by before choices are compared: nothing (the harness's `acc`), the
            choice's characters without the space in front (its `acc_norm`), bytes or tokens.
        batch_size: rows at a time; "auto" measures how many fit.
        resume: the netCDF file of the result: finished batches are kept beside it, and a stopped run goes on from them.
        progress: show a bar.

    Returns:
        `loglikelihood` and `n_tokens` (example, choice; NaN and 0 after a question's last choice), `chosen`, `answer`,
        `correct` and `margin` (the right choice's score minus the best wrong one's) per example, and the coordinate
        `id`. attrs: `accuracy` with its 95 % Wilson interval `accuracy_low`, `accuracy_high`, and `chance`.

    Raises:
        InputError: no questions, one without choices, one longer than the model's context, an unknown `normalise`,
            or a resumed run of another configuration.
    """
    _check(questions, normalise)
    require_original(model)
    encoded = [encode_question(model, question) for question in questions]
    parts = anatomy(model)
    rows, reads = _rows(encoded)
    _refuse_long(model, rows, reads, questions)
    of_row: list[list[Read]] = [[] for _ in rows]
    for read in reads:
        of_row[read.row].append(read)
    batches = Batches(devices_of(model), batch_size)
    with _run(resume, model, questions, encoded, normalise) as run:
        if run.finished is not None:
            return run.finished
        left = set(run.left(len(rows)))
        done = len(rows) - len(left)
        bar = tqdm(total=len(rows), initial=done, desc="Scoring choices", disable=hidden(progress))
        for members, shared in _groups(model, rows, reads):
            members = [i for i in members if i in left]
            if members:
                past = prefix_cache(model, [rows[members[0]][:shared]])
                run.over(members, batches, partial(_measure, model, parts, rows, of_row, past, shared), bar.update)
        bar.close()
        values = run.joined(len(rows), "read")["loglikelihood"].values
        width = max(len(question.choices) for question in questions)
        found = np.full((len(questions), width), np.nan)
        for own, likely in zip(of_row, values, strict=True):
            for read, value in zip(own, likely, strict=False):
                found[read.question, read.choice] = value
        return run.finish(_dataset(found, questions, encoded, normalise))


def interval(correct: Sequence[bool] | np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Accuracy, the share of answers that were right, with both ends of its Wilson interval."""
    values = np.asarray(correct, dtype=bool)
    if not len(values):
        raise InputError("No answers to count: give at least one.")
    ends = stats.binomtest(int(values.sum()), len(values)).proportion_ci(confidence_level=level, method="wilson")
    return float(values.mean()), float(ends.low), float(ends.high)


def accuracy(correct: np.ndarray) -> dict[str, float]:
    """`accuracy` with its 95 % interval `accuracy_low` and `accuracy_high`, as attributes of a result."""
    return dict(zip(("accuracy", "accuracy_low", "accuracy_high"), interval(correct), strict=True))


def context_length(model: HookedModel) -> int | None:
    """The most tokens the model's configuration allows in a sequence; None where it names no limit."""
    config = getattr(getattr(model, "original_model", None), "config", None)
    known = getattr(config, "max_position_embeddings", None) or getattr(model.cfg, "n_ctx", None)
    return int(known) if known else None


def _check(questions: Sequence[Question], normalise: Normalise) -> None:
    check_known("normalise", normalise, NORMALISE)
    if not questions:
        raise InputError("No questions: the list is empty. Give at least one.")
    without = next((q for q in questions if not q.choices), None)
    if without is not None:
        raise InputError(
            f"Question {without.id!r} of {without.task or 'this list'} has no choices: its reply must be generated. "
            "Use score_replies."
        )
    if normalise in ("characters", "bytes") and any(not isinstance(q.prompt, str) for q in questions):
        raise InputError(f"normalise={normalise!r} needs choices as text, and some are token ids; use 'tokens'.")


def _refuse_long(model: HookedModel, rows: list[Row], reads: list[Read], questions: Sequence[Question]) -> None:
    most = context_length(model)
    worst = max(range(len(rows)), key=lambda i: len(rows[i]))
    if most is not None and len(rows[worst]) > most:
        question = questions[next(read.question for read in reads if read.row == worst)]
        raise InputError(
            f"Question {question.id!r} of {question.task or 'this list'} has {len(rows[worst])} tokens, but the "
            f"model's context holds {most}. Give fewer examples (n_shots), or leave long questions out."
        )


# Step 2: which rows run, and together with which.


def _rows(encoded: Sequence[Encoded]) -> tuple[list[Row], list[Read]]:
    """The different rows, and what is read from them."""
    index: dict[Row, int] = {}
    reads = []
    for q, question in enumerate(encoded):
        for c, tokens in enumerate(question.continuations):
            row = question.context + tokens[:-1]
            at_row = index.setdefault(row, len(index))
            reads.append(Read(at_row, len(question.context) - 1, tokens, q, c))
    return list(index), reads


def _groups(model: HookedModel, rows: Sequence[Row], reads: Sequence[Read]) -> list[tuple[list[int], int]]:
    """Which rows may share a batch, the longest first, and how many tokens at their beginning are run once."""
    by_length = groups_by_length(rows, range(len(rows)))
    if has_hooks(model):
        return [(members, 0) for members in by_length]
    if supports_prefix(model):
        return _alike(rows, reads)
    return [(list(chain(*by_length)), 0)]


def groups_by_length(rows: Sequence[Sequence[int]], members: Iterable[int]) -> list[list[int]]:
    """The members whose rows are equally long, the longest first."""
    ordered = sorted(members, key=lambda i: -len(rows[i]))
    return [list(group) for _, group in groupby(ordered, key=lambda i: len(rows[i]))]


def _alike(rows: Sequence[Row], reads: Sequence[Read]) -> list[tuple[list[int], int]]:
    """Groups of rows with the number of tokens that they share at the beginning; the rest shares nothing."""
    first = {}
    for read in reads:
        first[read.row] = min(read.start, first.get(read.row, read.start))
    families: dict[Row, list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        families.setdefault(rows[i][:_ALIKE], []).append(i)
    groups, rest = [], []
    for members in families.values():
        head = rows[members[0]]
        shared = min(min(shared_prefix(head, rows[i]), first[i]) for i in members)
        if shared * (len(members) - 1) >= WORTH_SHARING:
            groups.append((members, shared))
        else:
            rest += members
    rest.sort(key=lambda i: -len(rows[i]))
    return [(rest, 0), *groups] if rest else groups


# Step 3: log-likelihoods.


def _measure(
    model: HookedModel,
    parts: Anatomy,
    rows: list[Row],
    of_row: list[list[Read]],
    past: Any,
    shared: int,
    some: list[int],
) -> xr.Dataset:
    """The log-likelihoods to be read from a batch of rows (example, read); NaN after a row's last."""
    reads = [(n, read) for n, i in enumerate(some) for read in of_row[i]]
    spots = sorted({(n, p) for n, read in reads for p in range(read.start, read.start + len(read.tokens))})
    place = {spot: k for k, spot in enumerate(spots)}
    device = device_of(model)
    where = torch.tensor([(n, p - shared) for n, p in spots], device=device).unbind(1)
    end = f"blocks.{parts.n_layers - 1}.hook_resid_post"
    sequences = [rows[i][shared:] for i in some]
    resid = capture(model, sequences, {end: at(*where)}, copies(past, len(some)))[end]
    wanted = [(place[n, read.start + k], token) for n, read in reads for k, token in enumerate(read.tokens)]
    values = _log_probabilities(parts, resid, torch.tensor(wanted, device=resid.device)).tolist()
    sums = np.full((len(some), max(len(of_row[i]) for i in some)), np.nan)
    taken = 0
    for n, i in enumerate(some):
        for k, read in enumerate(of_row[i]):
            sums[n, k] = sum(values[taken : taken + len(read.tokens)])
            taken += len(read.tokens)
    return xr.Dataset({"loglikelihood": (("example", "read"), sums)})


def _log_probabilities(
    parts: Anatomy, resid: Float[Tensor, "row d_model"], wanted: Int[Tensor, "read 2"]
) -> Float[Tensor, " read"]:
    """Log-probability of each wanted (spot, token id), a few rows of the vocabulary at a time."""
    spots, tokens = wanted.unbind(1)
    wide = torch.promote_types(resid.dtype, torch.float32)
    found = torch.empty(len(wanted), dtype=wide, device=resid.device)
    for start in range(0, len(resid), _POSITIONS):
        logits = parts.unembed(resid[start : start + _POSITIONS], None).to(wide).log_softmax(-1)
        here = (spots >= start) & (spots < start + _POSITIONS)
        found[here] = logits[spots[here] - start, tokens[here]].to(found.device)
    return found


# The result.


def _dataset(
    found: np.ndarray,
    questions: Sequence[Question],
    encoded: Sequence[Encoded],
    normalise: Normalise,
) -> xr.Dataset:
    if not np.isfinite(found).sum() == sum(len(q.choices) for q in questions):
        raise InputError(
            "The model gives log-likelihoods that are NaN or infinite, so no choice can be made. An intervention may "
            "have zeroed a whole layer, or the dtype is too narrow: try float32."
        )
    measure = NORMALISE[normalise]
    lengths = np.ones_like(found)
    n_tokens = np.zeros(found.shape, dtype=int)
    for i, (question, tokens) in enumerate(zip(questions, encoded, strict=True)):
        for k, (choice, ids) in enumerate(zip(question.choices, tokens.continuations, strict=True)):
            lengths[i, k], n_tokens[i, k] = measure(choice, ids), len(ids)
    scores = np.where(np.isnan(found), -np.inf, found / lengths)
    answer = np.array([int(q.answer or 0) for q in questions])
    chosen = scores.argmax(1)
    right = scores[np.arange(len(scores)), answer]
    others = scores.copy()
    others[np.arange(len(scores)), answer] = -np.inf
    chance = float(np.mean([1 / len(q.choices) for q in questions]))
    return xr.Dataset(
        {
            "loglikelihood": (("example", "choice"), found),
            "n_tokens": (("example", "choice"), n_tokens),
            "chosen": ("example", chosen),
            "answer": ("example", answer),
            "correct": ("example", chosen == answer),
            "margin": ("example", right - others.max(1)),
        },
        coords={"id": ("example", [q.id for q in questions]), "task": ("example", [q.task for q in questions])},
        attrs={**accuracy(chosen == answer), "chance": chance},
    )


def _run(
    resume: str | Path | None,
    model: HookedModel,
    questions: Sequence[Question],
    encoded: Sequence[Encoded],
    normalise: Normalise,
) -> Run:
    texts = [ids for e in encoded for ids in (e.context, *e.continuations)]
    parts = anatomy(model)
    return Run(
        resume,
        method="likeliest continuation",
        model=parts.name,
        weights=fingerprint(model),
        tasks=sorted({q.task for q in questions}),
        questions=digest(texts),
        answers=digest([[int(q.answer or 0) for q in questions]]),
        n_examples=len(questions),
        normalise=normalise,
        hooks_active=has_hooks(model),
        **parts.facts,
    )


def _text(choice: Text) -> str:
    return str(choice).lstrip()
