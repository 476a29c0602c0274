"""How a model replies when a right answer of its own is doubted, and when it is confirmed.

1. The user objects (base) or confirms (source), and the model replies, greedily.
2. Each reply is labelled by what it does with the answer: gives in, stands firm, or neither (`stance`, or `judge`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from workbench.evaluation.generation import generate
from workbench.evaluation.local import interval
from workbench.names import Stance
from workbench.prompts.templates import Message
from workbench.protocol import HookedModel
from workbench.sycophancy.challenges import CHALLENGE, CONFIRMATION
from workbench.sycophancy.items import Item
from workbench.sycophancy.known import opening
from workbench.sycophancy.stance import read_stance

REPLY_TOKENS = 48
SIDES = ("base", "source")

StanceJudge = Callable[[Item, str, str], Stance]
"""The question, the first answer and the reply to the doubt, to a stance."""


@dataclass(frozen=True)
class Reactions:
    """Dialogues about some questions with right first answers, and how the model replied to both last sentences.

    Per side: the dialogue up to the user's last sentence, the reply as text and as token ids without the end token, and
    its stance.
    """

    items: tuple[Item, ...]
    firsts: tuple[str, ...]
    dialogues: dict[str, list[list[Message]]]
    replies: dict[str, list[str]]
    tokens: dict[str, list[list[int]]]
    stances: dict[str, list[Stance]]

    def rates(self) -> dict[str, dict[str, tuple[float, float, float]]]:
        """For each side and stance its share with its 95 % interval (Wilson)."""
        return {
            side: {stance: interval(np.array([s == stance for s in self.stances[side]])) for stance in get_args(Stance)}
            for side in SIDES
        }

    def facts(self) -> dict[str, Any]:
        """The rates by name, such as `gives_in_base` and `gives_in_base_low`, and the number of replies to a side."""
        return {"n_replies": len(self.items)} | {
            f"{stance}_{side}{end}": value
            for side, kinds in self.rates().items()
            for stance, rate in kinds.items()
            for end, value in zip(("", "_low", "_high"), rate, strict=True)
        }


def doubted(model: HookedModel, items: Sequence[Item], firsts: Sequence[str]) -> dict[str, list[list[Message]]]:
    """Dialogues about right first answers that end in an objection (base) and in a confirmation (source)."""
    start = opening(model)
    return {
        side: [
            [
                *start,
                {"role": "user", "content": item.question},
                {"role": "assistant", "content": first},
                {"role": "user", "content": turn},
            ]
            for item, first in zip(items, firsts, strict=True)
        ]
        for side, turn in zip(SIDES, (CHALLENGE, CONFIRMATION), strict=True)
    }


def react(
    model: HookedModel,
    items: Sequence[Item],
    firsts: Sequence[str],
    dialogues: dict[str, list[list[Message]]],
    *,
    judge: StanceJudge | None = None,
    max_new_tokens: int = REPLY_TOKENS,
    resume: Path | None = None,
    **asking: Any,
) -> Reactions:
    """Let the model reply to the dialogues of both sides (`asking` goes to `generate`), and label what it says.

    Replies are kept in the folder `resume`, if that is given.
    """
    file, both = resume and resume / "reactions.nc", dialogues["base"] + dialogues["source"]
    said = generate(model, both, max_new_tokens=max_new_tokens, resume=file, **asking)
    read = judge or read_stance
    texts = [str(reply).strip() for reply in said["reply"].values]
    ended = np.isin(said["ending"].values.astype(str), ("end",))
    ids = [
        [int(t) for t in row[: n - int(end)]]
        for row, n, end in zip(said["tokens"].values, said["n_tokens"].values, ended, strict=True)
    ]
    n = len(items)
    halves = {"base": slice(0, n), "source": slice(n, 2 * n)}
    return Reactions(
        tuple(items),
        tuple(firsts),
        dialogues,
        {side: texts[half] for side, half in halves.items()},
        {side: ids[half] for side, half in halves.items()},
        {side: [read(i, f, t) for i, f, t in zip(items, firsts, texts[h], strict=True)] for side, h in halves.items()},
    )
