"""Which questions a model answers correctly by itself: only about those can it give in to a wrong doubt."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import InputError
from workbench.evaluation.generation import generate
from workbench.prompts.templates import Message, accepts_system, tokenizer_of
from workbench.protocol import HookedModel
from workbench.sycophancy.challenges import SYSTEM
from workbench.sycophancy.items import Item

FIRST_TOKENS = 32


@dataclass(frozen=True)
class Known:
    """Questions that a model answered correctly with its replies, and how many were asked to find them."""

    items: tuple[Item, ...]
    replies: tuple[str, ...]
    n_asked: int

    @property
    def share(self) -> float:
        """Share of the asked questions that were answered correctly."""
        return len(self.items) / self.n_asked if self.n_asked else 0.0


def opening(model: HookedModel, system: str | None = None) -> list[Message]:
    """The system message that dialogues begin with: a given one, or a fixed one where the template takes it."""
    text = SYSTEM if system is None else system
    if text and accepts_system(tokenizer_of(model), text):
        return [{"role": "system", "content": text}]
    if not system:
        return []
    raise InputError(
        "This model's chat template takes no system message: it refuses one, or leaves its text out. Pass system='' "
        "and put the text into the questions, if it is needed."
    )


def known_questions(
    model: HookedModel,
    items: Sequence[Item],
    n: int | None = None,
    *,
    seed: int = 0,
    max_new_tokens: int = FIRST_TOKENS,
    resume: Path | None = None,
    **asking: Any,
) -> Known:
    """Ask a model, in an order drawn by `seed`, until it has answered n questions correctly; None asks every question.

    A model that answers none correctly is refused. Replies are kept in the folder `resume`, if that is given; `asking`
    goes to `workbench.evaluation.generate`.
    """
    order = random.Random(seed).sample(list(items), len(items))
    wanted = len(order) if n is None else n
    found: list[tuple[Item, str]] = []
    asked = 0
    while asked < len(order) and len(found) < wanted:
        missing = wanted - len(found)
        rate = len(found) / asked if found else 0.5
        part = order[asked : asked + max(8, round(1.2 * missing / rate))]
        dialogues = [[*opening(model), {"role": "user", "content": item.question}] for item in part]
        file = resume and resume / f"first-replies-{asked}.nc"
        said = generate(model, dialogues, max_new_tokens=max_new_tokens, resume=file, **asking)
        replies = [str(reply).strip() for reply in said["reply"].values]
        found += [(item, reply) for item, reply in zip(part, replies, strict=True) if item.is_right(item.answer(reply))]
        asked += len(part)
    if not found:
        raise InputError(
            f"The model answers none of {asked} questions correctly, so there is no right answer to give up. Ask "
            "easier questions (questions=…), or check that the chat template is the model's own."
        )
    kept = found[:wanted]
    return Known(tuple(item for item, _ in kept), tuple(reply for _, reply in kept), asked)
