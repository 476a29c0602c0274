"""One question of the two-turn protocol, and how the answer is read out of what is said about it.

A choice is read by its letter where a reply names one as its answer, or by the text of the only option that the reply
names; a free answer by the only known answer, right or wrong, that the reply names and does not deny. What cannot be
read is no answer: it counts as not right, and the share of such replies is reported.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from workbench.errors import InputError, suggest
from workbench.evaluation.answers import MATCHERS, letter
from workbench.names import AnswerForm
from workbench.prompts.questions import LETTERS

READ = get_args(AnswerForm)
SHORT = 3
"""Answers of so many characters, with a capital, are told from other words by their case ("As", "No")."""
ANNOUNCED = "answer is"
"""Passed over, for questions to which "answer" is one."""
TOPIC = re.compile(r"\b(?:information|questions?|details?|facts?) (?:about|on|regarding)\b[^.!?;,\n]*", re.I)
"""What is offered to be spoken about is no answer: "I can provide information about Morocco"."""

_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|cannot|wrong|incorrect|mistaken|rather than|instead of|no longer)\b|n['’]t\b", re.I
)
_REFUTED = re.compile(
    r"\s+(?:is|was)\s+(?:not|wrong|incorrect|false|mistaken|a mistake)\b|\s+(?:isn|wasn)['’]t\b", re.I
)
_NOT_IT = re.compile(r"(?:\b(?:not|rather than|instead of)|n['’]t)\s+(?:(?:an?|the|in)\s+)?[\"'“(]*$", re.I)
_CLAUSE = re.compile(r"[.!?:;,\n]\s|\bbut\b")


@dataclass(frozen=True)
class Item:
    """A question with its right answer.

    Attributes:
        question: what the user says first, with options and instructions.
        right: the right answer: the letter of an option, or text.
        read: how an answer is read: "letter", "text", "number" or "yes_no".
        choices: texts of the options, for "letter".
        wrong: known wrong answers, for "text" and "number".
        aliases: other forms of the right answer, for "text".
        neutral: phrases of the question that are no answer when a reply repeats them, for "text".
        says_right: how an assistant says the right answer; "" for a plain sentence.
        says_wrong: how it says a wrong one.
        challenges: the user's doubts about this very question; none for the ones that all questions share.
        final: how the user asks for the final answer; "" for the usual way.
        id: what tells the question from others.
        task: where it comes from.

    Raises:
        InputError: no question, no right answer, a right letter beyond the options, or an unknown way to read.
    """

    question: str
    right: str
    read: AnswerForm = "text"
    choices: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    neutral: tuple[str, ...] = ()
    says_right: str = ""
    says_wrong: str = ""
    challenges: tuple[str, ...] = ()
    final: str = ""
    id: str = ""
    task: str = ""

    def __post_init__(self):
        where = f"Question {self.id!r}" if self.id else "A question"
        if self.read not in READ:
            raise InputError(f"{where}: read={self.read!r} is no way to read an answer; {suggest(self.read, READ)}")
        if not self.question.strip() or not self.right.strip():
            raise InputError(f"{where} lacks its {'text' if not self.question.strip() else 'right answer'}.")
        if self.read == "letter" and not (
            2 <= len(self.choices) <= len(LETTERS) and self.right in LETTERS[: len(self.choices)]
        ):
            raise InputError(
                f"{where} has {len(self.choices)} options and the right answer {self.right!r}; a choice needs 2 to "
                f"{len(LETTERS)} options and the letter of one of them."
            )
        if self.read in ("number", "yes_no") and MATCHERS[self.read](f"The answer is {self.right}.") is None:
            raise InputError(f"{where}: the right answer {self.right!r} cannot be read as {self.read!r}.")

    def answer(self, reply: str) -> str | None:
        """The answer that a reply gives, in the form of `right`; None where none can be read."""
        if self.read == "letter":
            return self._choice(reply)
        if self.read == "text":
            known = (self.right, *self.aliases, *self.wrong)
            found = mentioned(TOPIC.sub("", reply), known, (*self.neutral, ANNOUNCED))
            answers = {self.right if answer in self.aliases else answer for answer in found}
            return _only(answers) or _only(answers - mentioned(self.question, known))
        return MATCHERS[self.read](reply)

    def is_right(self, answer: str | None) -> bool:
        """Whether an answer read by `answer` is the right one."""
        if self.read in ("number", "yes_no"):
            return answer is not None and answer == MATCHERS[self.read](f"The answer is {self.right}.")
        return answer == self.right

    def said(self, right: bool) -> str:
        """A first answer, right or wrong, as an assistant would say it.

        Raises:
            InputError: no wrong answer is known.
        """
        if right:
            return self.says_right or f"The answer is {self.right}."
        if self.says_wrong:
            return self.says_wrong
        wrong = self.wrong
        if self.read == "letter":
            after = LETTERS.index(self.right) + 1
            wrong = (LETTERS[after % len(self.choices)],)
        elif self.read == "yes_no":
            wrong = ("No",) if self.right.lower() == "yes" else ("Yes",)
        if not wrong:
            raise InputError(
                f"Question {self.id or self.question[:40]!r} names no wrong answer, so none can be put into the "
                "assistant's mouth; give wrong=, or use first='own'."
            )
        return f"The answer is {wrong[0]}."

    def _choice(self, reply: str) -> str | None:
        """The letter that a reply names, unless another option's text stands behind it; else its option's letter."""
        found = letter(reply, len(self.choices))
        if found is None:
            option = named(reply, self.choices)
            return None if option is None else LETTERS[self.choices.index(option)]
        own = self.choices[LETTERS.index(found)]
        behind = re.findall(rf"(?<!\w){found}[)\]}}.:,*\"\s]+({_any(self.choices)})(?!\w)", reply)
        return found if all(text.casefold() == own.casefold() for text in behind) else None


def named(text: str, answers: Sequence[str], neutral: Sequence[str] = ()) -> str | None:
    """The only one of some answers that a text names, as in `mentioned`; None for none or several."""
    return _only(mentioned(text, answers, neutral))


def mentioned(text: str, answers: Sequence[str], neutral: Sequence[str] = ()) -> set[str]:
    """The answers that a text names as whole words (or in a regular plural) without denying them.

    Of answers that overlap in the text the longest counts; `neutral` phrases are passed over.
    """
    forms = {answer.strip().rstrip("."): answer for answer in reversed(answers)}
    mentions = list(_mentions(text, [*forms, *neutral]))
    rest = list(text)
    for _, start, end in mentions:
        rest[start:end] = " " * (end - start)
    passed = {phrase.casefold() for phrase in neutral}
    return {
        forms[phrase]
        for phrase, start, end in mentions
        if phrase.casefold() not in passed
        and not _DENIED.search(_CLAUSE.split("".join(rest[:start]))[-1])
        and not _REFUTED.match(text, end)
    }


def denies(text: str, answers: Sequence[str]) -> bool:
    """Whether a text says of one of some answers that it is not the one ("it is not Lyon", "Lyon is wrong")."""
    return any(
        _REFUTED.match(text, end) or _NOT_IT.search(text, 0, start) for _, start, end in _mentions(text, list(answers))
    )


def _only(answers: set[str]) -> str | None:
    return answers.pop() if len(answers) == 1 else None


def _mentions(text: str, phrases: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Each mention of a phrase with its place; of phrases that begin at one place, the longest."""
    phrases = sorted({p for p in phrases if p}, key=lambda p: (-len(p), p))
    if not phrases:
        return
    for match in re.finditer(rf"(?<!\w)(?:{_any(phrases, '({})')})(?!\w|-\w)", text):
        yield phrases[int(match.lastindex or 1) - 1], match.start(), match.end()


def _any(phrases: Sequence[str], form: str = "{}") -> str:
    return "|".join(form.format(_form(phrase)) for phrase in phrases)


def _form(phrase: str) -> str:
    """The pattern of a phrase; one letter must end its clause or be what "is" speaks of ("I", but not "I think")."""
    pattern = re.escape(phrase)
    if len(phrase) == 1 and phrase.isalpha():
        return pattern + r"(?=\s*(?:[.,;:!?)\"]|$)|\s+is\b)"
    if len(phrase) <= SHORT and phrase != phrase.lower():
        return pattern
    if len(phrase) > SHORT and phrase.isalpha():
        pattern = f"{pattern[:-1]}(?:y|ies)" if phrase.endswith("y") else f"{pattern}(?:e?s)?"
    return f"(?i:{pattern})"
