"""Texts of any kind as token sequences, and tokens as words to read.

A measurement takes a text, a list of texts, dialogues, lists of token ids, a token tensor with or without a mask, a
tokenizer's output, or a column of a `datasets.Dataset`. Padding is cut off here, on whichever side it stands, so that
it can change nothing.
"""

import hashlib
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Number
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.prompts.templates import encode, encode_dialogue, is_dialogue, tokenizer_of
from workbench.protocol import HookedModel

PART = "⋯"
"""Shown for a token that is a further part of the character before it."""
_BROKEN = "\N{REPLACEMENT CHARACTER}"
_LONGEST = 8
"""The most tokens that are read together: a character has at most four bytes, and a token may hold the end of one."""


def token_sequences(
    model: HookedModel,
    texts: Any,
    *,
    mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
    max_tokens: int | None = None,
    column: str = "text",
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[list[int]]:
    """Token ids of texts or dialogues, without padding.

    Args:
        model: a TransformerLens model; its tokenizer reads texts, with BOS as it does by itself.
        texts: a text, several texts, lists of token ids, a token tensor `[pos]` or `[batch, pos]`, what a tokenizer
            returns (with its attention mask), or a `datasets.Dataset`. In place of a text may stand a dialogue, a list
            of `{"role", "content"}` (or `{"messages": [...]}`), which the chat template renders: as it is where the
            assistant speaks last, else up to where its reply begins.
        mask: 1 where a token of a tensor is real, 0 where it is padding.
        max_tokens: what is longer is cut after so many tokens.
        column: the column of a `datasets.Dataset` that holds the texts.
        template_kwargs: further variables of the chat template, see `render`.

    Raises:
        InputError: no texts, an empty one, ids that the model does not have, a mask of another shape, or rows that
            begin or end in pad tokens without a mask.
    """
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens={max_tokens} leaves nothing of a text; give at least 1, or None.")
    texts = _column(texts, column)
    known = has_mask(texts, mask)
    rows = unpadded([texts] if isinstance(texts, str) or is_dialogue(texts) else texts, mask)
    sequences = [_ids(model, row, f"Text {i}", template_kwargs) for i, row in enumerate(rows)]
    if not known:
        given = [
            ids for row, ids in zip(rows, sequences, strict=True) if not (isinstance(row, str) or is_dialogue(row))
        ]
        refuse_padding(given, getattr(model, "tokenizer", None), batch=isinstance(texts, Tensor | np.ndarray | Mapping))
    if not sequences:
        raise InputError("No texts: the list is empty. Give at least one text.")
    vocab = int(model.cfg.d_vocab)
    for i, ids in enumerate(sequences):
        if not ids:
            raise InputError(f"Text {i} has no tokens. Leave empty texts out.")
        refuse_unknown_ids(ids, vocab, f"Text {i}")
    return [ids[:max_tokens] for ids in sequences]


def _ids(model: HookedModel, row: Any, name: str, template_kwargs: Mapping[str, Any] | None) -> list[int]:
    if isinstance(row, str):
        return encode(tokenizer_of(model), row)
    if is_dialogue(row):
        return encode_dialogue(tokenizer_of(model), row, template_kwargs=template_kwargs, name=name)
    return whole_ids(row, name)


def words(model: HookedModel, sequences: Sequence[Sequence[int]]) -> list[list[str]]:
    """Each token as text; its id in brackets where the model has no tokenizer.

    Where several tokens are one character, as in Japanese or of an emoji, the first shows it and the others `PART`.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return [[f"[{t}]" for t in ids] for ids in sequences]
    known = {t: tokenizer.decode([t]) for t in {t for ids in sequences for t in ids}}
    return [_readable(tokenizer, list(ids), [known[t] for t in ids]) for ids in sequences]


def _readable(tokenizer: Any, ids: list[int], shown: list[str]) -> list[str]:
    start = 0
    while start < len(ids):
        end = start + 1
        if _BROKEN in shown[start]:
            lengths = range(2, min(_LONGEST, len(ids) - start) + 1)
            texts = {n: tokenizer.decode(ids[start : start + n]) for n in lengths}
            whole = next((n for n, text in texts.items() if _BROKEN not in text), 1)
            if whole > 1:
                end = start + whole
                shown[start:end] = [texts[whole], *[PART] * (whole - 1)]
        start = end
    return shown


def _column(texts: Any, column: str) -> Any:
    columns = getattr(texts, "column_names", None)
    if columns is None:
        return texts
    if column not in columns:
        raise InputError(f"The dataset has no column {column!r}; its columns are {list(columns)}. Pass column=….")
    return list(texts[column])


def unpadded(tokens: Any, mask: Any = None, name: str = "Text") -> list[Any]:
    """Rows of texts or token ids, without what a mask calls padding.

    Args:
        tokens: texts or lists of token ids, a token tensor or array `[pos]` or `[batch, pos]`, or what a tokenizer
            returns: `input_ids` with their `attention_mask`.
        mask: 1 where a token is real, 0 where it is padding.
        name: what an error calls a row.

    Raises:
        InputError: no token ids, or a mask of another shape.
    """
    tokens, mask = _given(tokens, mask)
    if isinstance(tokens, np.ndarray) and tokens.dtype.kind in "biuf":
        tokens = torch.from_numpy(tokens)
    if isinstance(tokens, Tensor):
        if tokens.ndim not in (1, 2) or tokens.is_floating_point() or tokens.dtype == torch.bool:
            raise InputError(
                f"Tokens are ids [pos] or [batch, pos]; got {tokens.dtype} of shape {list(tokens.shape)}. Pass token "
                "ids, not embeddings or logits."
            )
        rows = (tokens if tokens.ndim == 2 else tokens[None]).tolist()
    elif isinstance(tokens, Iterable):
        rows = list(tokens)
        rows = [rows] if rows and all(isinstance(row, Integral) for row in rows) else rows
    else:
        raise InputError(f"{name}s are strings, lists of token ids or a token tensor, not {type(tokens).__name__}.")
    rows = [_one(row, name, i) if isinstance(row, Mapping) else row for i, row in enumerate(rows)]
    return rows if mask is None else _kept(rows, mask)


def whole_ids(row: Any, name: str) -> list[int]:
    """Token ids as a list; numbers with a fraction are refused, as `name`, such as "Text 3"."""
    try:
        return [operator.index(t) for t in (row.tolist() if isinstance(row, Tensor | np.ndarray) else row)]
    except TypeError as error:
        raise InputError(
            f"{name} is {type(row).__name__} {str(row)[:40]!r}; give a string or a list of token ids, whole numbers."
        ) from error


def refuse_unknown_ids(ids: Iterable[int], vocab: int, name: str) -> None:
    """Raise for an id that a model of `vocab` tokens does not have; `name` is what the error calls the ids."""
    wrong = next((t for t in ids if not 0 <= t < vocab), None)
    if wrong is not None:
        raise InputError(
            f"{name} holds token id {wrong}, but the model knows the ids 0 to {vocab - 1}. The usual cause is a "
            "tokenizer of another model; tokenize with the one of this model."
        )


def has_mask(tokens: Any, mask: Any = None) -> bool:
    """Whether it is known which tokens are padding: from a mask, or from the one that a tokenizer returned."""
    return mask is not None or (isinstance(tokens, Mapping) and tokens.get("attention_mask") is not None)


def refuse_padding(rows: Sequence[Sequence[int]], tokenizer: Any, *, batch: bool, name: str = "Text") -> None:
    """Refuse rows of token ids, given without a mask, that begin or end in the tokenizer's pad token, if there is one.

    Where the pad token is BOS, EOS or the unknown token as well, one of them is taken for that, unless the rows are a
    `batch` (they were made equally long) and not all of them have it.
    """
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None or not rows:
        return
    shared = pad in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    for side, ordered in (("begins", rows), ("ends", [row[::-1] for row in rows])):
        runs = [next((n for n, t in enumerate(row) if t != pad), len(row)) for row in ordered]
        longest = max(runs)
        if longest > shared or (batch and longest > min(runs)):
            raise InputError(
                f"{name} {runs.index(longest)} {side} with {longest} pad token{'s' if longest > 1 else ''} "
                f"({tokenizer.pad_token!r}, id {pad}), which would be taken for text. Pass the mask as well (mask=, or "
                "all that the tokenizer returns), or leave the padding out and give lists of token ids."
            )


def _given(tokens: Any, mask: Any) -> tuple[Any, Any]:
    if not isinstance(tokens, Mapping):
        return tokens, mask
    if "input_ids" not in tokens:
        raise InputError(
            f"A mapping of {', '.join(map(str, tokens)) or 'nothing'} was given, not texts: give a list of texts, or "
            "what a tokenizer returns, with input_ids and attention_mask."
        )
    return tokens["input_ids"], tokens.get("attention_mask") if mask is None else mask


def _one(row: Mapping[str, Any], name: str, i: int) -> Any:
    """A dialogue, or the token ids of a tokenizer's output for one text."""
    if is_dialogue(row.get("messages")):
        return row["messages"]
    rows = unpadded(row, name=name)
    if len(rows) != 1:
        raise InputError(f"{name} {i} holds {len(rows)} rows of token ids; give one for each text.")
    return rows[0]


def _kept(rows: list[Any], mask: Any) -> list[list[int]]:
    keeps = [keep.tolist() if isinstance(keep, Tensor | np.ndarray) else keep for keep in mask]
    keeps = [keeps] if keeps and isinstance(keeps[0], Number) else keeps
    rows = [[row] if isinstance(row, str) else list(row) for row in rows]
    if list(map(len, rows)) != list(map(len, keeps)):
        raise InputError(
            f"mask has shape {_shape(keeps)}, but the tokens {_shape(rows)}; it needs one value per token. mask= "
            "belongs to a token tensor; texts and lists without padding need none."
        )
    return [[t for t, real in zip(row, keep, strict=True) if real] for row, keep in zip(rows, keeps, strict=True)]


def _shape(rows: list[Any]) -> list[Any]:
    lengths = list(map(len, rows))
    return [len(rows), lengths[0]] if len(set(lengths)) == 1 else [len(rows), lengths]


def digest(sequences: Sequence[Sequence[int]]) -> str:
    """SHA-256 of all tokens: the identity of the texts in a result's provenance."""
    return hashlib.sha256(json.dumps([list(map(int, ids)) for ids in sequences]).encode()).hexdigest()
