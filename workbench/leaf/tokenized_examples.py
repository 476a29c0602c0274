"""Examples from text: chat template, one BOS, and the tokens of the user's message located by character offsets.

The prompt is the rendered dialogue up to where the reply begins; the response is tokenized after it and gets the token
with which the template ends a turn. Where the user's words stand in the rendered text is found by rendering once more
with another message in their place, so that words which the template or a system message shares with the user's are not
mistaken for them. A tokenizer without a chat template gets "Question: … Answer:" in two lines instead.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.errors import InputError
from workbench.leaf.examples import Example, Wording
from workbench.prompts.templates import encode, has_template, render, tokenizer_of
from workbench.protocol import HookedModel, TextTokenizer

PLACEHOLDER = "\ue000"
"""A private-use character, which no text has."""
NEVER_PRUNED = ("", "\\")
"""Pieces that stay whatever their score, once stripped: white space, and the backslash that begins a LaTeX command."""

PROTECTED = {
    "options": r"(?:\(A\)|(?:^|\n)[ \t]*A[.)])\s[\s\S]*(?:\([B-J]\)|\n[ \t]*[B-J][.)])[^\n]*",
    "numbers": r"\d+(?:[.,]\d+)*",
}
"""Names of what may be protected: options, from "(A)" to the end of the last one's line, and numbers."""

Span = tuple[int, int]


def example(
    model: HookedModel | TextTokenizer,
    instruction: str,
    response: str,
    answer: str | None = None,
    *,
    system: str | None = None,
    suffix: str = "",
    cut_last: int = 0,
    protect: Sequence[str] = (),
    template_kwargs: Mapping[str, Any] | None = None,
    identifier: str = "",
) -> Example:
    """An example from text.

    Args:
        model: a model from `workbench.load` with a tokenizer, or a fast Hugging Face tokenizer.
        instruction: what the user asks.
        response: the gold response.
        answer: the gold final answer, such as "18"; None where the whole response must be met.
        system: a system message.
        suffix: what the user's message has after the instruction, such as a request to reason step by step; begin it
            with a space or a new line. Its tokens may not be pruned.
        cut_last: so many of the instruction's last tokens may not be pruned either; the released code cuts 15, the
            length of the request that its data has at the end of every instruction.
        protect: what may not be pruned either: "options", "numbers", or a regular expression; the tokens of all that
            it finds.
        template_kwargs: further variables of the chat template, see `workbench.prompts.render`.
        identifier: what tells the example from others.

    Raises:
        InputError: nothing that may be pruned, no regular expression, an empty instruction or response, a tokenizer
            that gives no character positions, a template that does not show the instruction as it is, or an answer that
            the response does not give.
    """
    tokenizer = _tokenizer(model)
    instruction, response = instruction.strip(), response.strip()
    where = f"Example {identifier!r}" if identifier else "An example"
    if not instruction or not response:
        raise InputError(f"{where} has an empty {'response' if instruction else 'instruction'}; leave it out.")
    if answer is not None and not _given(answer, response):
        raise InputError(
            f"{where}: the answer {answer!r} is not found in its response {response[-60:]!r}, so the gold response is "
            "not a right one. Correct the row, or leave it out."
        )
    frame = Frame(system, tuple((template_kwargs or {}).items()))
    rendered, user = _rendered(tokenizer, instruction, suffix, frame)
    prompt, located = _located(tokenizer, rendered, user)
    offsets = tuple((a - user[0], b - user[0]) for a, b in located)
    covered = tuple(_clipped(s, len(instruction)) for s in offsets)
    said = tokenizer(_lead(tokenizer) + response, add_special_tokens=False)["input_ids"]
    told: dict[str, Any] = {"system": system, "suffix": suffix, "protect": tuple(protect), "template": frame.template}
    wording = Wording(instruction, response, covered, **told)
    held = _held(instruction, protect)
    own = [i for i, span in enumerate(offsets) if _may_go(span, instruction, held)]
    kept = set(own[: len(own) - cut_last] if cut_last else own)
    if not kept:
        raise InputError(
            f"{where} has no token that may be pruned: {instruction[:60]!r} is all protected or cut off. Protect less, "
            "or leave it out."
        )
    return Example(
        prompt=tuple(prompt),
        response=(*said, *_ending(tokenizer, instruction, frame)),
        prunable=tuple(i in kept for i in range(len(prompt))),
        answer=answer,
        wording=wording,
        identifier=identifier,
    )


def reword(original: Example, model: HookedModel | TextTokenizer) -> Example:
    """The example's text tokenized again, with this model's template and tokenizer.

    Raises:
        InputError: the example has no text.
    """
    words, name = original.wording, original.identifier
    if words is None:
        raise InputError(
            f"Example {name!r} has token ids and no text, so it cannot be tokenized again. Make examples from text "
            "with workbench.leaf.example."
        )
    options: dict[str, Any] = {"system": words.system, "suffix": words.suffix, "protect": words.protect}
    options["template_kwargs"] = dict(words.template)
    anew = example(model, words.instruction, words.response, identifier=name, **options)
    anew = replace(anew, answer=original.answer, accepted=original.accepted, options=original.options)
    cut = len(words.response) - len(words.response.lstrip())
    return show(anew, model, words.shown - cut) if words.shown > cut else anew


def show(
    original: Example, model: HookedModel | TextTokenizer, characters: int, identifier: str | None = None
) -> Example:
    """The example at response level: the first characters of its response are context, and only they may be pruned.

    A token that reaches beyond these characters belongs to the target.
    """
    words = original.wording
    if words is None:
        raise InputError(f"Example {original.identifier!r} has no text; set prefix= and prunable= by hand.")
    inside = [(a, b) for a, b in covered_response(model, words.response) if b <= characters]
    start, held = len(words.instruction), _held(words.response, words.protect)
    return replace(
        original,
        prunable=(False,) * len(original.prompt) + tuple(_may_go(s, words.response, held) for s in inside),
        prefix=len(inside),
        wording=replace(
            words, offsets=words.offsets + tuple((start + a, start + b) for a, b in inside), shown=characters
        ),
        identifier=original.identifier if identifier is None else identifier,
    )


def covered_response(model: HookedModel | TextTokenizer, response: str) -> list[Span]:
    """The characters of a response that each of its tokens covers; white space goes with the word after it."""
    tokenizer = _tokenizer(model)
    lead = len(_lead(tokenizer))
    covered = _gapless(_offsets(tokenizer, _lead(tokenizer) + response), (lead, lead + len(response)))
    return [(max(a - lead, 0), b - lead) for a, b in covered]


def _tokenizer(model: HookedModel | TextTokenizer) -> Any:
    return model if isinstance(model, TextTokenizer) else tokenizer_of(model)


def _held(text: str, protect: Sequence[str]) -> set[int]:
    """The characters of a text that are protected."""
    held: set[int] = set()
    for pattern in protect:
        try:
            found = re.finditer(PROTECTED.get(pattern, pattern), text)
        except re.error as problem:
            raise InputError(
                f"protect={pattern!r} is no regular expression ({problem}); known by name: {', '.join(PROTECTED)}."
            ) from problem
        held.update(*(range(*match.span()) for match in found))
    return held


def _may_go(span: Span, text: str, held: set[int]) -> bool:
    a, b = span
    return 0 <= a < b <= len(text) and text[a:b].strip() not in NEVER_PRUNED and held.isdisjoint(range(a, b))


def _clipped(span: Span, length: int) -> Span:
    """The part of a token that lies in the instruction; (n, n) if none does."""
    a, b = (min(max(end, 0), length) for end in span)
    return a, max(a, b)


def _given(answer: str, response: str) -> bool:
    """Whether the answer stands in the response, numbers compared without separators."""
    return answer.strip() in response or answer.replace(",", "").strip() in response.replace(",", "")


# Rendering.


@dataclass(frozen=True)
class Frame:
    """What a template puts around the user's message: a system message, and what its further variables do."""

    system: str | None
    template: tuple[tuple[str, Any], ...]


def _rendered(tokenizer: Any, instruction: str, suffix: str, frame: Frame) -> tuple[str, Span]:
    """The prompt as text, and where the instruction stands in it."""
    text, other = (_render(tokenizer, words + suffix, frame) for words in (instruction, PLACEHOLDER))
    start = other.find(PLACEHOLDER)
    end = len(text) - (len(other) - start - 1)
    if start < 0 or text[start:end] != instruction:
        raise InputError(
            "The chat template does not show the user's message as it is "
            f"(it gives {text[:80]!r} for {instruction[:40]!r}), so its words cannot be located. Use another template."
        )
    return text, (start, end)


def _render(tokenizer: Any, instruction: str, frame: Frame, response: str | None = None) -> str:
    if not has_template(tokenizer):
        before = f"{frame.system}\n\n" if frame.system else ""
        return f"{before}Question: {instruction}\nAnswer:" + (f" {response}" if response is not None else "")
    messages = [{"role": "system", "content": frame.system}] if frame.system else []
    messages.append({"role": "user", "content": instruction})
    if response is not None:
        messages.append({"role": "assistant", "content": response})
    return render(tokenizer, messages, reply=response is None, template_kwargs=dict(frame.template))


def _located(tokenizer: Any, text: str, user: Span) -> tuple[list[int], list[Span]]:
    """Ids of a rendered prompt, and the characters that each covers; white space goes with the word after it."""
    ids = encode(tokenizer, text, rendered=True)
    plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    before = next(n for n in range(len(ids) - len(plain) + 1) if ids[n : n + len(plain)] == plain)
    covered = [(user[0], user[0])] * before + _gapless(_offsets(tokenizer, text), user)
    return ids[: before + len(plain)], covered


def _offsets(tokenizer: Any, text: str) -> list[Span]:
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "This tokenizer does not say which characters its tokens cover, so the user's words cannot be located. Use "
            "a fast tokenizer (one with a tokenizer.json)."
        )
    return [
        tuple(span) for span in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ]


def _gapless(covered: list[Span], user: Span) -> list[Span]:
    """Spans in which characters that no token covers, inside the user's words, belong to the token after them."""
    end, filled = user[0], []
    for a, b in covered:
        inside = user[0] <= a < user[1]
        filled.append((min(a, end), b) if inside and b > a else (a, b))
        end = max(end, b)
    return filled


# The response.


def _lead(tokenizer: Any) -> str:
    """What stands between the prompt and the response."""
    return "" if has_template(tokenizer) else " "


def _ending(tokenizer: Any, instruction: str, frame: Frame) -> Sequence[int]:
    """The token that ends a reply: the first special one of the template after it, else the tokenizer's own."""
    special = set(tokenizer.all_special_ids)
    if has_template(tokenizer):
        behind = _render(tokenizer, instruction, frame, PLACEHOLDER).rpartition(PLACEHOLDER)[2]
        found = [t for t in tokenizer(behind, add_special_tokens=False)["input_ids"] if t in special]
        if found:
            return found[:1]
    return [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
