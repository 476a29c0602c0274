"""Response level: earlier parts of a response are context for the later ones and can mislead them too.

A response is split at ends of steps (lines) or sentences, at those nearest to equal shares of its tokens. For each
split the part before it becomes context, whose tokens may be pruned in place of the instruction's, and the loss is on
the rest: k segments give k - 1 examples. The shown part stays where the model wrote it, after the generation prompt;
the released code appends it to the user's message instead.
"""

import re
from collections.abc import Sequence

from workbench.errors import InputError
from workbench.leaf.examples import Example, check_examples
from workbench.leaf.tokenized_examples import covered_response, show
from workbench.protocol import HookedModel, TextTokenizer

BOUNDARY = re.compile(r"\n+|(?<=[.!?])\s+")
"""Where a step or a sentence ends: the white space after it."""


def split_responses(
    model: HookedModel | TextTokenizer, examples: Sequence[Example], segments: int = 2
) -> list[Example]:
    """Examples at response level.

    Args:
        model: the model or tokenizer that the examples were made with.
        examples: at instruction level, made from text.
        segments: into how many parts each response is split; one that has fewer steps is split into these.

    Returns:
        Up to segments - 1 per example, each with "/1", "/2", … after its identifier.

    Raises:
        InputError: fewer than 2 segments, an example without text, or no response with two steps.
    """
    if segments < 2:
        raise InputError(f"segments={segments} gives no earlier part to prune; give 2 or 3.")
    made = []
    for example in check_examples(examples):
        cuts = split_points(model, example, segments)
        for n, cut in enumerate(cuts, 1):
            part = show(example, model, cut, identifier=f"{example.identifier}/{n}" if example.identifier else "")
            if any(part.prunable):
                made.append(part)
    if not made:
        raise InputError(
            "No response has two steps, so every segment but one would be empty. Responses are split at line ends and "
            "after sentences; give responses that reason in steps."
        )
    return made


def split_points(model: HookedModel | TextTokenizer, example: Example, segments: int) -> list[int]:
    """The characters of the response at which it is split, in order."""
    if example.wording is None:
        raise InputError(f"Example {example.identifier!r} has no text; set prefix= and prunable= by hand.")
    text = example.wording.response
    ends = [m.start() for m in BOUNDARY.finditer(text) if m.start() > 0 and m.end() < len(text)]
    covered = covered_response(model, text)
    before = {cut: sum(b <= cut for _, b in covered) for cut in ends}
    cuts: list[int] = []
    for n in range(1, segments):
        share = len(covered) * n / segments
        left = [cut for cut in ends if not cuts or cut > cuts[-1]]
        if left:
            cuts.append(min(left, key=lambda cut: (abs(before[cut] - share), cut)))
    return cuts
