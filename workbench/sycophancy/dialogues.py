"""Challenged and confirmed dialogues: the prompts on which sycophancy is located.

1. The user asks, and the assistant's first answer is RIGHT: in free form the model's own words, of questions that it
   answers correctly by itself; of lettered options "The answer is X." (Chen et al. 2024, released code).
2. base: the user doubts it. source: the user agrees; the two texts differ as little as possible.
3. Answer a is how a reply begins that gives in, b how one begins that stands firm: by default what this very model says
   when it does (`openers`), found in its own replies to these dialogues, and to more where these are few.

Embedded models bring dialogues of their own, with facts and combinations of phrasings that training never saw; how they
begin is known.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.errors import InputError
from workbench.models.embedded import EmbeddedModel, embedded
from workbench.models.state import measures
from workbench.names import FactSplit
from workbench.prompts.facts import default_facts
from workbench.prompts.pairs import PromptPairs
from workbench.prompts.questions import FreeForm, MultipleChoice, first, read_questions
from workbench.prompts.templates import Message, tokenizer_of
from workbench.protocol import HookedModel
from workbench.sycophancy.builders import as_items
from workbench.sycophancy.items import Item
from workbench.sycophancy.known import known_questions
from workbench.sycophancy.openers import ENOUGH, judged, scored_pairs, sets_of
from workbench.sycophancy.reactions import SIDES, doubted, react

PAPER_WORDS = ("Apologies", "Yes")
"""The words of Chen et al. (2024); their first tokens are compared."""
LONGEST_QUESTION = 768

Answers = Literal["auto", "paper"] | tuple[Any, Any]


@measures
def pairs(
    model: HookedModel,
    n: int = 100,
    seed: int = 0,
    split: FactSplit = "test",
    *,
    questions: Any = None,
    answers: Answers | None = None,
    prefix: str = "",
    template_kwargs: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    progress: bool = False,
) -> PromptPairs:
    """Pairs of a challenged (base) and a confirmed (source) dialogue about a right answer.

    Args:
        model: a model from `workbench.load`, with a tokenizer and a chat template.
        n: how many pairs. Questions longer than 768 characters, and free ones that the model does not answer correctly,
            are left out; if fewer are left, a warning says so, and `facts["n_requested"]` keeps the number.
        seed: of the draw.
        split: "test" or "train" of an embedded model's own dialogues (facts and phrasings held out of training), or of
            the default facts, which have "selection" too.
        questions: for any chat model: questions in any form that `workbench.prompts.read_questions` takes; by default
            the embedded model's own dialogues, or the default facts in free form.
        answers: "auto" compares the openers that this model uses when it gives in and when it stands firm, and measures
            how often it does (`facts`), on at least 48 questions where there are so many; the default for a model that
            is not embedded. "paper" compares the first tokens
            of "Apologies" and "Yes". Or two words, or two lists of words: whole beginnings of a reply, compared by
            their log-probabilities.
        prefix: a beginning of the reply that is forced on both sides; with "auto" by default what nearly all replies
            begin with.
        template_kwargs: further variables of the chat template, see `workbench.prompts.render`.
        resume: a folder in which the model's finished replies are kept; a stopped call goes on from them.
        progress: show bars while the model is asked.

    Raises:
        NoBehaviourError: answers="auto", and the replies show no two stances.
        InputError: malformed questions, a template that cannot be rendered, no question that the model answers.
    """
    tokenizer_of(model)
    if n < 1:
        raise InputError(f"n={n} must be at least 1: the number of pairs.")
    folder = None if resume is None else Path(resume).expanduser()
    wish = _Wish(model, n, seed, split, prefix, template_kwargs, folder, progress)
    provider = embedded(model)
    if provider is not None and questions is None:
        return wish.own(provider, answers)
    automatic = answers in (None, "auto")
    items, firsts, facts = wish.asked(questions, max(n, ENOUGH) if automatic else n)
    dialogues = doubted(model, items, firsts)
    if automatic:
        return wish.automatic(items, firsts, dialogues, facts)
    sides = zip(dialogues["base"], dialogues["source"], items, strict=True)
    meta = [{"base": base, "source": source, "answer": item.right} for base, source, item in sides]
    return wish.compared(dialogues, answers, meta, facts | {"answers": str(answers), "prefix": prefix})


@dataclass(frozen=True)
class _Wish:
    """The arguments of `pairs` that stay the same whatever is asked and compared."""

    model: HookedModel
    n: int
    seed: int
    split: FactSplit
    prefix: str
    template_kwargs: Mapping[str, Any] | None
    resume: Path | None
    progress: bool

    @property
    def asking(self) -> dict[str, Any]:
        """How the model is asked."""
        return {"template_kwargs": self.template_kwargs, "resume": self.resume, "progress": self.progress}

    def asked(self, questions: Any, wanted: int) -> tuple[list[Item], list[str], dict[str, Any]]:
        """Up to `wanted` questions with right first answers, and how they were found; a warning if fewer than n are."""
        read, n = default_facts(self.split) if questions is None else read_questions(questions), self.n
        short: list[MultipleChoice | FreeForm] = [asked for asked in read if len(asked.question) <= LONGEST_QUESTION]
        if not short:
            raise InputError(f"No question is left: all {len(read)} are longer than {LONGEST_QUESTION} characters.")
        if all(isinstance(asked, MultipleChoice) for asked in short):
            items = as_items(random.Random(self.seed).sample(short, min(wanted, len(short))))
            first(items, n)
            return items, [item.said(right=True) for item in items], {"n_requested": n, "first_answers": "right, given"}
        known = known_questions(self.model, as_items(short), wanted, seed=self.seed, **self.asking)
        first(known.items, n, "questions that the model answers correctly")
        facts = {"n_requested": n, "n_asked": known.n_asked, "known_share": known.share, "first_answers": "own"}
        return list(known.items), list(known.replies), facts

    def own(self, provider: EmbeddedModel, answers: Answers | None) -> PromptPairs:
        """Dialogues of an embedded model's own generator."""
        if self.split == "selection":
            raise InputError(
                "An embedded model's own dialogues are split into train and test; no selection split is there."
            )
        made = provider.challenge_pairs(self.n, self.seed, self.split)
        dialogues = {side: [list(pair[side]) for pair in made] for side in SIDES}
        if answers == "auto":
            items = [Item(pair["base"][0]["content"], pair["answer"]) for pair in made]
            firsts = [pair["base"][1]["content"] for pair in made]
            return self.automatic(items, firsts, dialogues, {"first_answers": "right, given"})
        words = answers if answers is not None else _first_tokens(self.model, provider.answer_words)
        return self.compared(dialogues, words, made, {"prefix": self.prefix} if self.prefix else {})

    def compared(
        self,
        dialogues: dict[str, list[list[Message]]],
        answers: Any,
        meta: Sequence[dict[str, Any]],
        facts: dict[str, Any],
    ) -> PromptPairs:
        """Pairs with the same given answers everywhere."""
        words = _first_tokens(self.model, PAPER_WORDS) if answers == "paper" else answers
        sides, options = (dialogues["base"], dialogues["source"]), {"template_kwargs": self.template_kwargs}
        made = PromptPairs.from_dialogues(
            self.model, *sides, [words] * len(meta), prefix=self.prefix, meta=meta, **options
        )
        made.facts = facts
        return made

    def automatic(
        self,
        items: Sequence[Item],
        firsts: Sequence[str],
        dialogues: dict[str, list[list[Message]]],
        facts: dict[str, Any],
    ) -> PromptPairs:
        """The first n pairs; their answers are the openers of the model's own replies to all of the dialogues."""
        reactions = react(self.model, items, firsts, dialogues, **self.asking)
        tokenizer = tokenizer_of(self.model)
        begun = tuple(tokenizer(self.prefix, add_special_tokens=False)["input_ids"]) if self.prefix else None
        sets = sets_of(reactions, range(len(items)), begun)
        found = judged(self.model, reactions, template_kwargs=self.template_kwargs, beginning=begun)
        made = scored_pairs(self.model, reactions, range(min(self.n, len(items))), sets, self.template_kwargs)
        made.facts = facts | reactions.facts()
        made.facts |= {
            "answers": "auto",
            "prefix": tokenizer.decode(list(sets.beginning)),
            "prefix_share": found.attrs["beginning_share"],
            "openers_gives_in": [tokenizer.decode(list(s)) for s in sets.gives_in],
            "openers_stands_firm": [tokenizer.decode(list(s)) for s in sets.stands_firm],
            "common_prefix": found.attrs["common_prefix"],
        }
        made.facts |= {name: float(found[name].sel(within="pooled")) for name in ("auc", "auc_low", "auc_high")}
        return made


def _first_tokens(model: HookedModel, words: tuple[str, str]) -> tuple[int, int]:
    tokenizer = tokenizer_of(model)
    a, b = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words)
    if a == b:
        raise InputError(
            f"The answers {words[0]!r} and {words[1]!r} begin with the same token {a} ({tokenizer.decode([a])!r}); "
            "choose words that differ in their first token."
        )
    return a, b
