"""Does a model answer an example correctly? Greedy replies, read by the matchers of `workbench.evaluation`.

An example with an `answer` is right where the matcher reads that answer out of the reply. One without is right where
the reply begins with the target's own tokens, which needs no tokenizer.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from workbench.errors import InputError, suggest
from workbench.evaluation.answers import MATCHERS, in_form
from workbench.evaluation.generation import NEXT_QUESTION, generate
from workbench.leaf.examples import Example
from workbench.models.state import measures
from workbench.names import ReplyMatch
from workbench.prompts.questions import LETTERS
from workbench.prompts.templates import has_template
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize

NEW_TOKENS = 256
"""Tokens of a reply in which an answer is looked for."""


@dataclass(frozen=True)
class Reply:
    """A generated reply: its tokens, the end token included, and the text without special tokens ("" for none)."""

    tokens: tuple[int, ...]
    text: str


Match = ReplyMatch | Callable[[Reply, Example], bool]
"""How a reply is judged: the name of a matcher (`workbench.evaluation.MATCHERS`), or a function of your own."""


@measures
def ask(
    model: HookedModel,
    examples: Sequence[Example],
    *,
    match: Match = "number",
    max_new_tokens: int | None = None,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """A model's greedy replies to examples and whether they are right.

    Args:
        model: a model from `workbench.load`; hooks on it are active.
        examples: in the model's tokens; at response level the reply goes on from the shown part of the response.
        match: "letter", "number", "yes_no", "gsm8k_strict", "gsm8k_flexible" for examples with an answer; or a
            function of the `Reply` and the example.
        max_new_tokens: tokens a reply may have; by default 256, or the longest target where no example has an answer.
        batch_size: prompts at a time.
        resume: the netCDF file of the result, see `workbench.evaluation.generate`.
        progress: show a bar.

    Returns:
        What `workbench.evaluation.generate` returns, with `correct(example)`.

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
    runs_on = model.tokenizer is not None and not has_template(model.tokenizer)
    said = generate(
        model,
        prompts,
        max_new_tokens=limit,
        stop=NEXT_QUESTION if runs_on else (),
        batch_size=batch_size,
        resume=resume,
        progress=progress,
    )
    rows = zip(said["tokens"].values, said["n_tokens"].values, said["reply"].values, strict=True)
    replies = [Reply(tuple(int(t) for t in tokens[:n]), str(text)) for tokens, n, text in rows]
    right = [bool(judge(reply, example)) for reply, example in zip(replies, examples, strict=True)]
    return said.assign(correct=("example", np.array(right)))


def judge_of(match: Match) -> Callable[[Reply, Example], bool]:
    """The function that judges replies, by the name of a known matcher or as given."""
    if not isinstance(match, str):
        return match
    if match not in MATCHERS:
        raise InputError(f"match={match!r} is not a known reply matcher; {suggest(match, MATCHERS)}")
    read = MATCHERS[match]

    def judge(reply: Reply, example: Example) -> bool:
        if example.answer is None:
            return reply.tokens[: len(example.target)] == example.target
        return read(reply.text, *_options(match, example)) == wanted(match, example)

    return judge


def wanted(match: str, example: Example) -> str | None:
    """The example's answer in the matcher's form; None where the reply must be the target itself."""
    if example.answer is None:
        return None
    found = in_form(lambda form: MATCHERS[match](form, *_options(match, example)), example.answer)
    if found is None:
        raise InputError(
            f"Example {example.identifier!r}: match={match!r} finds no answer in its answer {example.answer!r}, so no "
            f"reply could be right. Choose another matcher ({', '.join(MATCHERS)}) or give a function of reply and "
            "example."
        )
    return found


def _options(match: str, example: Example) -> tuple[int, ...]:
    """How many options an example has, for a matcher that reads letters: those that it lists, a line each, else four.

    The example's own answer is always one of them.
    """
    if match != "letter":
        return ()
    listed = "".join(re.findall(r"(?:^|\n)\s*\(?([A-J])[.)]", example.text or ""))
    n = len(listed) if listed == LETTERS[: len(listed)] else 0
    return (max(n or 4, LETTERS.find((example.answer or "").strip("() .")) + 1),)
