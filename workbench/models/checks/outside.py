"""Checks of the input: batches padded on either side, and the tokenizer's BOS, EOS and vocabulary."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from workbench.errors import InputError
from workbench.models.checks.context import CheckContext, NotApplicable, Outcome, worst
from workbench.models.devices import device_of
from workbench.models.exact import relative_error
from workbench.models.forward import pad
from workbench.models.original import left_padded_logits
from workbench.models.weights import quantisation
from workbench.prompts.templates import encode, has_template, render, tokenizer_of


def right_padding(context: CheckContext) -> Outcome:
    """Sequences of unequal length in one batch, padded on the right without a mask, against each alone."""
    sequences, device = _unequal(context.sequences), device_of(context.model)
    together = context.model(pad(sequences, device)[0])
    errors = [
        relative_error(row[: len(tokens)], context.model(torch.tensor([tokens], device=device))[0])
        for row, tokens in zip(together, sequences, strict=True)
    ]
    return Outcome(
        worst(errors),
        context.tolerance,
        "Logits of a right-padded batch against each sequence alone, relative error; all measuring here is batched so.",
        "Tokens see what follows them, so that batches of unequal lengths would change every result."
        if not quantisation(context.model)
        else "Quantised layers round a token's activations together with those of its batch, so that every result "
        "depends on what is run with it; 4-bit weights, or 8-bit ones with llm_int8_threshold=0.0, do not.",
    )


def left_padding(context: CheckContext) -> Outcome:
    """Sequences padded on the left under a mask, as text generation does it, against each alone."""
    sequences = _unequal(context.sequences)
    padded = left_padded_logits(context.model, sequences)
    device = device_of(context.model)
    errors = [
        relative_error(row, context.model(torch.tensor([tokens], device=device))[0, -1])
        for row, tokens in zip(padded, sequences, strict=True)
    ]
    return Outcome(
        worst(errors),
        context.tolerance,
        "Last logits of a left-padded batch with its mask against each sequence alone, relative error; only "
        "batched generation relies on it, nothing that is measured here does.",
        "NaN comes from padding that can see no token at all, in float64 above all; generate one text at a time."
        if np.isnan(worst(errors))
        else "Generate one text at a time.",
    )


def _leading(ids: Sequence[int], token: int) -> int:
    """How many times in a row a text begins with a token."""
    return next((n for n, other in enumerate(ids) if other != token), len(ids))


def bos(context: CheckContext) -> Outcome:
    """The tokenizer puts BOS first once or not at all."""
    tokenizer = _tokenizer(context)
    begin = tokenizer.bos_token_id
    count = 0 if begin is None else _leading(tokenizer("The cat sat.")["input_ids"], begin)
    return Outcome(
        count,
        1,
        f"BOS tokens that an encoded text begins with ({tokenizer.bos_token!r}).",
        "Two of them move the attention sink; repair the tokenizer's settings.",
    )


def eos(context: CheckContext) -> Outcome:
    """The tokenizer does not end every text with EOS."""
    why = (
        "A prompt that ends in EOS is over: texts given here lose it, token ids of your own keep it. Repair the "
        "tokenizer's settings."
    )
    return _count(_tokenizer(context), "eos", 0, why)


def _count(tokenizer: Any, kind: str, limit: int, why: str) -> Outcome:
    """How many tokens of a special kind an encoded text has."""
    special, word = getattr(tokenizer, f"{kind}_token_id"), getattr(tokenizer, f"{kind}_token")
    count = 0 if special is None else tokenizer("The cat sat.")["input_ids"].count(special)
    return Outcome(count, limit, f"{kind.upper()} tokens in an encoded text ({word!r}).", why)


def chat_bos(context: CheckContext) -> Outcome:
    """A dialogue in the chat template begins with BOS at most once; later ones may mark its turns."""
    tokenizer = _tokenizer(context)
    if not has_template(tokenizer):
        raise NotApplicable("The tokenizer has no chat template.")
    text, begin = render(tokenizer, [{"role": "user", "content": "Hello."}]), tokenizer.bos_token_id
    if begin is None:
        raise NotApplicable("The tokenizer has no BOS token.")
    naive = _leading(tokenizer(text)["input_ids"], begin)
    return Outcome(
        _leading(encode(tokenizer, text, rendered=True), begin),
        1,
        "BOS tokens that a dialogue begins with, as PromptPairs encodes it"
        + (f"; encoding the rendered text naively gives {naive}." if naive > 1 else "."),
        "Two of them move the attention sink; take BOS out of the chat template.",
    )


def vocabulary(context: CheckContext) -> Outcome:
    """Every id of the tokenizer is one that the model knows."""
    vocab = _tokenizer(context).get_vocab()
    largest, d_vocab = max(vocab.values()), int(context.model.cfg.d_vocab)
    return Outcome(
        largest,
        d_vocab - 1,
        f"The tokenizer's largest token id; the model knows 0 to {d_vocab - 1}.",
        "The tokenizer belongs to another model, or its added tokens need model.resize_token_embeddings.",
    )


def _tokenizer(context: CheckContext) -> Any:
    try:
        return tokenizer_of(context.model)
    except InputError:
        raise NotApplicable("The model has no tokenizer.") from None


def _unequal(sequences: list[list[int]]) -> list[list[int]]:
    """The sequences, and a beginning of the first where all are equally long."""
    same = len({len(s) for s in sequences}) == 1
    return [*sequences, sequences[0][: max(1, len(sequences[0]) // 2)]] if same else sequences
