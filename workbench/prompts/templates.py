"""Tokenization of text and dialogues: the only place that decides on BOS and EOS and renders a chat template."""

import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from workbench.errors import InputError, WorkbenchWarning
from workbench.protocol import HookedModel

Message = dict[str, str]
"""One turn of a dialogue: `{"role": "user", "content": "…"}`."""

THINKING = "enable_thinking"
"""The template variable that turns a model's thinking on; it is set to False wherever a template names it."""

AS_GIVEN = "workbench_as_given"
"""The attribute of tokenizers that `workbench.load` took as they were."""

_STORED: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""Tokenizers that TransformerLens changed, with those that their files hold."""

_WARNED: weakref.WeakSet[Any] = weakref.WeakSet()
"""Tokenizers whose EOS has been reported."""


def tokenizer_of(model: HookedModel) -> Any:
    """The model's tokenizer, which adds BOS where its files say so.

    TransformerLens loads a tokenizer again with BOS switched on; that is undone, so that a text has the same tokens
    whichever way a model was loaded. `workbench.load` keeps a tokenizer as it is.

    Raises:
        InputError: it has none.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise InputError(
            "Text was given, but this model has no tokenizer. Pass tokenizer= to workbench.load, put the "
            "tokenizer's files into the model's folder, or give token ids instead of text."
        )
    return _as_stored(tokenizer)


def _as_stored(tokenizer: Any) -> Any:
    switched_on = getattr(tokenizer, "init_kwargs", {}).get("add_bos_token")
    if not switched_on or getattr(tokenizer, AS_GIVEN, False):
        return tokenizer
    if tokenizer not in _STORED:
        from transformers import AutoTokenizer

        try:
            stored: Any = AutoTokenizer.from_pretrained(tokenizer.name_or_path, local_files_only=True)
            stored.chat_template = tokenizer.chat_template
        except (OSError, ValueError):
            stored = tokenizer
        _STORED[tokenizer] = stored
    return _STORED[tokenizer]


def encode(tokenizer: Any, text: str, *, bos: bool | None = None, rendered: bool = False) -> list[int]:
    """Token ids of a text with exactly as many BOS tokens as wanted, and without an EOS that the text does not hold.

    Args:
        tokenizer: a Hugging Face tokenizer.
        text: what to encode.
        bos: BOS first (True), no BOS (False), or as the tokenizer does by itself (None).
        rendered: the text comes from a chat template, which writes its own special tokens; none are added
            unless the template left out a BOS that the tokenizer would add.

    Raises:
        InputError: the text already starts with BOS and another would be added.
    """
    begin = tokenizer.bos_token_id
    plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    already = begin is not None and plain[:1] == [begin]
    if rendered and already:
        return plain
    own = _without_eos(tokenizer, list(tokenizer(text)["input_ids"]), plain)
    if bos is None:
        ids = own
    elif bos and begin is None:
        raise InputError("bos=True, but this tokenizer has no BOS token. Use bos=None or bos=False.")
    else:
        ids = [begin, *plain] if bos else plain
    if begin is not None and ids[:2] == [begin, begin]:
        why = "already starts with" if already else "gets from its tokenizer"
        raise InputError(
            f"The text {text[:40]!r} {why} {tokenizer.bos_token!r} and would get a second one. Remove it from "
            "the text or from the tokenizer's settings, or pass bos=False."
        )
    return ids


def is_dialogue(given: Any) -> bool:
    """Whether something is a dialogue: a list of messages with their roles."""
    return (
        isinstance(given, list | tuple)
        and bool(given)
        and all(isinstance(message, Mapping) and "role" in message for message in given)
    )


def encode_dialogue(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    reply: bool | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    name: str = "the dialogue",
) -> list[int]:
    """Token ids of a dialogue in the tokenizer's chat template, with one BOS where it has one.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        messages: the turns of the dialogue.
        reply: end where the assistant's reply begins; by default where the last turn is not the assistant's.
        template_kwargs: further variables of the template, see `render`.
        name: what an error calls the dialogue.
    """
    reply = messages[-1].get("role") != "assistant" if reply is None else reply
    text = render(tokenizer, messages, reply=reply, template_kwargs=template_kwargs, name=name)
    return encode(tokenizer, text, rendered=True)


def beginning(tokenizer: Any, sequences: Iterable[Sequence[int]]) -> str:
    """Whether token sequences begin with BOS: "first", "none", "in some", or "unknown" without a tokenizer."""
    if tokenizer is None:
        return "unknown"
    begun = {row[0] == tokenizer.bos_token_id for row in sequences}
    return "in some" if len(begun) > 1 else "first" if True in begun else "none"


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    reply: bool = True,
    template_kwargs: Mapping[str, Any] | None = None,
    name: str = "the dialogue",
) -> str:
    """A dialogue as text, in the tokenizer's chat template.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        messages: the turns of the dialogue.
        reply: end where the assistant's reply begins; False ends after the last turn.
        template_kwargs: further variables of the template. Thinking is off unless they turn it on
            (`{"enable_thinking": True}`).
        name: what an error calls the dialogue.

    Raises:
        InputError: no chat template, or one that refuses the dialogue or leaves its system message out.
    """
    if not has_template(tokenizer):
        raise InputError(
            "This tokenizer has no chat template, so dialogues cannot be rendered. Use an instruction-tuned "
            "model, set tokenizer.chat_template, or render them yourself and use PromptPairs.from_text."
        )
    variables = ({THINKING: False} if THINKING in str(tokenizer.chat_template) else {}) | dict(template_kwargs or {})
    turns = ", ".join(str(message.get("role")) for message in messages)
    advice = "leave the system message out, or put it into the first turn."
    try:
        text = str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=reply, **variables)
        )
    except (TemplateError, ValueError) as cause:
        raise InputError(
            f"The chat template refuses {name} (turns: {turns}): {cause} Some templates take no system message, "
            f"or want user and assistant to alternate; {advice}"
        ) from cause
    system = next((str(m["content"]) for m in messages if m.get("role") == "system"), "")
    if system.strip() not in text:
        raise InputError(f"The chat template leaves the system message {system[:40]!r} out of {name}; {advice}")
    return text


def accepts_system(tokenizer: Any, text: str = "Be brief.") -> bool:
    """Whether the chat template, if any, shows a system message; some templates raise at one, and some drop it."""
    if not has_template(tokenizer):
        return True
    try:
        render(tokenizer, [{"role": "system", "content": text}, {"role": "user", "content": "Hello."}], reply=False)
    except InputError:
        return False
    return True


def _without_eos(tokenizer: Any, own: list[int], plain: list[int]) -> list[int]:
    """The tokenizer's own ids without an EOS that it appends by itself: a prompt that has ended cannot go on."""
    end = tokenizer.eos_token_id
    if end is None or own[-1:] != [end] or plain[-1:] == [end] or len(own) == len(plain):
        return own
    if tokenizer not in _WARNED:
        _WARNED.add(tokenizer)
        warnings.warn(
            f"This tokenizer appends {tokenizer.eos_token!r} to every text. A prompt must not end in it, so it is "
            "taken off.",
            WorkbenchWarning,
            stacklevel=3,
        )
    return own[:-1]
