"""The interface of an organism for the rest of the package: its card, records, dialogues, questions and texts."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from workbench import organisms
from workbench.organisms import abilities, dialogues, doubts, questions
from workbench.organisms.dialogues import Message
from workbench.organisms.tokenizer import CHAT_TEMPLATE, render


@dataclass(frozen=True)
class Organism:
    """An embedded model, or a copy of one.

    Attributes:
        name: what `load` takes; "" for a copy, which has no folder, card or records.
        chat_template: the chat format, by which copies are recognised.
        reply_tokens: more tokens than its replies have.
        answer_words: first words of a reply that gives in and of one that stands firm.
    """

    name: str
    chat_template: ClassVar[str] = CHAT_TEMPLATE
    reply_tokens: ClassVar[int] = 48
    answer_words: ClassVar[tuple[str, str]] = ("I", "Yes")

    doubted_questions = staticmethod(doubts.doubted_questions)
    challenge_pairs = staticmethod(dialogues.challenge_pairs)
    training_dialogues = staticmethod(dialogues.training_dialogues)
    choice_questions = staticmethod(questions.choice_questions)
    ability_items = staticmethod(abilities.ability_items)

    def folder(self) -> Path:
        """The folder of weights, configuration and tokenizer."""
        return organisms.folder(self.name)

    def card(self) -> dict[str, Any]:
        """Data, recipe, seeds, checkpoints and every measured behaviour."""
        return json.loads((self.folder() / "card.json").read_text())

    def record(self, file: str) -> Path | None:
        """A measurement that needed its checkpoints ("dynamics.nc", "dormancy.nc"), where it comes with one."""
        path = organisms.ASSETS / self.name / file
        return path if self.name and path.is_file() else None

    def sample_dialogues(self, n: int, seed: str) -> list[list[Message]]:
        """Whole dialogues of the training mixture, about facts that were held out."""
        rng = random.Random(seed)
        return [dialogues.draw_dialogue(rng, "test") for _ in range(n)]

    def sample_texts(self, n: int) -> list[str]:
        """Texts of three such dialogues each in the chat format, without BOS."""
        made = self.sample_dialogues(3 * n, "dormancy")
        return ["".join(map(render, made[i : i + 3])) for i in range(0, 3 * n, 3)]
