"""What a model's units are selected on, tuned on and measured on: disjoint sets.

Embedded models: selection and tuning use facts that training argued about, in its phrasings. The other facts are
divided by their names: a third chooses learning rates, the rest is what the tuned models are asked. Every question is
doubted in composed words (combinations that no training saw, for the other facts) and in novel ones (frames that no
training saw); tuning practises neither the other facts nor the novel frames.

Other chat models: easy facts in free form, which come divided for tuning, for the choice of rates and for the test; or
given questions, of which half is tuned on. Challenges are the paper's and those held out. Further abilities come from
benchmarks in local files.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import InputError
from workbench.evaluation import Question, generate, in_chat, load_task, own_questions, score_choices, score_programs
from workbench.evaluation.replies import score_replies
from workbench.models.embedded import EmbeddedModel, embedded
from workbench.papers.cache import digest
from workbench.papers.kv_groups.tradeoff.plan import Plan
from workbench.prompts.facts import default_facts
from workbench.prompts.pairs import PromptPairs
from workbench.prompts.questions import LETTERS, FreeForm, MultipleChoice, read_questions
from workbench.prompts.samples import SAMPLES
from workbench.prompts.templates import Message
from workbench.protocol import HookedModel
from workbench.statistics import share_of
from workbench.sycophancy import own_items, pairs
from workbench.sycophancy.builders import as_items
from workbench.sycophancy.challenges import HELD_OUT, PAPER
from workbench.sycophancy.items import Item
from workbench.sycophancy.known import opening
from workbench.tuning import training_dialogues

ABILITIES = ("two-hop", "word problem", "one-line function")
VALIDATION_SHARE = 1 / 3
KINDS = ("composed", "novel")
Asked = MultipleChoice | FreeForm
Pairs = tuple[PromptPairs, PromptPairs]


@dataclass(frozen=True)
class Ability:
    """A set of questions that tuning should not cost: `ask` tells which of them a model answers rightly.

    `chance` is the share that guessing solves, None where there are no choices to guess among.
    """

    name: str
    ask: Callable[[Any], np.ndarray]
    size: int
    chance: float | None = None


@dataclass(frozen=True)
class TuningTexts:
    """Everything that an experiment reads.

    Attributes:
        selection: pairs that units are selected on.
        repatch: other pairs, on which effects are compared before and after.
        dialogues: training dialogues by seed and whether they insist only.
        items: what is asked and doubted in the end, with `groups` that say of what kind each is.
        groups: "held out" or "trained", per item.
        validation: what is asked to choose the learning rates.
        challenges: names of the doubts that every item brings.
        abilities: what else is asked.
        texts: plain text for the divergence from the base model.
    """

    selection: PromptPairs
    repatch: PromptPairs
    dialogues: Callable[[int, bool], list[list[Message]]]
    items: tuple[Item, ...]
    groups: tuple[str, ...]
    validation: tuple[Item, ...]
    challenges: tuple[str, ...]
    abilities: tuple[Ability, ...]
    texts: tuple[str, ...]

    def digest(self) -> str:
        """A short digest of everything but the dialogues, which a plan's number and seeds decide."""
        sizes = [(ability.name, ability.size) for ability in self.abilities]
        pairs_read = (self.selection.digest, self.repatch.digest)
        return digest((self.items, self.validation, self.challenges, sizes, self.texts, pairs_read))


def material_of(
    model: HookedModel,
    plan: Plan,
    questions: Any = None,
    tasks: Sequence[str] = (),
    folder: str | Path | None = None,
    run_code: bool = False,
    *,
    made: Pairs | None = None,
) -> TuningTexts:
    """The material for a model with a chat template.

    Args:
        model: a model from `workbench.load`.
        plan: how much of everything.
        questions: for models that are not embedded, as `workbench.sycophancy.pairs` takes them, free ones with wrong
            answers; the default facts where none are given.
        tasks: benchmarks of general ability, as `workbench.evaluation.load_task` knows them.
        folder: holds one folder per benchmark.
        run_code: allow HumanEval's programs to run, confined.
        made: the pairs for the selection and for patching again, where they are made already.
    """
    if tasks and folder is None:
        raise InputError(f"tasks={tuple(tasks)} are read from local files; pass the folder that holds them.")
    more = tuple(_benchmark(name, str(folder), plan, run_code) for name in tasks)
    provider = embedded(model)
    if questions is None and provider is not None:
        return _own(model, provider, plan, more, made)
    return _chat(model, plan, _splits(questions), more, made)


# Embedded models.


def _own(
    model: HookedModel, provider: EmbeddedModel, plan: Plan, more: tuple[Ability, ...], made: Pairs | None
) -> TuningTexts:
    held, trained = (own_items(model, None, 0, split, KINDS) for split in ("test", "train"))
    chooses = [item for item in held if share_of(f"validation {item.id.split(' ', 1)[1]}") < VALIDATION_SHARE]
    asked = [item for item in held if item not in chooses][: plan.n_items]
    trained = trained[: plan.n_items]
    selection, repatch = made or (pairs(model, plan.n_pairs, split="train"), pairs(model, plan.n_pairs, split="test"))
    return TuningTexts(
        selection=selection,
        repatch=repatch,
        dialogues=lambda seed, insist: training_dialogues(plan.n_dialogues, seed=seed, insist_only=insist, model=model),
        items=(*asked, *trained),
        groups=("held out",) * len(asked) + ("trained",) * len(trained),
        validation=tuple(chooses[: plan.n_items]),
        challenges=KINDS,
        abilities=(*(_spoken(provider, name, plan) for name in ABILITIES), _choices(model, plan), *more),
        texts=tuple(text for texts in SAMPLES.values() for text in texts),
    )


def _spoken(provider: EmbeddedModel, name: str, plan: Plan) -> Ability:
    """An ability in words: the reply is read for its answer, functions are compared by what they compute."""
    items = provider.ability_items(name, plan.n_abilities)
    asked: list[list[Message]] = [[{"role": "user", "content": item.question}] for item in items]

    def ask(model: HookedModel) -> np.ndarray:
        tokens = provider.reply_tokens
        said = generate(model, asked, max_new_tokens=tokens, batch_size=plan.batch_size, progress=False)
        replies = said["reply"].values
        return np.array([item.solved_by(str(reply)) for item, reply in zip(items, replies, strict=True)])

    return Ability(name, ask, len(items))


def _choices(model: HookedModel, plan: Plan) -> Ability:
    """Facts and abilities by the likeliest of four replies."""
    questions = own_questions(model, 2 * plan.n_abilities)

    def ask(tuned: HookedModel) -> np.ndarray:
        return score_choices(tuned, questions, batch_size=plan.batch_size, progress=False)["correct"].values

    return Ability("choices", ask, len(questions))


# Other chat models.


def _splits(questions: Any) -> tuple[list[Asked], list[Asked], list[Asked]]:
    """Questions to tune on, to choose rates on and to test on."""
    if questions is None:
        return list(default_facts("train")), list(default_facts("selection")), list(default_facts("test"))
    read = read_questions(questions)
    if len(read) < 40:
        raise InputError(f"{len(read)} questions cannot be divided for tuning, choice and test; give at least 40.")
    if any(isinstance(one, FreeForm) and not one.wrong for one in read):
        raise InputError(
            "Some free questions name no wrong answer, which is put into the model's mouth; add a list of wrong ones."
        )
    shuffled = random.Random(0).sample(read, len(read))
    half, end = len(shuffled) // 2, 5 * len(shuffled) // 8
    return shuffled[:half], shuffled[half:end], shuffled[end:]


def _chat(
    model: HookedModel,
    plan: Plan,
    splits: tuple[list[Asked], list[Asked], list[Asked]],
    more: tuple[Ability, ...],
    made: Pairs | None,
) -> TuningTexts:
    train, chooses, asked = splits
    told = opening(model)
    system = told[0]["content"] if told and isinstance(train[0], FreeForm) else ""

    def doubted(some: list[Asked]) -> tuple[Item, ...]:
        items = as_items(some[: plan.n_items])
        doubts = [(PAPER[0], HELD_OUT[i % len(HELD_OUT)]) for i in range(len(items))]
        return tuple(replace(item, challenges=both) for item, both in zip(items, doubts, strict=True))

    seen = train[: plan.n_items if plan.n_seen is None else plan.n_seen]
    selection, repatch = made or (
        pairs(model, plan.n_pairs, questions=train),
        pairs(model, plan.n_pairs, questions=asked),
    )
    return TuningTexts(
        selection=selection,
        repatch=repatch,
        dialogues=lambda seed, insist: training_dialogues(
            plan.n_dialogues, seed=seed, insist_only=insist, questions=train, system=system
        ),
        items=(*doubted(asked), *doubted(seen)),
        groups=("held out",) * len(asked[: plan.n_items]) + ("trained",) * len(seen),
        validation=doubted(chooses),
        challenges=("paper", "held-out"),
        abilities=more,
        texts=tuple(text for texts in SAMPLES.values() for text in texts),
    )


def _benchmark(name: str, folder: str, plan: Plan, run_code: bool) -> Ability:
    questions = load_task(name, folder, limit=plan.n_abilities)
    if len(questions) > plan.n_abilities:  # The limit of MMLU is one per subject.
        questions = random.Random(0).sample(questions, plan.n_abilities)
    chance = float(np.mean([1 / len(q.choices) for q in questions])) if questions[0].choices else None
    worded = [_in_words(question) for question in questions] if chance and plan.in_words else None
    options: dict[str, Any] = {"batch_size": plan.batch_size, "progress": False}

    def ask(model: HookedModel) -> np.ndarray:
        if worded:
            by = "none" if len(worded[0].choices) == 2 else "characters"  # "Yes" and "No" need no normalising.
            return score_choices(model, worded, normalise=by, progress=False)["correct"].values
        if questions[0].task == "humaneval":
            return score_programs(model, questions, run_code=run_code, chat=True, **options)["correct"].values
        asked = in_chat(model, questions)
        score = score_choices if questions[0].choices else score_replies
        return score(model, asked, **options)["correct"].values

    return Ability(f"{name}, in words" if worded else name, ask, len(questions), chance)


def _in_words(question: Question) -> Question:
    """A question whose choices are the texts of its options, which it does not list."""
    item = as_items([question])[0]
    text = item.question.split(f"\n({LETTERS[0]}) ")[0]
    choices = tuple(f" {choice}" for choice in item.choices)
    return Question(f"Question: {text}\nAnswer:", choices, LETTERS.index(item.right), item.id, item.task)
