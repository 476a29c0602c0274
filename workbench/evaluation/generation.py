"""Greedy generation for many prompts at once; each reply equals the one that its prompt would get alone.

1. Prompts of different lengths share a batch through padding on the left, a mask and explicit positions; models whose
   logits change under padding in a short trial (and hooks, which may read every position) get batches of one length.
2. Keys and values are kept from step to step, in the original model with fused attention where a short trial gives the
   same logits. While hooks are on the model, or where it keeps no such cache (Mamba, RWKV), every step runs the whole
   sequences again: an intervention then sees what it would see in a text that long.
3. A reply ends at an end token, at a stop string, after so many tokens or where the model's context ends.
"""

import inspect
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.evaluation.local import context_length, groups_by_length
from workbench.evaluation.questions import Question, encode_prompt
from workbench.models.anatomy import Anatomy, anatomy, kind_of
from workbench.models.attention import has_hooks
from workbench.models.capture import at, capture
from workbench.models.devices import device_of, devices_of
from workbench.models.exact import require_original
from workbench.models.forward import cache_keyword, cache_of
from workbench.models.identity import fingerprint
from workbench.models.original import fused_attention, left_padded, left_padded_logits, masked_positions, unwrapped
from workbench.models.state import measures
from workbench.prompts.templates import encode_dialogue, is_dialogue, tokenizer_of
from workbench.prompts.texts import digest, unpadded, whole_ids
from workbench.protocol import HookedModel
from workbench.runs.batching import Batches, BatchSize
from workbench.runs.progress import hidden
from workbench.runs.results import text_array
from workbench.runs.run import Run

TRIAL = 8
"""Prompts of the first batch, by whose memory the others are chosen: the steps cost little more than for one."""


class ContextFull(InputError):
    """A prompt leaves no room in the model's context for a reply."""


NEXT_QUESTION = ("\nQuestion:",)
"""Where a model without a chat template runs on after "Question: … Answer:"; what follows is no part of its reply."""


@measures
@torch.no_grad()
def generate(
    model: HookedModel,
    prompts: Sequence[Any],
    *,
    max_new_tokens: int = 256,
    stop: Sequence[str] = (),
    template_kwargs: Mapping[str, Any] | None = None,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """The model's greedy reply to every prompt; hooks that are on the model are active.

    Args:
        model: a TransformerLens model; with a tokenizer unless prompts are token ids.
        prompts: texts, token ids, `Question`s, or dialogues (lists of messages, rendered by the chat template).
        max_new_tokens: tokens a reply may have.
        stop: strings that end a reply; they are cut off.
        template_kwargs: further variables of the chat template, see `workbench.prompts.render`.
        batch_size: prompts at a time; "auto" measures how many fit.
        resume: the netCDF file of the result: finished batches are kept beside it, and a stopped run goes on from them.
        progress: show a bar.

    Returns:
        `reply` (text, without special tokens and stop string), `tokens` (example, step; -1 after the end), `n_tokens`
        (the end token included) and `ending`, per example: at an "end" token, a "stop" string, at the "length"
        `max_new_tokens`, or where the "context" was full.

    Raises:
        InputError: no prompts, an empty one, one that fills the context, or a resumed run of another configuration.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens} leaves no room for a reply; give at least 1.")
    sequences = _sequences(model, prompts, template_kwargs)
    limits = _Limits(model, max_new_tokens, tuple(stop))
    limits.refuse(sequences)
    require_original(model)
    parts = anatomy(model)
    facts = {
        "method": "greedy",
        "model": parts.name,
        "weights": fingerprint(model),
        "prompts": digest(sequences),
        "max_new_tokens": max_new_tokens,
        "stop": list(stop),
        "hooks_active": has_hooks(model),
        "dtype": parts.dtype,
    }
    with Run(resume, **facts) as run:
        if run.finished is not None:
            return run.finished
        left, batches = run.left(len(sequences)), Batches(devices_of(model), batch_size, trial=TRIAL)
        bar = tqdm(
            total=len(sequences), initial=len(sequences) - len(left), desc="Generating", disable=hidden(progress)
        )
        for members in _groups(model, sequences, left, facts["hooks_active"]):
            run.over(members, batches, lambda some: _piece(_replies(model, parts, sequences, some, limits)), bar.update)
        bar.close()
        return run.finish(run.joined(len(sequences), "step", {"tokens": -1}), device=parts.device)


@dataclass
class _Reply:
    """A reply while it grows."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    ending: str = ""


class _Limits:
    """What ends a reply."""

    def __init__(self, model: HookedModel, max_new_tokens: int, stop: tuple[str, ...]):
        self.tokenizer: Any = tokenizer_of(model) if stop else getattr(model, "tokenizer", None)
        if any(not s for s in stop):
            raise InputError("A stop string is empty and would end every reply at once; leave it out.")
        self.stop, self.max_new_tokens = stop, max_new_tokens
        self.context = context_length(model)
        self.ends = _end_tokens(model)
        self.tail = max((len(s.encode()) for s in stop), default=0) + 8

    def refuse(self, sequences: Sequence[Sequence[int]]) -> None:
        """Raise for a prompt that leaves no room."""
        longest = max(range(len(sequences)), key=lambda i: len(sequences[i]))
        if self.context is not None and len(sequences[longest]) >= self.context:
            raise ContextFull(
                f"Prompt {longest} has {len(sequences[longest])} tokens and fills the model's context of "
                f"{self.context}; no reply fits. Give fewer examples, or leave long prompts out."
            )

    def take(self, reply: _Reply, token: int, prompt: int) -> None:
        """Add a token to a reply, and note if that ends it."""
        reply.tokens.append(token)
        if token in self.ends:
            reply.ending = "end"
        elif self.stop and any(s in self.tokenizer.decode(reply.tokens[-self.tail :]) for s in self.stop):
            reply.ending = "stop"
        elif len(reply.tokens) >= self.max_new_tokens:
            reply.ending = "length"
        elif self.context is not None and prompt + len(reply.tokens) >= self.context:
            reply.ending = "context"
        if reply.ending:
            reply.text = self.text(reply)

    def text(self, reply: _Reply) -> str:
        """The reply as text, up to the first stop string."""
        if self.tokenizer is None:
            return ""
        tokens = reply.tokens[:-1] if reply.ending == "end" else reply.tokens
        text = self.tokenizer.decode(tokens)
        cuts = [text.index(s) for s in self.stop if s in text]
        return text[: min(cuts)] if cuts else self.tokenizer.decode(tokens, skip_special_tokens=True)


def _end_tokens(model: HookedModel) -> set[int]:
    """Every token that the model's configuration or its tokenizer calls an end."""
    original = getattr(model, "original_model", None)
    named = [
        getattr(getattr(original, "generation_config", None), "eos_token_id", None),
        getattr(getattr(original, "config", None), "eos_token_id", None),
        getattr(getattr(model, "tokenizer", None), "eos_token_id", None),
    ]
    return {int(t) for ids in named if ids is not None for t in (ids if isinstance(ids, list | tuple) else [ids])}


def _sequences(
    model: HookedModel, prompts: Sequence[Any], template_kwargs: Mapping[str, Any] | None
) -> list[list[int]]:
    if isinstance(prompts, str):
        raise InputError(f"prompts is one text; give a list of texts, such as [{prompts[:30]!r}].")
    rows = unpadded(prompts, name="Prompt")
    if not rows:
        raise InputError("No prompts: the list is empty. Give at least one.")
    sequences = [_ids(model, prompt, f"Prompt {i}", template_kwargs) for i, prompt in enumerate(rows)]
    empty = next((i for i, ids in enumerate(sequences) if not ids), None)
    if empty is not None:
        raise InputError(f"Prompt {empty} has no tokens; give at least one, such as BOS.")
    return sequences


def _ids(model: HookedModel, prompt: Any, name: str, template_kwargs: Mapping[str, Any] | None) -> list[int]:
    if isinstance(prompt, Question):
        prompt = prompt.prompt
    if is_dialogue(prompt):
        return encode_dialogue(tokenizer_of(model), prompt, reply=True, template_kwargs=template_kwargs, name=name)
    return encode_prompt(model, prompt if isinstance(prompt, str) else tuple(whole_ids(prompt, name)))


# Step 1: which prompts share a batch.


def _groups(model: HookedModel, sequences: Sequence[Sequence[int]], left: list[int], hooks: bool) -> list[list[int]]:
    """The prompts that are left, the longest first, in groups that may share a batch."""
    groups = groups_by_length(sequences, left)
    if groups and not hooks and (kind_of(model) == "hooked" or _holds(model, left_padded_logits)):
        return [list(chain(*groups))]
    return groups


Trial = Callable[[HookedModel, list[list[int]]], Tensor]
"""Last logits of some sequences, computed in another way."""
_trials: weakref.WeakKeyDictionary[Any, dict[Trial, bool]] = weakref.WeakKeyDictionary()


def _holds(model: HookedModel, trial: Trial) -> bool:
    """Whether a way to compute logits gives what the model gives for each sequence alone, found out once."""
    known = _trials.setdefault(model, {})
    if trial not in known:
        known[trial] = _same(model, trial)
    return known[trial]


@torch.no_grad()
def _same(model: HookedModel, trial: Trial) -> bool:
    vocab = int(model.cfg.d_vocab)
    some = [[(7 * i + 3) % vocab for i in range(n)] for n in (5, 12)]
    try:
        alone = torch.cat([left_padded_logits(model, [s]) for s in some]).double()
        found = trial(model, some).double()
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError):
        return False
    limit = {torch.float64: 1e-5, torch.float32: 1e-4}.get(next(model.parameters()).dtype, 0.05)
    return bool((found - alone).norm() <= limit * alone.norm())


def _continued_logits(model: HookedModel, sequences: list[list[int]]) -> Tensor:
    """The logits behind each sequence's last token, which goes on from the cache of those before it."""
    hf, found = model.original_model, []
    for sequence in sequences:
        tokens = torch.tensor([sequence], device=device_of(model))
        past = {cache_keyword(hf): cache_of(hf(input_ids=tokens[:, :-1], use_cache=True))}
        found.append(hf(input_ids=tokens[:, -1:], **past, use_cache=True).logits[:, -1])
    return torch.cat(found)


def _plain_logits(model: HookedModel, sequences: list[list[int]]) -> Tensor:
    """The logits that the original model with fused attention gives."""
    with _plain(model):
        return torch.cat([left_padded_logits(model, [s]) for s in sequences])


@contextmanager
def _plain(model: HookedModel) -> Generator[None]:
    """The original model in place of the wrapped one, with fused attention."""
    with unwrapped(model) as hf, fused_attention(hf):
        yield


# Step 2: one token after the other.


def _replies(
    model: HookedModel, parts: Anatomy, sequences: list[list[int]], some: list[int], limits: _Limits
) -> list[_Reply]:
    prompts = [sequences[i] for i in some]
    replies = [_Reply() for _ in some]
    keeps_cache = kind_of(model) == "bridge" and not has_hooks(model) and _holds(model, _continued_logits)
    step = _cached(model, prompts) if keeps_cache else _whole(model, parts, prompts, replies)
    live = list(range(len(some)))
    with _plain(model) if keeps_cache and _holds(model, _plain_logits) else nullcontext():
        while live:
            for row, token in zip(live, step(live), strict=True):
                limits.take(replies[row], token, len(prompts[row]))
            live = [row for row in live if not replies[row].ending]
    return replies


def _whole(
    model: HookedModel, parts: Anatomy, prompts: list[list[int]], replies: list[_Reply]
) -> Callable[[list[int]], list[int]]:
    """Next tokens of the live rows, from whole sequences."""
    end = f"blocks.{parts.n_layers - 1}.hook_resid_post"
    alone = kind_of(model) == "bridge" and not has_hooks(model)

    def step(live: list[int]) -> list[int]:
        rows = [prompts[row] + replies[row].tokens for row in live]
        if alone:
            return _likeliest(torch.cat([left_padded_logits(model, [row]) for row in rows]))
        device = device_of(model)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        resid = capture(model, rows, {end: at(torch.arange(len(rows), device=device), last)})[end]
        return _likeliest(parts.unembed(resid, None))

    return step


def _cached(model: HookedModel, prompts: list[list[int]]) -> Callable[[list[int]], list[int]]:
    """Next tokens of the live rows, from the last tokens and the keys and values before them."""
    hf, device = model.original_model, device_of(model)
    accepted = inspect.signature(hf.forward).parameters
    tokens, mask = left_padded(prompts, device)
    padded = not bool(mask.all())
    rows = list(range(len(prompts)))
    past: Any = None

    def step(live: list[int]) -> list[int]:
        nonlocal tokens, mask, rows, past
        if live != rows and _can_be_cut(past):
            kept = torch.tensor([rows.index(row) for row in live], device=device)
            tokens, mask, rows = tokens[kept], mask[kept], live
            past.batch_select_indices(kept.cpu())
        keywords: dict[str, Any] = {"use_cache": True, cache_keyword(hf): past}
        if padded:
            keywords["attention_mask"] = mask
            if "position_ids" in accepted:
                keywords["position_ids"] = masked_positions(mask)[:, -tokens.shape[1] :]
        if "logits_to_keep" in accepted:
            keywords["logits_to_keep"] = 1
        out = hf(input_ids=tokens, **keywords)
        past = cache_of(out)
        found = _likeliest(out.logits[:, -1])
        tokens = torch.tensor(found, device=device)[:, None]
        mask = torch.cat([mask, torch.ones_like(tokens)], -1)
        return [found[rows.index(row)] for row in live]

    return step


def _can_be_cut(cache: Any) -> bool:
    """Whether replies that have ended can be taken out of a cache; the states of short convolutions stay whole."""
    return all(hasattr(layer, "batch_select_indices") for layer in getattr(cache, "layers", ()))


def _likeliest(logits: Float[Tensor, "batch d_vocab"]) -> list[int]:
    if bool(logits.isnan().any()):
        raise InputError(
            "The model gives logits that are NaN, so no token can be chosen. An intervention may have zeroed a whole "
            "layer, or the dtype is too narrow: try float32."
        )
    return logits.argmax(-1).tolist()


# The result.


def _piece(replies: list[_Reply]) -> xr.Dataset:
    width = max(len(reply.tokens) for reply in replies)
    tokens = np.array([reply.tokens + [-1] * (width - len(reply.tokens)) for reply in replies])
    return xr.Dataset(
        {
            "reply": ("example", text_array([reply.text for reply in replies])),
            "tokens": (("example", "step"), tokens),
            "n_tokens": ("example", [len(reply.tokens) for reply in replies]),
            "ending": ("example", text_array([reply.ending for reply in replies])),
        }
    )
