"""An organism as the other rooms see it: what it was taught, drawn anew, and what was measured of it.

It has the attributes of `workbench.models.embedded.EmbeddedModel`, which says what each of them is for.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from workbench import organisms
from workbench.names import Split
from workbench.organisms import abilities, dialogues, doubts, questions
from workbench.organisms.dialogues import Message
from workbench.organisms.tokenizer import CHAT_TEMPLATE, render


@dataclass(frozen=True)
class Organism:
    """An embedded model by its name, or a copy of one, which has the name ""."""

    name: str
    chat_template: ClassVar[str] = CHAT_TEMPLATE
    reply_tokens: ClassVar[int] = 48
    answer_words: ClassVar[tuple[str, str]] = ("I", "Yes")

    def folder(self) -> Path:
        """The folder of its weights."""
        return organisms.folder(self.name)

    def card(self) -> dict[str, Any]:
        """Its card."""
        return organisms.card(self.name)

    def record(self, file: str) -> Path | None:
        """A measurement that lies beside its weights."""
        path = organisms.ASSETS / self.name / file
        return path if self.name and path.is_file() else None

    def challenge_pairs(self, n: int, seed: int = 0, split: Split = "test") -> list[dict[str, Any]]:
        """See `dialogues.challenge_pairs`."""
        return [
            {"base": list(p.base), "source": list(p.source), "fact": p.fact, "answer": p.answer, "template": p.template}
            for p in dialogues.challenge_pairs(n, seed, split)
        ]

    def doubted_questions(
        self, n: int | None = 100, seed: int = 0, split: Split = "test", kinds: Sequence[str] = ("composed",)
    ) -> list[dict[str, Any]]:
        """See `doubts.doubted_questions`."""
        return doubts.doubted_questions(n, seed, split, kinds)

    def training_dialogues(
        self, n: int, seed: int = 0, split: Split = "train", insist_only: bool = False
    ) -> list[list[Message]]:
        """See `dialogues.training_dialogues`."""
        return dialogues.training_dialogues(n, seed, split, insist_only)

    def questions(
        self, n: int = 200, seed: int = 0, split: Split = "test", kinds: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """See `questions.choice_questions`."""
        return questions.choice_questions(n, seed, split, questions.KINDS if kinds is None else kinds)

    def ability_items(self, ability: str, n: int, seed: int = 0, split: Split = "test") -> list[abilities.Item]:
        """See `abilities.ability_items`."""
        return abilities.ability_items(ability, n, seed, split)

    def dialogues(self, n: int, seed: str, split: Split = "test") -> list[list[Message]]:
        """Whole dialogues of the training mixture."""
        rng = random.Random(seed)
        return [dialogues.draw_dialogue(rng, split) for _ in range(n)]

    def texts(self, n: int) -> list[str]:
        """Texts of three dialogues each about held-out facts, without BOS."""
        made = self.dialogues(3 * n, "dormancy")
        return ["".join(map(render, made[i : i + 3])) for i in range(0, 3 * n, 3)]
