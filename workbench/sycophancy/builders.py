"""Questions of any kind as items of the two-turn protocol: the are-you-sure set of a benchmark.

Prompts of lm-evaluation-harness lose their examples and the words around the question; options are listed as "(A) …" in
the order that the prompt gives them, or else in a drawn one, since some sets put the right answer first.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.errors import InputError
from workbench.evaluation.embedded_questions import OWN
from workbench.evaluation.questions import Question
from workbench.evaluation.tasks import load_task
from workbench.sycophancy.challenges import ASK_BRIEFLY, ASK_LETTER, ASK_NUMBER
from workbench.sycophancy.items import LETTERS, Item


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
    """Questions of any kind as items of the protocol.

    Args:
        questions: `Item`s, evaluation `Question`s, or mappings with "question", "choices" and "answer" (an index).
        seed: of the order of options, where the prompt does not list them already.

    Raises:
        InputError: no questions, or one that cannot be asked in a dialogue.
    """
    listed = [questions] if isinstance(questions, Item | Question | Mapping) else list(questions)
    if not listed:
        raise InputError("No questions: the list is empty. Give at least one.")
    items = [_item(question, i, seed) for i, question in enumerate(listed)]
    return [item if item.id else replace(item, id=str(i)) for i, item in enumerate(items)]


def choice_item(question: str, choices: Sequence[str], answer: int, id: str = "", task: str = "") -> Item:
    """An item whose options are listed behind the question, with the request for a letter."""
    if not 0 <= answer < len(choices) <= len(LETTERS):
        name = id or question[:40]
        raise InputError(f"Question {name!r}: the answer {answer} is none of its {len(choices)} choices.")
    options = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return Item(f"{question}\n{options}\n{ASK_LETTER}", LETTERS[answer], "letter", tuple(choices), id=id, task=task)


def _item(question: Any, i: int, seed: int) -> Item:
    if isinstance(question, Item):
        return question
    if isinstance(question, Question):
        return _of_question(question, random.Random(f"{seed}-{question.task}-{question.id}"))
    if isinstance(question, Mapping) and {"question", "choices", "answer"} <= question.keys():
        choices = [str(choice) for choice in question["choices"]]
        return choice_item(str(question["question"]), choices, int(question["answer"]), str(question.get("id", i)))
    raise InputError(
        f"Question {i} is {type(question).__name__} {str(question)[:60]!r}; give Items, evaluation Questions, or "
        "mappings with 'question', 'choices' and 'answer' (the index of the right choice)."
    )


def _of_question(question: Question, rng: random.Random) -> Item:
    if not isinstance(question.prompt, str) or question.task.startswith(OWN) or question.task == "humaneval":
        raise InputError(
            f"Question {question.id!r} of {question.task or 'this list'} cannot be asked in this dialogue: its "
            "prompt is token ids, an embedded model's chat or a program. Its own questions come with questions=None."
        )
    asked = question.prompt.removeprefix(question.description)
    name, task = question.id, question.task
    if not question.choices:
        number = re.fullmatch(r"\s*-?[\d,.]+\s*", question.target) is not None
        return Item(
            f"{_bare(asked)}\n{ASK_NUMBER if number else ASK_BRIEFLY}",
            question.target,
            "number" if number else "text",
            id=name,
            task=task,
        )
    choices = [str(choice).strip() for choice in question.choices]
    answer = int(question.answer or 0)
    if choices == list(LETTERS[: len(choices)]):
        text, choices = _listed(_bare(asked), len(choices))
        return choice_item(text, choices, answer, name, task)
    text, listed, _ = _bare(asked).partition(" Answer Choices: ")
    if listed:
        return choice_item(text, [re.sub(r"^\(?[A-J]\)\s*", "", choice) for choice in choices], answer, name, task)
    order = rng.sample(range(len(choices)), len(choices))[: len(LETTERS)]
    if answer not in order:
        order[rng.randrange(len(order))] = answer
    return choice_item(text, [choices[k] for k in order], order.index(answer), name, task)


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
