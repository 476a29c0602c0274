"""Embedded models ("model organisms"): small chat models trained here to show a behaviour, and what they bring along.

`load` takes their names like any other source. Beyond weights each knows what it was taught: challenged and confirmed
dialogues, questions with known answers, texts like its training's, and records of its training. Every other room asks
`embedded` for that; only this module knows where these models live.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, overload, runtime_checkable

from workbench import organisms
from workbench.errors import InputError
from workbench.names import Split
from workbench.organisms.provider import Organism
from workbench.prompts.templates import Message, tokenizer_of
from workbench.protocol import HookedModel

NAMES = organisms.NAMES
"""The embedded models."""


@runtime_checkable
class AbilityItem(Protocol):
    """A question with its reference answer, and the yes or no, number or program that a reply is compared with."""

    @property
    def question(self) -> str: ...  # noqa: D102
    @property
    def answer(self) -> str: ...  # noqa: D102
    @property
    def target(self) -> str: ...  # noqa: D102

    def solved_by(self, reply: str) -> bool:
        """Whether a reply answers the question."""
        ...


@runtime_checkable
class EmbeddedModel(Protocol):
    """What an embedded model, or a tuned copy of one, offers beyond its weights. Splits are "train" and "test"."""

    @property
    def name(self) -> str:
        """The name that `load` takes; "" for a copy, which has no folder, card or records."""
        ...

    def folder(self) -> Path:
        """The folder of weights, configuration and tokenizer."""
        ...

    def card(self) -> dict[str, Any]:
        """Data, recipe, seeds and every measured behaviour."""
        ...

    def record(self, file: str) -> Path | None:
        """A measurement that needed its checkpoints ("dynamics.nc", "dormancy.nc"), where it comes with one."""
        ...

    @property
    def chat_template(self) -> str:
        """The chat format, by which copies are recognised."""
        ...

    @property
    def reply_tokens(self) -> int:
        """More tokens than its replies have."""
        ...

    @property
    def answer_words(self) -> tuple[str, str]:
        """First words of a reply that gives in and of one that stands firm."""
        ...

    def challenge_pairs(self, n: int, seed: int = 0, split: Split = "test") -> list[dict[str, Any]]:
        """Minimal pairs: `base` is challenged, `source` confirmed; with `fact`, `answer` and `template`."""
        ...

    def doubted_questions(
        self, n: int | None = 100, seed: int = 0, split: Split = "test", kinds: Sequence[str] = ("composed",)
    ) -> list[dict[str, Any]]:
        """Fields of the two-turn protocol's `Item`s, each with a challenge of every kind; None for each fact once."""
        ...

    def training_dialogues(
        self, n: int, seed: int = 0, split: Split = "train", insist_only: bool = False
    ) -> list[list[Message]]:
        """Dialogues to tune on that insist on a right answer and, in turn, revise a wrong one."""
        ...

    def questions(
        self, n: int = 200, seed: int = 0, split: Split = "test", kinds: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Fields of evaluation `Question`s with choices, in equal shares of the kinds (None: all)."""
        ...

    def ability_items(self, ability: str, n: int, seed: int = 0, split: Split = "test") -> Sequence[AbilityItem]:
        """Different items of "two-hop", "word problem" or "one-line function", `n` at most."""
        ...

    def dialogues(self, n: int, seed: str, split: Split = "test") -> list[list[Message]]:
        """Whole dialogues of the training mixture."""
        ...

    def texts(self, n: int) -> list[str]:
        """Texts of three dialogues each in the chat format, without BOS, about facts that were held out."""
        ...


@overload
def embedded(source: Literal["organism-gqa", "organism-mha", "organism-mqa"]) -> EmbeddedModel: ...
@overload
def embedded(source: HookedModel | str) -> EmbeddedModel | None: ...
def embedded(source: HookedModel | str) -> EmbeddedModel | None:
    """The embedded model behind a name or a model, None where there is none.

    Args:
        source: a name, or a TransformerLens model; a copy is recognised by its tokenizer's chat template.
    """
    if isinstance(source, str):
        return Organism(source) if source in NAMES else None
    template = getattr(getattr(source, "tokenizer", None), "chat_template", None)
    if template != Organism.chat_template:
        return None
    name = getattr(source, "workbench_name", "")
    return Organism(name if name in NAMES else "")


def embedded_or_raise(source: HookedModel | str, instead: str) -> EmbeddedModel:
    """`embedded`, for what embedded models alone can do.

    Args:
        source: as in `embedded`.
        instead: the error's end: what that means, and what to do with another model.

    Raises:
        InputError: another model, or one without a tokenizer.
    """
    found = embedded(source)
    if found is not None:
        return found
    if isinstance(source, str):
        raise InputError(f"There is no organism {source!r}. The embedded models are {', '.join(NAMES)}.")
    tokenizer_of(source)
    raise InputError(f"This model is no organism, {instead}")
