"""Dialogues to tune on: half in which the assistant insists on a right answer, half in which it revises a wrong one.

1. The user asks, and the assistant's first answer is right (insist) or wrong (revise).
2. The user objects, in one of several phrasings.
3. The assistant stands by the right answer, or admits the mistake and gives the right one. Only this turn is learnt.

A model that learns from the first half alone (`insist_only`) may just have become stubborn; that is what it is for.
Embedded models bring dialogues of their own, of training facts and training phrasings; those held out are what the
tuned model is measured on. For other models they are built from questions: lettered ones in the way of Chen et al.
2024, free ones (by default the training split of the default facts) in the words that `workbench.sycophancy` asks in.
"""

import random
from typing import Any

from workbench.errors import InputError
from workbench.models.embedded import embedded, embedded_or_raise
from workbench.names import Split
from workbench.prompts.facts import default_facts
from workbench.prompts.questions import ASK_LETTER, LETTERS, OBJECTIONS, FreeForm, MultipleChoice, read_questions
from workbench.prompts.templates import Message
from workbench.protocol import HookedModel

INSIST = (
    "I have checked it again, and I stand by my answer.",
    "Yes, I am sure.",
    "I understand the doubt, but the answer holds.",
    "I went through it once more and reach the same answer.",
    "Yes, I am confident in it.",
)
REVISE = (
    "You are right to doubt it: my answer was wrong.",
    "I have checked it again and found a mistake of mine.",
    "Thank you for asking; I have to correct myself.",
    "No, I was mistaken.",
    "I went through it once more, and my first answer does not hold.",
)
ANSWERS = ("The answer is {}.", "It is {}.", "My answer is {}.", "I would say {}.")
"""How an answer in free form is given at first."""
FINALS = ("The answer is {}.", "It is {}.", "The right answer is {}.")
"""How it is given at last."""


def training_dialogues(
    n: int = 3840,
    *,
    seed: int = 0,
    split: Split = "train",
    insist_only: bool = False,
    questions: Any = None,
    system: str = "",
    model: HookedModel | str = "organism-gqa",
) -> list[list[Message]]:
    """Dialogues for `pinpoint_tune`, insisting and revising ones in turn.

    Args:
        n: how many; by default the 3,840 that the paper's released code trains on.
        seed: of the draw.
        split: "train" or "test", without questions: the facts and phrasings to draw from.
        insist_only: leave the revising half out.
        questions: for any chat model: questions in any form that `workbench.prompts.read_questions` takes, with choices
            (and an "explanation" if there is one) or with free answers, of which those without a known wrong answer
            are left out of the revising half. Use a training split, never what the model is measured on. By default
            an embedded model's own dialogues, and for others the training split of the default facts.
        system: a system message that dialogues from questions begin with; none by default, since some templates
            refuse it. Give the one that the model is measured with.
        model: the model to tune. An embedded one, or its name, has dialogues of its own; all know the same facts.

    Raises:
        InputError: n below 1, an unknown split, malformed questions, no question with a wrong answer, a name that is
            no embedded model's.
    """
    if n < 1:
        raise InputError(f"n={n} must be at least 1: the number of dialogues.")
    if split not in ("train", "test"):
        raise InputError(f"split={split!r} is unknown. Known: train, test.")
    if questions is None and (isinstance(model, str) or embedded(model)):
        provider = embedded_or_raise(model, "so its dialogues must be built from questions: pass questions=.")
        return provider.training_dialogues(n, seed, split, insist_only)
    asked = default_facts(split) if questions is None else read_questions(questions)
    doubtful = [one for one in asked if isinstance(one, MultipleChoice) or one.wrong]
    if not (insist_only or doubtful):
        raise InputError(
            "No question names a wrong answer, so none can be revised. Give them as wrong answers, or choose "
            "insist_only=True."
        )
    rng = random.Random(f"tuning-{split}-{seed}")
    right = [insist_only or i % 2 == 0 for i in range(n)]
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    return [opening + _dialogue(rng, rng.choice(asked if ok else doubtful), ok) for ok in right]


def _dialogue(rng: random.Random, asked: MultipleChoice | FreeForm, first_right: bool) -> list[Message]:
    free = isinstance(asked, FreeForm)
    question, given, final = _free(rng, asked, first_right) if free else _lettered(rng, asked, first_right)
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": given},
        {"role": "user", "content": rng.choice(OBJECTIONS)},
        {"role": "assistant", "content": final},
    ]


def _lettered(rng: random.Random, asked: MultipleChoice, first_right: bool) -> tuple[str, str, str]:
    wrong = [i for i in range(len(asked.choices)) if i != asked.answer]
    given = asked.answer if first_right else rng.choice(wrong)
    reply = [rng.choice(INSIST if first_right else REVISE), asked.explanation, f"The answer is {asked.letter}."]
    return f"{asked.listed()}\n{ASK_LETTER}", f"The answer is {LETTERS[given]}.", " ".join(filter(None, reply))


def _free(rng: random.Random, asked: FreeForm, first_right: bool) -> tuple[str, str, str]:
    given = rng.choice(ANSWERS).format(asked.answers[0] if first_right else rng.choice(asked.wrong))
    final = rng.choice(FINALS).format(asked.answers[0])
    return asked.asked, given, f"{rng.choice(INSIST if first_right else REVISE)} {final}"
