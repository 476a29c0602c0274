"""Benchmarks from local files, as questions in the prompt formats of lm-evaluation-harness (0.4.13).

Names, texts, the order of few-shot examples and the way they are drawn are the harness's, so that a number can be
compared with a published one: MMLU takes the first examples of its dev split, the others draw from a generator that is
seeded once and goes on from question to question.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.errors import InputError, suggest
from workbench.evaluation.questions import Question, lettered_prompt
from workbench.prompts.questions import LETTERS, FreeForm, MultipleChoice, question_of
from workbench.prompts.rows import Malformed, find, make, read_rows

HARNESS_SEED = 1234
"""The harness's own seed of few-shot draws."""


@dataclass(frozen=True)
class Document:
    """One row of a benchmark: the prompt without examples, the choices without their leading space, and the answer.

    `target` follows the prompt in a few-shot example; a generated reply is compared with `check`, or else with it.
    """

    text: str
    choices: tuple[str, ...]
    answer: int | None
    target: str
    id: str = ""
    check: str = ""


@dataclass(frozen=True)
class BenchmarkTask:
    """How one benchmark is read and asked.

    Attributes:
        name: the harness's name.
        folder: the sub-folder of its files.
        files: names of the file with the questions; the first that exists is read.
        pool: names of the file that few-shot examples come from; none for the questions themselves.
        document: a row's values to a `Document`.
        shots: examples taken where the caller does not say.
        most_shots: examples at most.
        order: "first" takes the first ones of the pool, "drawn" draws them for each question, "drawn without it"
            draws one more and drops the question itself.
        description: what a prompt begins with.
        replies: how a generated reply is matched, see `answers.MATCHERS`; "" where choices are scored.
        stop: strings that end a reply.
        new_tokens: tokens a reply may have.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    document: Callable[[dict[str, Any]], Document]
    pool: tuple[str, ...] = ()
    shots: int = 0
    most_shots: int = 64
    order: Literal["first", "drawn", "drawn without it"] = "drawn without it"
    description: str = ""
    replies: str = ""
    stop: tuple[str, ...] = ()
    new_tokens: int = 256


def load_task(
    name: str,
    folder: str | Path,
    n_shots: int | None = None,
    limit: int | None = None,
    seed: int = HARNESS_SEED,
    *,
    skip_malformed: bool = False,
) -> list[Question]:
    """The questions of a benchmark.

    Args:
        name: the harness's name of the task (`"mmlu"` for all subjects, `"mmlu_anatomy"` for one, `"commonsense_qa"`,
            `"bigbench_strategyqa_multiple_choice"`, `"truthfulqa_mc1"`, `"agieval_aqua_rat"`, `"gsm8k"`,
            `"humaneval"`) or of its folder (`"strategyqa"`).
        folder: holds one folder per benchmark, with the files as published.
        n_shots: worked examples before each question; by default as many as the harness gives: 5 for GSM8K, else none.
        limit: the first so many questions only; of `"mmlu"`, of each subject.
        seed: of the draw of examples.
        skip_malformed: leave rows out that cannot be used, instead of stopping at the first.

    Returns:
        Questions with choices, or for GSM8K and HumanEval with a target, to be asked with `score_choices` and
        `score_replies`.

    Raises:
        InputError: an unknown task, a missing file, a malformed row, or more examples than the task has or allows.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} leaves no question; give at least 1, or None for all.")
    folder = Path(folder).expanduser()
    if name == "mmlu":
        return [
            question
            for subject in _subjects(folder)
            for question in _questions(_mmlu(subject), folder, n_shots, limit, seed, skip_malformed)
        ]
    return _questions(task(name), folder, n_shots, limit, seed, skip_malformed)


def task(name: str) -> BenchmarkTask:
    """A task by its name in the harness or by its folder's.

    Raises:
        InputError: an unknown name.
    """
    if name.startswith("mmlu_"):
        return _mmlu(name.removeprefix("mmlu_"))
    found = next((t for t in TASKS if name in (t.name, t.folder)), None)
    if found is None:
        known = ["mmlu", *(t.name for t in TASKS), *(t.folder for t in TASKS)]
        raise InputError(f"No task {name!r} is read from local files; {suggest(name, dict.fromkeys(known))}")
    return found


def _questions(
    task: BenchmarkTask, folder: Path, n_shots: int | None, limit: int | None, seed: int, skip: bool
) -> list[Question]:
    shots = task.shots if n_shots is None else n_shots
    if not 0 <= shots <= task.most_shots:
        why = "its prompt holds examples of its own" if task.most_shots == 0 else f"at most {task.most_shots} are given"
        raise InputError(f"n_shots={shots} is not possible for {task.name}: {why}.")
    documents = _documents(task, folder, task.files, skip)
    examples = _examples(task, documents, _pool(task, folder, documents, shots, skip), shots, seed)
    questions = []
    for i, document in enumerate(documents[:limit]):
        shown = "".join(f"{example.text} {example.target}\n\n" for example in next(examples))
        questions.append(
            Question(
                prompt=task.description + shown + document.text,
                choices=tuple(" " + choice for choice in document.choices),
                answer=document.answer,
                id=document.id or str(i),
                task=task.name,
                target=document.check or document.target,
                description=task.description,
            )
        )
    return questions


def _documents(task: BenchmarkTask, folder: Path, files: tuple[str, ...], skip: bool) -> list[Document]:
    if not folder.is_dir():
        raise InputError(f"The folder {folder.name!r} does not exist. Give the folder that holds the benchmarks.")
    file = find(folder / task.folder, files)
    documents = make(read_rows(file), task.document, skip=skip)
    if not documents:
        raise InputError(f"{file.name} of {task.name} holds no usable row. The file is empty or of another kind.")
    return documents


def _pool(task: BenchmarkTask, folder: Path, documents: list[Document], shots: int, skip: bool) -> list[Document]:
    pool = _documents(task, folder, task.pool, skip) if shots and task.pool else documents
    if shots + (task.order == "drawn without it") > len(pool) and shots:
        raise InputError(f"n_shots={shots} is more than the {len(pool)} examples that {task.name} has; give fewer.")
    return pool


def _examples(
    task: BenchmarkTask, documents: list[Document], pool: list[Document], shots: int, seed: int
) -> Iterator[list[Document]]:
    """The examples of each question in turn."""
    generator = random.Random(seed)
    for document in documents:
        if not shots:
            yield []
        elif task.order == "first":
            yield pool[:shots]
        elif task.order == "drawn":
            yield generator.sample(pool, shots)
        else:
            drawn = [example for example in generator.sample(pool, shots + 1) if example != document]
            others = [example for example in pool if example != document] if len(drawn) < shots else []
            yield generator.sample(others, shots) if others else drawn[:shots]


# The benchmarks.


def _subjects(folder: Path) -> list[str]:
    tests = sorted((folder / "mmlu" / "test").glob("*_test.csv"))
    if not tests:
        raise InputError(
            f"No mmlu/test/*_test.csv in {folder.name}/. Give the folder that has the benchmarks as sub-folders."
        )
    return [file.name.removesuffix("_test.csv") for file in tests]


def _mmlu(subject: str) -> BenchmarkTask:
    about = subject.replace("_", " ")
    return BenchmarkTask(
        name=f"mmlu_{subject}",
        folder="mmlu",
        files=(f"test/{subject}_test.csv",),
        pool=(f"dev/{subject}_dev.csv",),
        document=_mmlu_document,
        order="first",
        description=f"The following are multiple choice questions (with answers) about {about}.\n\n",
    )


def _mmlu_document(row: dict[str, Any]) -> Document:
    options = [row[f"choice{i}"] for i in range(4)]
    if None in row or any(not option for option in options):
        raise Malformed("it needs a question, four choices and an answer.")
    return _lettered(MultipleChoice(row["question"].strip(), tuple(options), int(row["answer"])))


def _commonsense(row: dict[str, Any]) -> Document:
    asked = _choices(row)
    if len(asked.choices) != 5:
        raise Malformed(f"it has {len(asked.choices)} choices instead of 5.")
    return _lettered(asked, "Question: ")


def _choices(row: dict[str, Any]) -> MultipleChoice:
    asked = question_of(row)
    if isinstance(asked, FreeForm):
        raise Malformed("it has no choices.")
    return asked


def _lettered(asked: MultipleChoice, before: str = "") -> Document:
    """A question whose options are named by letters, of which one is the continuation."""
    letters = tuple(LETTERS[: len(asked.choices)])
    return Document(before + lettered_prompt(asked), letters, asked.answer, asked.letter, asked.id)


def _strategy(row: dict[str, Any]) -> Document:
    asked = _choices(row)
    return Document(f"Q: {asked.question}\nA:", asked.choices, asked.answer, asked.choices[asked.answer])


TRUTHFULQA_EXAMPLES = (
    ("What is human life expectancy in the United States?", "Human life expectancy in the United States is 78 years."),
    (
        "Who was president of the United States in 1955?",
        "Dwight D. Eisenhower was president of the United States in 1955.",
    ),
    ("Which party did he belong to?", "He belonged to the Republican Party."),
    ("What is the square root of banana?", "I have no comment."),
    ("How does a telescope work?", "Telescopes use lenses or mirrors to focus light and make objects appear closer."),
    ("Where were the 1992 Olympics held?", "The 1992 Olympics were held in Barcelona, Spain."),
)


def _truthful(row: dict[str, Any]) -> Document:
    """The right choice first, as the harness asks it."""
    asked = _choices(row)
    right = asked.choices[asked.answer]
    shown = "".join(f"Q: {q}\nA: {a}\n\n" for q, a in TRUTHFULQA_EXAMPLES)
    others = [choice for choice in asked.choices if choice != right]
    return Document(f"{shown}Q: {asked.question}\nA:", (right, *others), 0, right)


def _aqua(row: dict[str, Any]) -> Document:
    if any(option[:2] != f"{letter})" for letter, option in zip(LETTERS, row["options"], strict=False)):
        raise Malformed('its options do not begin with "A)", "B)", …')
    asked = _choices(row)
    choices = tuple(f"({letter}){choice}" for letter, choice in zip(LETTERS, asked.choices, strict=False))
    last = LETTERS[len(choices) - 1]
    text = f"Q: {row['question']} Answer Choices: {' '.join(choices)}\nA: Among A through {last}, the answer is"
    return Document(text, choices, asked.answer, choices[asked.answer])


def _gsm8k(row: dict[str, Any]) -> Document:
    asked = question_of(row)
    if not isinstance(asked, FreeForm) or not asked.solution:
        raise Malformed('its answer has no "#### " before the number.')
    return Document(f"Question: {row['question']}\nAnswer:", (), None, asked.solution, check=asked.answers[0])


def _humaneval(row: dict[str, Any]) -> Document:
    check = f"{row['test']}\ncheck({row['entry_point']})"
    return Document(row["prompt"], (), None, row["canonical_solution"], row["task_id"], check)


TASKS = (
    BenchmarkTask(
        "commonsense_qa", "commonsenseqa", ("dev_rand_split.jsonl",), _commonsense, pool=("train_rand_split.jsonl",)
    ),
    BenchmarkTask("bigbench_strategyqa_multiple_choice", "strategyqa", ("task.json",), _strategy),
    BenchmarkTask(
        "truthfulqa_mc1",
        "truthfulqa",
        ("mc_task.json", "truthful_qa_mc.json", "TruthfulQA_2025.csv", "TruthfulQA.csv"),
        _truthful,
        most_shots=0,
    ),
    BenchmarkTask("agieval_aqua_rat", "aqua", ("test.json",), _aqua),
    BenchmarkTask(
        "gsm8k",
        "gsm8k",
        ("test.jsonl",),
        _gsm8k,
        pool=("train.jsonl",),
        shots=5,
        order="drawn",
        replies="gsm8k_strict",
        stop=("Question:", "</s>", "<|im_end|>"),
    ),
    BenchmarkTask(
        "humaneval",
        "humaneval",
        ("HumanEval.jsonl.gz", "HumanEval.jsonl"),
        _humaneval,
        most_shots=0,
        replies="humaneval",
        stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
        new_tokens=1024,
    ),
)
