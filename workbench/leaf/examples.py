"""One training example as tokens: a prompt, its gold response, and which tokens come from the user's message.

An example is a plain value of token ids, so that toy tasks without a tokenizer have examples too. Those made from text
(`workbench.leaf.example`) remember their words as well, and which characters each token covers, so that a pruned
example can be read, and be tokenized again by this or another tokenizer.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

from workbench.errors import InputError


@dataclass(frozen=True)
class Wording:
    """The text of an example.

    Attributes:
        instruction: what the user says.
        response: the gold response.
        offsets: for each token of the example's context, the characters of `instruction + response` that it covers;
            (n, n) where it covers none, as tokens of the chat template do.
        shown: how many characters of the response belong to the context (response level), else 0.
        system: the system message, if there is one.
        suffix: what the user's message has after the instruction.
        protect: regular expressions; what they find in the instruction or the response may not be pruned.
        template: further variables of the chat template, by name.
    """

    instruction: str
    response: str
    offsets: tuple[tuple[int, int], ...]
    shown: int = 0
    system: str | None = None
    suffix: str = ""
    protect: tuple[str, ...] = ()
    template: tuple[tuple[str, Any], ...] = ()

    def without(self, removed: set[int]) -> "Wording":
        """The text and the offsets when some context tokens are gone; a character goes with the last token on it."""
        kept = [span for i, span in enumerate(self.offsets) if i not in removed]
        whole = self.instruction + self.response
        gone = {c for i in removed for c in range(*self.offsets[i])} - {c for span in kept for c in range(*span)}
        before = list(accumulate((c in gone for c in range(len(whole))), initial=0))
        text = "".join(character for c, character in enumerate(whole) if c not in gone)
        end = len(self.instruction) - before[len(self.instruction)]
        lost = before[len(self.instruction) + self.shown] - before[len(self.instruction)]
        offsets = tuple((a - before[a], b - before[b]) for a, b in kept)
        return replace(self, instruction=text[:end], response=text[end:], offsets=offsets, shown=self.shown - lost)


@dataclass(frozen=True)
class Example:
    """A prompt with its gold response.

    Attributes:
        prompt: token ids up to where the response begins: the chat template's generation prompt included.
        response: gold response, with the token that ends it.
        prunable: for each token of `prompt + response[:prefix]`, whether it may be pruned: the user's own words (or,
            at response level, the model's earlier ones), never tokens of the template.
        answer: the gold final answer that a matcher looks for in a reply; None: the reply must be `target` itself.
        prefix: response level: so many tokens of the response are context, and the loss is on the rest.
        wording: the text of the tokens, if there is any.
        identifier: what tells the example from others.
        accepted: other forms of the answer, which match="text" takes for it.
        options: the texts of the options, where the example has some.

    Raises:
        InputError: no prompt, no response left to score, or `prunable` of another length than the context.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    prunable: tuple[bool, ...]
    answer: str | None = None
    prefix: int = 0
    wording: Wording | None = None
    identifier: str = ""
    accepted: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __post_init__(self):
        where = f"Example {self.identifier!r}" if self.identifier else "An example"
        if not self.prompt:
            raise InputError(f"{where} has a prompt without tokens; give at least one, such as BOS.")
        if not 0 <= self.prefix < len(self.response):
            what = "no response" if not self.response else f"{len(self.response)} response tokens"
            raise InputError(
                f"{where} has {what} and prefix={self.prefix}, so its response segment is empty and there is no loss "
                "to take. Give a response, or split it into fewer segments."
            )
        sizes = {"values of prunable": len(self.prunable)}
        if self.wording is not None:
            sizes["offsets"] = len(self.wording.offsets)
        for what, size in sizes.items():
            if size != len(self.context):
                raise InputError(
                    f"{where} has {len(self.context)} context tokens and {size} {what}; it needs one per token of "
                    "prompt + response[:prefix]."
                )

    @property
    def context(self) -> tuple[int, ...]:
        """What a model is given: the prompt, and at response level the earlier part of the response."""
        return self.prompt + self.response[: self.prefix]

    @property
    def target(self) -> tuple[int, ...]:
        """The tokens that the loss is on."""
        return self.response[self.prefix :]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Context and target."""
        return self.prompt + self.response

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions of the context that may be pruned."""
        return tuple(i for i, may in enumerate(self.prunable) if may)

    @property
    def text(self) -> str | None:
        """The instruction as text, if there is one; at response level the shown part of the response after it."""
        if self.wording is None:
            return None
        return self.wording.instruction + ("\n" + self.wording.response[: self.wording.shown] if self.prefix else "")

    def without(self, positions: Iterable[int]) -> "Example":
        """The example with some prunable context tokens deleted; all other ids stay as they are.

        Raises:
            InputError: a position that may not be pruned, or all that may.
        """
        gone = set(positions)
        forbidden = sorted(gone - set(self.positions))
        if forbidden:
            raise InputError(
                f"Position {forbidden[0]} of example {self.identifier!r} may not be pruned; those that may are "
                f"{list(self.positions)[:12]}{' …' if len(self.positions) > 12 else ''}."
            )
        if gone and len(gone) == len(self.positions):
            raise InputError(
                f"Pruning would delete all {len(gone)} tokens of example {self.identifier!r} that may be pruned, so "
                "nothing of the question would be left. Lower the threshold, or prune span by span."
            )
        kept = [i for i in range(len(self.context)) if i not in gone]
        shown = [i for i in kept if i >= len(self.prompt)]
        return replace(
            self,
            prompt=tuple(self.prompt[i] for i in kept if i < len(self.prompt)),
            response=tuple(self.tokens[i] for i in shown) + self.target,
            prunable=tuple(self.prunable[i] for i in kept),
            prefix=len(shown),
            wording=None if self.wording is None else self.wording.without(gone),
        )


def digest(examples: Sequence[Example]) -> str:
    """SHA-256 of all tokens, masks and answers: the identity of the examples in a result's provenance."""
    content = []
    for e in examples:
        choices = (e.accepted, e.options) if e.accepted or e.options else ()
        content.append((e.prompt, e.response, e.prunable, e.answer, e.prefix, *choices))
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def as_record(example: Example) -> dict:
    """The example as plain types for JSON; `from_record` is its inverse."""
    return asdict(example)


def from_record(record: dict) -> Example:
    """An example from what `as_record` made, perhaps by way of JSON."""
    fields = dict(record)
    for name in {"prompt", "response", "prunable", "accepted", "options"} & fields.keys():
        fields[name] = tuple(fields[name])
    if fields.get("wording"):
        words = dict(fields["wording"])
        offsets = tuple((int(a), int(b)) for a, b in words.pop("offsets"))
        protect = tuple(words.pop("protect", ()))
        template = tuple((str(name), value) for name, value in words.pop("template", ()))
        fields["wording"] = Wording(offsets=offsets, protect=protect, template=template, **words)
    return Example(**fields)


def check_examples(examples: Any) -> list[Example]:
    """The examples as a list."""
    if isinstance(examples, Example):
        raise InputError("One example was given; give a list of examples, such as [example].")
    listed = list(examples)
    if not listed:
        raise InputError("No examples: the list is empty. Give at least one.")
    other = next((e for e in listed if not isinstance(e, Example)), None)
    if other is not None:
        raise InputError(
            f"Examples are workbench.leaf.Example values, not {type(other).__name__} {str(other)[:40]!r}. Make them "
            "from text with workbench.leaf.example(model, instruction, response)."
        )
    return listed
