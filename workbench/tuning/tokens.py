"""Dialogues as tokens and labels for the loss.

1. A dialogue that ends in the assistant's turn is rendered by the model's own chat template, whole, and once more
   without that turn up to where the reply begins.
2. The loss is on what the whole has beyond the second: the last reply and the token that ends it. Everything else is
   context (`loss_on="dialogue"` puts the loss on all tokens, the mistake to compare with).
3. Rows are padded on the right and no mask is used, since a causal model never sees what follows.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.errors import InputError, WorkbenchWarning
from workbench.models.forward import pad
from workbench.names import LossOn
from workbench.prompts.pairs import shared_prefix
from workbench.prompts.templates import Message, encode, render, tokenizer_of
from workbench.protocol import HookedModel

IGNORED = -100


@dataclass(frozen=True)
class Row:
    """The token ids of one dialogue, and the first token that the loss is on."""

    tokens: tuple[int, ...]
    start: int

    @property
    def labels(self) -> int:
        """Tokens that the loss is on."""
        return len(self.tokens) - self.start


def rows_of(
    model: HookedModel,
    dialogues: Sequence[Any],
    *,
    max_length: int = 2048,
    loss_on: LossOn = "reply",
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Every dialogue as tokens with the start of its loss.

    Dialogues are lists of messages, or mappings that hold one under "messages"; each ends in an assistant's turn. Those
    with more than `max_length` tokens are left out, with a warning: cut, they would lose their reply.

    Raises:
        InputError: no dialogues, one without a reply, a template that refuses it, or none that is short enough.
    """
    tokenizer = tokenizer_of(model)
    if not len(dialogues):
        raise InputError("No dialogues to tune on: the list is empty.")
    rows = [_row(tokenizer, _messages(dialogue, i), i, template_kwargs) for i, dialogue in enumerate(dialogues)]
    short = [row for row in rows if len(row.tokens) <= max_length]
    if not short:
        raise InputError(
            f"All {len(rows)} dialogues have more than max_length={max_length} tokens, so every label would be masked. "
            "Give shorter dialogues or a larger max_length."
        )
    if len(short) < len(rows):
        warnings.warn(
            f"{len(rows) - len(short)} of {len(rows)} dialogues have more than {max_length} tokens and are left out.",
            WorkbenchWarning,
            stacklevel=3,
        )
    return short if loss_on == "reply" else [Row(row.tokens, 1) for row in short]


def digest(rows: Sequence[Row]) -> str:
    """A short digest of all tokens and of where their losses begin."""
    text = json.dumps([(row.tokens, row.start) for row in rows], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def padded(rows: Sequence[Row], device: Any) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Tokens of some rows, padded on the right, and the label of every position: the next token, or `IGNORED`."""
    tokens, _ = pad([list(row.tokens) for row in rows], "cpu")
    labels = torch.full_like(tokens, IGNORED)
    for i, row in enumerate(rows):
        labels[i, row.start - 1 : len(row.tokens) - 1] = tokens[i, row.start : len(row.tokens)]
    return tokens.to(device), labels.to(device)


def _messages(dialogue: Any, i: int) -> list[Message]:
    messages = dialogue.get("messages") if isinstance(dialogue, Mapping) else dialogue
    try:
        made = [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]
    except (TypeError, KeyError) as cause:
        raise InputError(
            f"Dialogue {i} is no list of messages {{'role': …, 'content': …}}, nor a mapping with one under "
            f"'messages': {str(dialogue)[:80]}."
        ) from cause
    if not made or made[-1]["role"] != "assistant" or not made[-1]["content"].strip():
        turns = ", ".join(m["role"] for m in made) or "none"
        raise InputError(
            f"Dialogue {i} has no reply to learn from: its turns are {turns}, and the last must be the assistant's and "
            "not empty. All labels would be masked."
        )
    return made


def _row(tokenizer: Any, messages: list[Message], i: int, template_kwargs: Mapping[str, Any] | None) -> Row:
    given: dict[str, Any] = {"name": f"dialogue {i}", "template_kwargs": template_kwargs}
    whole = render(tokenizer, messages, reply=False, **given).rstrip()
    tokens = encode(tokenizer, whole, rendered=True)
    before = encode(tokenizer, render(tokenizer, messages[:-1], **given), rendered=True)
    if tokens[-1] not in tokenizer.all_special_ids and tokenizer.eos_token_id is not None:
        tokens = [*tokens, tokenizer.eos_token_id]
    start = shared_prefix(before, tokens)
    if not 0 < start < len(tokens):
        raise InputError(
            f"Dialogue {i}: the chat template drops the last reply or rewrites the dialogue from its first token, so "
            "there is nothing to put the loss on."
        )
    return Row(tuple(tokens), start)
