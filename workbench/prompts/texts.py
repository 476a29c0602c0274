"""Texts of any kind as token sequences, and tokens as words to read.

A measurement takes a text, a list of texts, lists of token ids, a token tensor with or without a mask, or a column
of a `datasets.Dataset`. Padding is cut off here, on whichever side it stands, so that it can change nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.prompts.templates import encode, tokenizer_of
from workbench.protocol import HookedModel


def token_sequences(
    model: HookedModel,
    texts: Any,
    *,
    mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
    max_tokens: int | None = None,
    column: str = "text",
) -> list[list[int]]:
    """Token ids of texts, without padding.

    Args:
        model: a TransformerLens model; its tokenizer reads texts, with BOS as it does by itself.
        texts: a text, several texts, lists of token ids, a token tensor `[pos]` or `[batch, pos]`, or a
            `datasets.Dataset`.
        mask: 1 where a token of a tensor is real, 0 where it is padding.
        max_tokens: what is longer is cut after so many tokens.
        column: the column of a `datasets.Dataset` that holds the texts.

    Raises:
        InputError: no texts, an empty one, ids that the model does not have, or a mask of another shape.
    """
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens={max_tokens} leaves nothing of a text; give at least 1, or None.")
    sequences = _sequences(model, _rows(texts, column), mask)
    if not sequences:
        raise InputError("No texts: the list is empty. Give at least one text.")
    vocab = int(model.cfg.d_vocab)
    for i, ids in enumerate(sequences):
        if not ids:
            raise InputError(f"Text {i} has no tokens. Leave empty texts out.")
        wrong = next((t for t in ids if not 0 <= t < vocab), None)
        if wrong is not None:
            raise InputError(
                f"Text {i} holds token id {wrong}, but the model knows the ids 0 to {vocab - 1}. The usual cause is "
                "a tokenizer of another model; tokenize with the one of this model."
            )
    return [ids[:max_tokens] for ids in sequences]


def words(model: HookedModel, sequences: Sequence[Sequence[int]]) -> list[list[str]]:
    """Each token as text; its id in brackets where the model has no tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return [[f"[{t}]" for t in ids] for ids in sequences]
    known = {t: tokenizer.decode([t]) for t in {t for ids in sequences for t in ids}}
    return [[known[t] for t in ids] for ids in sequences]


def _rows(texts: Any, column: str) -> Any:
    if isinstance(texts, str):
        return [texts]
    columns = getattr(texts, "column_names", None)
    if columns is None:
        return texts
    if column not in columns:
        raise InputError(f"The dataset has no column {column!r}; its columns are {list(columns)}. Pass column=….")
    return texts[column]


def _sequences(model: HookedModel, rows: Any, mask: Tensor | None) -> list[list[int]]:
    if isinstance(rows, Tensor):
        return _unpadded(rows, mask)
    if mask is not None:
        raise InputError("mask= belongs to a token tensor; lists of tokens and texts have no padding.")
    if not isinstance(rows, Iterable):
        raise InputError(f"Texts are strings, lists of token ids or a token tensor, not {type(rows).__name__}.")
    rows = list(rows)
    if rows and all(isinstance(row, Integral) for row in rows):
        rows = [rows]
    return [_ids(model, row, i) for i, row in enumerate(rows)]


def _ids(model: HookedModel, row: Any, i: int) -> list[int]:
    if isinstance(row, str):
        return encode(tokenizer_of(model), row)
    try:
        return [int(t) for t in row]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Text {i} is {type(row).__name__} {str(row)[:40]!r}; give a string or a list of token ids."
        ) from error


def _unpadded(tokens: Tensor, mask: Tensor | None) -> list[list[int]]:
    if tokens.ndim not in (1, 2) or tokens.is_floating_point():
        raise InputError(
            f"Tokens are ids [pos] or [batch, pos]; got {tokens.dtype} of shape {list(tokens.shape)}. Pass token "
            "ids, not embeddings or logits."
        )
    rows = tokens if tokens.ndim == 2 else tokens[None]
    real = torch.ones_like(rows, dtype=torch.bool) if mask is None else mask.bool().view(-1, mask.shape[-1])
    if real.shape != rows.shape:
        raise InputError(
            f"mask has shape {list(real.shape)}, but the tokens {list(rows.shape)}; it needs one value per token."
        )
    return [row[keep].tolist() for row, keep in zip(rows, real.to(rows.device), strict=True)]


def digest(sequences: Sequence[Sequence[int]]) -> str:
    """SHA-256 of all tokens: the identity of the texts in a result's provenance."""
    return hashlib.sha256(json.dumps([list(map(int, ids)) for ids in sequences]).encode()).hexdigest()
