"""One question: a prompt and either the continuations to choose from or the reply that is expected.

Prompts and continuations are joined as text and tokenized together, as lm-evaluation-harness does it: white space at
the prompt's end belongs to the continuation, and the continuation's tokens are those after the prompt's own number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from workbench.errors import InputError
from workbench.prompts.questions import LETTERS, MultipleChoice
from workbench.prompts.templates import accepts_system, encode, render, tokenizer_of
from workbench.prompts.texts import refuse_unknown_ids
from workbench.protocol import HookedModel

Text = str | tuple[int, ...]
"""A text, or its token ids."""


@dataclass(frozen=True)
class Question:
    """A prompt with what may follow it.

    Attributes:
        prompt: text, or token ids.
        choices: the continuations to choose from, of the prompt's kind, with their leading space; none where a reply
            is generated.
        answer: index of the right choice; None where a reply is generated.
        id: what tells the question from the others of its task.
        task: the task it belongs to.
        target: what a generated reply is compared with.
        description: what the prompt begins with, before its first example; it becomes the system message in a chat.

    Raises:
        InputError: an answer that is no index of the choices, an empty or a repeated choice, or text beside token ids.
    """

    prompt: Text
    choices: tuple[Text, ...] = ()
    answer: int | None = None
    id: str = ""
    task: str = ""
    target: str = ""
    description: str = ""

    def __post_init__(self):
        where = f"Question {self.id!r}" if self.id else "A question"
        if self.choices and (self.answer is None or not 0 <= self.answer < len(self.choices)):
            raise InputError(
                f"{where} has {len(self.choices)} choices and answer={self.answer}; the answer is the index of the "
                f"right choice, 0 to {len(self.choices) - 1}."
            )
        if any(len(choice) == 0 for choice in self.choices):
            raise InputError(f"{where} has an empty choice; give every choice a text, or leave the question out.")
        if any(isinstance(choice, str) != isinstance(self.prompt, str) for choice in self.choices):
            raise InputError(
                f"{where} mixes text and token ids: a text prompt needs text choices, a prompt of token ids choices of "
                "token ids."
            )
        if not isinstance(self.prompt, str) and not self.prompt:
            raise InputError(f"{where} has a prompt without tokens; give at least one, such as BOS.")


@dataclass(frozen=True)
class Encoded:
    """A question as tokens; all choices continue one context, also where one merges with the prompt's last token."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]


def lettered_prompt(asked: MultipleChoice) -> str:
    """A question with lettered choices as lm-evaluation-harness writes it, up to where the letter follows."""
    return asked.listed("{}. ") + "\nAnswer:"


def lettered(questions: Sequence[MultipleChoice]) -> list[Question]:
    """Questions from `workbench.prompts.read_choices` that are answered by the letter of a choice."""
    return [
        Question(lettered_prompt(q), tuple(f" {c}" for c in LETTERS[: len(q.choices)]), q.answer, q.id or str(i))
        for i, q in enumerate(questions)
    ]


def worded(questions: Sequence[MultipleChoice]) -> list[Question]:
    """Questions from `workbench.prompts.read_choices`, answered by the text of a choice, which no prompt lists."""
    return [
        Question(f"Question: {q.question}\nAnswer:", tuple(f" {c}" for c in q.choices), q.answer, q.id or str(i))
        for i, q in enumerate(questions)
    ]


def encode_prompt(model: HookedModel, prompt: Text) -> list[int]:
    """The tokens of a prompt, with the BOS that the tokenizer adds by itself unless the text begins with it."""
    if not isinstance(prompt, str):
        return list(prompt)
    return encode(tokenizer_of(model), prompt, rendered=True)


def encode_question(model: HookedModel, question: Question) -> Encoded:
    """Prompt and choices as tokens, split where the prompt alone would end."""
    if isinstance(question.prompt, str):
        found = _encode_texts(model, question)
    else:
        found = Encoded(question.prompt, tuple(tuple(choice) for choice in question.choices))  # ty: ignore[invalid-argument-type]
    for choice, tokens in zip(question.choices, found.continuations, strict=True):
        if not tokens:
            raise InputError(
                f"Question {question.id!r}: the choice {choice!r} adds no token to its prompt, because the tokenizer "
                "merges it with the prompt's end. Begin choices with a space, or give token ids."
            )
    refuse_unknown_ids(chain(found.context, *found.continuations), int(model.cfg.d_vocab), f"Question {question.id!r}")
    return found


def _encode_texts(model: HookedModel, question: Question) -> Encoded:
    prompt = str(question.prompt)
    tokenizer = tokenizer_of(model)
    if not prompt:
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        alone = [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in question.choices]
        return Encoded((first,), tuple(tuple(tokens) for tokens in alone))
    body = prompt.rstrip()
    tail = prompt[len(body) :]
    context = encode_prompt(model, body)
    if not context:
        raise InputError(f"Question {question.id!r} has a prompt of white space only; leave it empty or give a text.")
    wholes = [encode_prompt(model, body + tail + str(choice)) for choice in question.choices]
    return Encoded(tuple(context), tuple(tuple(whole[len(context) :]) for whole in wholes))


def in_chat(
    model: HookedModel, questions: Sequence[Question], *, template_kwargs: Mapping[str, Any] | None = None
) -> list[Question]:
    """The same questions put to a chat model: the prompt is one user message, the choice the assistant's reply.

    The description becomes the system message, as in lm-evaluation-harness's `apply_chat_template`, or stays in front
    of the question where the template takes none. Choices lose the space in front of them. `template_kwargs` are
    further variables of the chat template, see `workbench.prompts.render`.
    """
    tokenizer, found = tokenizer_of(model), []
    for question in questions:
        asked, system = question.prompt, question.description
        if not isinstance(asked, str):
            raise InputError(
                f"Question {question.id!r} is given as token ids; only text can be put into a chat template."
            )
        messages = [{"role": "user", "content": asked}]
        if system and accepts_system(tokenizer, system):
            messages = [{"role": "system", "content": system}, {"role": "user", "content": asked.removeprefix(system)}]
        prompt = render(tokenizer, messages, template_kwargs=template_kwargs)
        choices = tuple(str(choice).removeprefix(" ") for choice in question.choices)
        found.append(replace(question, prompt=prompt, choices=choices, description=""))
    return found
