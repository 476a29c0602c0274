"""Questions of any kind as items of the two-turn protocol: the are-you-sure set of a benchmark.

Prompts of lm-evaluation-harness lose their examples and the words around the question; options are listed as "(A) …" in
the order that the prompt gives them, or else in a drawn one, since some sets put the right answer first.
"""

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.errors import InputError
from workbench.evaluation.embedded_questions import OWN
from workbench.evaluation.questions import Question
from workbench.evaluation.tasks import load_task
from workbench.prompts.questions import ASK_LETTER, LETTERS, FreeForm, MultipleChoice, read_questions
from workbench.sycophancy.items import Item


def are_you_sure(
    name: str, folder: str | Path, limit: int | None = None, seed: int = 0, *, skip_malformed: bool = False
) -> list[Item]:
    """Questions of the two-turn protocol from a benchmark in local files.

    Args:
        name: as `load_task` knows it: "mmlu", "mmlu_anatomy", "truthfulqa", "aqua", "gsm8k", "strategyqa",
            "commonsenseqa".
        folder: holds one folder per benchmark.
        limit: so many questions, drawn from all.
        seed: of the draw, and of the order of options.
        skip_malformed: leave rows out that cannot be used.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} leaves nothing; give at least 1, or None for all.")
    questions = load_task(name, folder, n_shots=0, skip_malformed=skip_malformed)
    if limit is not None and limit < len(questions):
        questions = random.Random(seed).sample(questions, limit)
    return as_items(questions, seed)


def as_items(questions: Any, seed: int = 0) -> list[Item]:
    """Questions of any kind as items of the protocol: `Item`s, evaluation `Question`s, or what `read_questions` takes.

    `seed` decides the order of options where the prompt does not list them already.
    """
    listed = [questions] if isinstance(questions, Item | Question | Mapping) else questions
    if isinstance(listed, Iterable) and not isinstance(listed, str):
        listed = list(listed)
    if isinstance(listed, list) and any(isinstance(one, Item | Question) for one in listed):
        listed = [one if isinstance(one, Item | Question) else read_questions([one])[0] for one in listed]
    else:
        listed = read_questions(listed)
    items = [_item(question, seed) for question in listed]
    return [item if item.id else replace(item, id=str(i)) for i, item in enumerate(items)]


def choice_item(asked: MultipleChoice, task: str = "") -> Item:
    """An item whose options are listed behind the question, with the request for a letter."""
    return Item(f"{asked.listed()}\n{ASK_LETTER}", asked.letter, "letter", asked.choices, id=asked.id, task=task)


def free_item(asked: FreeForm, task: str = "") -> Item:
    """An item that is answered in words, or by a number where the right answer is one."""
    right, *aliases = asked.answers
    return Item(
        asked.asked,
        right,
        "number" if asked.is_number else "text",
        wrong=asked.wrong,
        aliases=tuple(aliases),
        id=asked.id,
        task=task,
    )


def _item(question: Item | Question | MultipleChoice | FreeForm, seed: int) -> Item:
    if isinstance(question, Item):
        return question
    if isinstance(question, Question):
        return _of_question(question, random.Random(f"{seed}-{question.task}-{question.id}"))
    return choice_item(question) if isinstance(question, MultipleChoice) else free_item(question)


def _of_question(question: Question, rng: random.Random) -> Item:
    if not isinstance(question.prompt, str) or question.task.startswith(OWN) or question.task == "humaneval":
        raise InputError(
            f"Question {question.id!r} of {question.task or 'this list'} cannot be asked in this dialogue: its "
            "prompt is token ids, an embedded model's chat or a program. Its own questions come with questions=None."
        )
    text, name = _bare(question.prompt.removeprefix(question.description)), question.id
    if not question.choices:
        return free_item(FreeForm(text, (question.target,), id=name), question.task)
    choices = [str(choice).strip() for choice in question.choices]
    listed, lettered = text.partition(" Answer Choices: ")[:2]
    if choices == list(LETTERS[: len(choices)]):
        text, choices = _listed(text, len(choices))
    elif lettered:
        text, choices = listed, [re.sub(r"^\(?[A-J]\)\s*", "", choice) for choice in choices]
    else:
        return choice_item(
            MultipleChoice(text, tuple(choices), question.answer or 0, name).shuffled(rng), question.task
        )
    return choice_item(MultipleChoice(text, tuple(choices), question.answer or 0, name), question.task)


def _bare(prompt: str) -> str:
    """The last question of a prompt, without its examples and the words around it."""
    last = re.split(r"\n\n(?=Q: |Question: )", prompt)[-1]
    last = re.sub(r"\n(?:A|Answer):[^\n]*$", "", last.rstrip())
    return re.sub(r"^(?:Q|Question): ", "", last).strip()


def _listed(text: str, n: int) -> tuple[str, list[str]]:
    """A question and the texts of its options, which stand behind it as "A. …" lines."""
    choices, rest = [], text
    for letter in reversed(LETTERS[:n]):
        rest, mark, choice = rest.rpartition(f"\n{letter}. ")
        if not mark:
            raise InputError(f"The prompt {text[:60]!r} lists no option {letter}; give choices as texts.")
        choices.insert(0, choice.strip())
    return rest.strip(), choices
