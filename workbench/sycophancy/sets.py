"""Published sets of sycophancy questions, each row as what it is for.

`load_set` reads one file (or a set on the Hub, or rows of the `datasets` library) in the form that its rows show:
SycophancyEval's are_you_sure and answer (Sharma et al. 2023), its feedback, Anthropic's opinion items (Perez et al.
2022), dialogues of repeated pushback, and TruthfulQA as multiple choice.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.errors import InputError, check_known
from workbench.evaluation.questions import Question
from workbench.names import DialogueForm
from workbench.prompts.questions import (
    ASK_LETTER,
    LETTERS,
    FreeForm,
    MultipleChoice,
    options_in,
    question_of,
    said_by_human,
)
from workbench.prompts.rows import Malformed, Row, make, name_of, rows_from
from workbench.sycophancy.builders import choice_item
from workbench.sycophancy.items import Item


@dataclass(frozen=True)
class Opinion:
    """A question of opinion, bare ("" where the set has none) and behind a user who tells theirs.

    `matching` is the choice of the user's side, such as "(A)".
    """

    neutral: str
    biased: str
    matching: str
    other: str
    id: str = ""
    task: str = ""

    def asked(self, biased: bool = True) -> Question:
        """As a question for `score_choices` whose right choice is the user's side: accuracy is agreement."""
        prompt = self.biased if biased else self.neutral
        if not prompt:
            raise InputError(f"Opinion {self.id!r} has no neutral form; ask the biased one.")
        choices = sorted((self.matching, self.other))
        return Question(prompt, tuple(" " + c for c in choices), choices.index(self.matching), self.id, self.task)


@dataclass(frozen=True)
class Feedback:
    """What a user says who does or does not like a text or solution (`template`), and asks for a comment on it."""

    prompt: str
    text: str
    template: str
    task: str = ""


@dataclass(frozen=True)
class Pushback:
    """A user who insists after each reply (`pushes`), what a good reply keeps to, and sentences that give in."""

    opening: str
    pushes: tuple[str, ...]
    assessment: str
    signs: tuple[str, ...]
    id: str
    domain: str


Made = Item | Opinion | Feedback | Pushback


def load_set(
    source: Any,
    form: DialogueForm | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    skip_malformed: bool = False,
) -> list[Any]:
    """The items of a published set.

    Args:
        source: a .jsonl, .json or .csv file, a folder of .jsonl files of one form, a set on the Hugging Face Hub
            ("owner/name", with "@revision", "/file.jsonl" and ":split" behind it where needed), or rows: a split of
            the `datasets` library, or a list of dictionaries.
        form: "are_you_sure", "answer", "feedback", "opinion", "pushback", "truthfulqa" or "truthfulqa_ab"; by default
            the one whose fields the first row has.
        limit: the first so many only.
        seed: of the order of TruthfulQA's options.
        skip_malformed: leave rows out that cannot be used, instead of stopping at the first.

    Returns:
        `Item`s (are_you_sure, answer, TruthfulQA), `Opinion`s, `Feedback`s or `Pushback`s.

    Raises:
        InputError: no such file, an unknown form, a malformed row (by file and line), or no usable row.
    """
    rows = list(rows_from(source))
    if form is None:
        form = _form_of(rows)
    check_known("form", form, FORMS)
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} leaves nothing; give at least 1, or None for all.")
    maker, rng = FORMS[form].maker, random.Random(seed)
    found = make(rows, lambda row: maker(row, rng), skip=skip_malformed)
    if not found:
        raise InputError(f"{name_of(source)} holds no usable row of the form {form!r}; it is empty or of another kind.")
    numbered = [replace(x, id=x.id or str(i)) if hasattr(x, "id") else x for i, x in enumerate(found)]
    return numbered[:limit]


def _form_of(rows: Sequence[Row]) -> DialogueForm:
    for row in rows:
        found = next((name for name, form in FORMS.items() if form.shows(row.values)), None)
        if found:
            return found
    shown = ", ".join(rows[0].values) if rows else "nothing"
    raise InputError(f"The rows are of no known form; the first holds {shown}. Pass form=: {', '.join(FORMS)}.")


# The forms.


@dataclass(frozen=True)
class Form:
    """Whether a row has a form's fields, and its values as an item; TruthfulQA's options get a drawn order."""

    shows: Callable[[dict[str, Any]], bool]
    maker: Callable[[dict[str, Any], random.Random], Made]


def _are_you_sure(row: dict[str, Any], _: random.Random) -> Item:
    task = f"are_you_sure: {row['base'].get('dataset', '')}"
    asked = question_of(row)
    if isinstance(asked, FreeForm):
        return _free(row, task)
    return Item(said_by_human(row), asked.letter, "letter", asked.choices, task=task)


def _free(row: dict[str, Any], task: str) -> Item:
    asked = question_of({**row, "base": {**row["base"], "correct_letter": ""}})
    if not isinstance(asked, FreeForm):
        raise Malformed("it has choices, and no free answer.")
    right, *aliases = asked.answers
    return Item(said_by_human(row), right, "text", wrong=asked.wrong, aliases=tuple(aliases), task=task)


def _answer(row: dict[str, Any], _: random.Random) -> Item:
    return _free(row, f"answer: {row['base'].get('dataset', '')}")


def _feedback(row: dict[str, Any], _: random.Random) -> Feedback:
    base = row["base"]
    text = base.get("text") or base.get("correct_solution")
    if not text:
        raise Malformed("its base has neither text nor correct_solution.")
    return Feedback(
        said_by_human(row), text, row["metadata"]["prompt_template_type"], f"feedback: {base.get('dataset', '')}"
    )


def _opinion(row: dict[str, Any], _: random.Random) -> Opinion:
    if "biased_prompt" in row:
        sides = row["sycophantic_target"], row["honest_target"]
        texts = stripped(row["neutral_prompt"]), stripped(row["biased_prompt"])
        about = row.get("sample_id", ""), (row.get("metadata") or {}).get("category", "")
    else:
        sides = row["answer_matching_behavior"], row["answer_not_matching_behavior"]
        texts, about = ("", row["question"].strip()), ("", "")
    matching, other = (side.strip() for side in sides)
    if not texts[1] or not re.fullmatch(r"\([A-J]\)", matching) or not re.fullmatch(r"\([A-J]\)", other):
        raise Malformed(f'its sides are {matching!r} and {other!r} instead of letters such as "(A)".')
    if matching == other:
        raise Malformed(f"both of its sides are {matching!r}.")
    return Opinion(*texts, matching, other, *about)


def stripped(prompt: str) -> str:
    """What the user says in a text of one turn that is wrapped in Llama-3's chat template."""
    turns = re.findall(r"<\|start_header_id\|>user<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", prompt, re.DOTALL)
    if len(turns) > 1:
        raise Malformed(f"its prompt has {len(turns)} turns of the user instead of one.")
    text = turns[0] if turns else prompt
    if "<|" in text:
        raise Malformed(f"its prompt {text[:40]!r} is in a template other than Llama-3's.")
    return text.strip()


def _pushback(row: dict[str, Any], _: random.Random) -> Pushback:
    pushes = tuple(row[key] for key in sorted(row) if re.fullmatch(r"user_pushback_\d+", key))
    texts = (row["initial_user_message"], row["ground_truth_assessment"], *pushes)
    if not pushes or any(not isinstance(text, str) or not text.strip() for text in texts):
        raise Malformed("it needs a first message, an assessment and at least one pushback.")
    return Pushback(texts[0], pushes, texts[1], tuple(row["sycophancy_indicators"]), row["prompt_id"], row["domain"])


def _truthful(row: dict[str, Any], rng: random.Random) -> Item:
    asked = question_of({"question": row["question"], "mc1_targets": row["options"]})
    if not isinstance(asked, MultipleChoice):
        raise Malformed("it has no choices.")
    right, choices = asked.choices[asked.answer], rng.sample(asked.choices, len(asked.choices))
    if len(choices) > len(LETTERS):
        choices = [c for c in choices if c != right][: len(LETTERS) - 1]
        choices.insert(rng.randrange(len(LETTERS)), right)
    return choice_item(MultipleChoice(asked.question, tuple(choices), choices.index(right)), "truthfulqa")


def _truthful_ab(row: dict[str, Any], _: random.Random) -> Item:
    text = row["question"].strip()
    right = row["correct"].strip("() ")
    return Item(f"{text}\n{ASK_LETTER}", right, "letter", options_in(text), task="truthfulqa_ab")


FORMS: dict[DialogueForm, Form] = {
    "are_you_sure": Form(
        lambda row: "prompt" in row and "base" in row and bool({"correct_letter", "letters"} & set(row["base"])),
        _are_you_sure,
    ),
    "feedback": Form(lambda row: "base" in row and bool({"text", "correct_solution"} & set(row["base"])), _feedback),
    "answer": Form(lambda row: "prompt" in row and "base" in row, _answer),
    "opinion": Form(lambda row: "biased_prompt" in row or "answer_matching_behavior" in row, _opinion),
    "pushback": Form(lambda row: "initial_user_message" in row, _pushback),
    "truthfulqa": Form(lambda row: "options" in row, _truthful),
    "truthfulqa_ab": Form(lambda row: {"question", "correct", "incorrect"} <= set(row), _truthful_ab),
}
"""How rows of each form are told and read; the first that fits is taken."""
