"""Does a model answer an example correctly? Greedy replies, read by the matchers of `workbench.evaluation`.

An example with an `answer` is right where the matcher reads that answer out of the reply. One without is right where
the reply begins with the target's own tokens, which needs no tokenizer.

A reply that was cut, by the limit of its tokens or the model's context, is neither right nor wrong: what it would have
said is not known. Models without a chat template would go on with a question of their own, so there a reply ends where
the next question begins.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import xarray as xr

from workbench.errors import InputError, suggest
from workbench.evaluation.answers import MATCHERS, in_form, text
from workbench.evaluation.generation import NEXT_QUESTION, generate
from workbench.leaf.examples import Example
from workbench.models.state import measures
from workbench.names import ExampleMatch
from workbench.prompts.questions import LETTERS
from workbench.prompts.templates import has_template
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize
from workbench.runs.results import text_array

NEW_TOKENS = 256
"""Tokens of a reply in which an answer is looked for."""


CUT = ("length", "context")
"""Endings of replies that were not finished."""


@dataclass(frozen=True)
class Reply:
    """A generated reply.

    Attributes:
        tokens: its tokens, the end token included.
        text: without special tokens; "" for none.
        ending: why it ended, see `workbench.evaluation.generate`.
    """

    tokens: tuple[int, ...]
    text: str
    ending: str = "end"

    @property
    def cut(self) -> bool:
        """Whether it was not finished."""
        return self.ending in CUT


Match = ExampleMatch | Callable[[Reply, Example], bool | None]
"""How a reply is judged: a name (`workbench.evaluation.MATCHERS`, or "text"), or a function of your own."""


@measures
def ask(
    model: HookedModel,
    examples: Sequence[Example],
    *,
    match: Match = "number",
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """A model's greedy replies to examples and whether they are right.

    Args:
        model: a model from `workbench.load`; hooks on it are active.
        examples: in the model's tokens; at response level the reply goes on from the shown part of the response.
        match: "letter", "number", "yes_no", "gsm8k_strict", "gsm8k_flexible" or "text" (the words of the answer and
            of none of the other options in the reply's first line) for examples with an answer; or a function of the
            `Reply` and the example: True, False, or None where neither can be said.
        max_new_tokens: tokens a reply may have; by default 256, or the longest target where no example has an answer.
        stop: further strings that end a reply.
        batch_size: prompts at a time.
        resume: the netCDF file of the result, see `workbench.evaluation.generate`.
        progress: show a bar.

    Returns:
        What `workbench.evaluation.generate` returns, with `answer(example)`, what the matcher reads in the reply (""
        for nothing), and `correct(example)`: 1, 0, or NaN for a reply that was cut or that the function leaves open.

    Raises:
        InputError: an unknown matcher, or one that reads no answer in an example's own.
    """
    judge = judge_of(match)
    for example in examples:
        if isinstance(match, str):
            wanted(match, example)
    longest = max(len(e.target) for e in examples)
    limit = max_new_tokens or (longest if all(e.answer is None for e in examples) else NEW_TOKENS)
    prompts = [e.context for e in examples]
    if model.tokenizer is not None and not has_template(model.tokenizer):
        stop = (*stop, *NEXT_QUESTION)
    said = generate(
        model, prompts, max_new_tokens=limit, stop=stop, batch_size=batch_size, resume=resume, progress=progress
    )
    rows = zip(said["tokens"].values, said["n_tokens"].values, said["reply"].values, said["ending"].values, strict=True)
    replies = [Reply(tuple(int(t) for t in tokens[:n]), str(text), str(end)) for tokens, n, text, end in rows]
    pairs = list(zip(replies, examples, strict=True))
    verdicts = [judge(reply, example) for reply, example in pairs]
    answers = [read(match, reply.text, example) or "" if isinstance(match, str) else "" for reply, example in pairs]
    return said.assign(
        answer=("example", text_array(answers)),
        correct=("example", np.array([np.nan if right is None else float(right) for right in verdicts])),
    )


def judge_of(match: Match) -> Callable[[Reply, Example], bool | None]:
    """The function that judges replies, by the name of a known matcher or as given."""
    if not isinstance(match, str):
        return match
    if match not in get_args(ExampleMatch):
        raise InputError(f"match={match!r} is not a known reply matcher; {suggest(match, get_args(ExampleMatch))}")

    def judge(reply: Reply, example: Example) -> bool | None:
        if example.answer is None:
            begins = reply.tokens == example.target[: len(reply.tokens)]
            short = begins and len(reply.tokens) < len(example.target)
            return None if reply.cut and short else reply.tokens[: len(example.target)] == example.target
        return None if reply.cut else read(match, reply.text, example) == wanted(match, example)

    return judge


def read(match: str, said: str, example: Example) -> str | None:
    """What a matcher reads in a text as the answer to an example, in the matcher's form."""
    if match != "text":
        return MATCHERS[match](said, *_options(match, example))
    forms = [example.answer or "", *example.accepted]
    found = text(said, [*forms, *(option for option in example.options if option not in forms)])
    return example.answer if found in example.accepted else found


def wanted(match: str, example: Example) -> str | None:
    """The example's answer in the matcher's form; None where the reply must be the target itself."""
    if example.answer is None:
        return None
    found = in_form(lambda form: read(match, form, example), example.answer)
    if found is None:
        raise InputError(
            f"Example {example.identifier!r}: match={match!r} finds no answer in its answer {example.answer!r}, so no "
            f"reply could be right. Choose another matcher ({', '.join(get_args(ExampleMatch))}) or give a function of "
            "reply and example."
        )
    return found


def _options(match: str, example: Example) -> tuple[int, ...]:
    """How many options an example has, for a matcher that reads letters: its own or those that it lists, else four.

    The example's own answer is always one of them.
    """
    if match != "letter":
        return ()
    listed = "".join(re.findall(r"(?:^|\n)\s*\(?([A-J])[.)]", example.text or ""))
    n = len(example.options) or (len(listed) if listed == LETTERS[: len(listed)] else 0)
    return (max(n or 4, LETTERS.find((example.answer or "").strip("() .")) + 1),)
