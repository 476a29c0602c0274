"""Read examples from GSM8K-style files, JSON lines, a Hub dataset, or a file written by `write_examples`.

A row is an instruction and a response, under one of the names that the common sets use; in GSM8K's form the answer is
what follows "####". Rows with choices, or with several accepted answers, are read as questions of any known form
(`workbench.prompts.questions`) and asked with a request for a letter or a brief answer. The marks of GSM8K's calculator
(<<16-3=13>>) are taken out unless they are asked for. A row that holds token ids (`prompt` and `response`) is an
example already, as `write_examples` writes it.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from workbench.errors import InputError
from workbench.leaf.examples import Example, as_record, from_record
from workbench.leaf.tokenized_examples import example
from workbench.models.state import measures
from workbench.names import ScoreAnswers
from workbench.prompts.questions import ASK_BRIEFLY, ASK_LETTER, FreeForm, MultipleChoice, asked, has_choices
from workbench.prompts.rows import Malformed, Row, make, read_rows, rows_from
from workbench.protocol import HookedModel, TextTokenizer
from workbench.runs.files import write_text

INSTRUCTIONS = ("instruction", "question", "problem", "prompt", "input")
RESPONSES = ("response", "output", "solution", "answer", "completion")
ANSWERS = ("final_answer", "prompt_answer", "target", "gold")
"""Column names, the first that a row has; the second of the answers is that of the released code's data."""
_MARKED = re.compile(r"####\s*(\S.*?)\s*$")
_CALCULATOR = re.compile(r"<<[^<>]*>>")


@measures
def read_examples(
    model: HookedModel | TextTokenizer,
    source: str | Path | Iterable[dict[str, Any]],
    *,
    n: int | None = None,
    split: str = "train",
    system: str | None = None,
    suffix: str = "",
    cut_last: int = 0,
    protect: Sequence[str] = ("options",),
    choices: ScoreAnswers = "letter",
    calculator: bool = False,
    template_kwargs: Mapping[str, Any] | None = None,
    skip_malformed: bool = False,
) -> list[Example]:
    """Examples in a model's tokens.

    Args:
        model: the student, from `workbench.load`, or its tokenizer.
        source: a .jsonl, .jsonl.gz, .json or .csv file; rows (dictionaries); or the id of a data set on the Hub, such
            as "openai/gsm8k:main" with a configuration after the colon.
        n: the first so many rows.
        split: of a data set on the Hub.
        system: a system message.
        suffix: a request after every instruction, such as "Reason step by step."; its tokens are not pruned.
        cut_last: so many of the last tokens of the user's message are not pruned.
        protect: what may not be pruned, see `workbench.leaf.example`; by default the options that a question lists,
            since without a wrong one it is another question.
        choices: how a question with choices is asked: for the "letter" of a listed one (match="letter"), or for the
            "text" of one, which the prompt does not list (match="text").
        calculator: keep the marks of GSM8K's calculator in responses.
        template_kwargs: further variables of the chat template, see `workbench.prompts.render`.
        skip_malformed: leave rows out that cannot be used.

    Raises:
        InputError: no such file or data set, no usable row, or a malformed one, by its place.
    """
    rows = _rows(source, split)
    taken = list(islice(rows, n))

    common: dict[str, Any] = dict(system=system, cut_last=cut_last, protect=protect, template_kwargs=template_kwargs)

    def maker(values: dict[str, Any]) -> Example:
        if "prunable" in values:
            return from_record(values)
        name = str(values.get("id", values.get("identifier", "")))
        if has_choices(values) or ({"answers", "target"} & values.keys() and not _text_under(values, RESPONSES)):
            return _asked(model, asked(values), choices, suffix, name, common)
        instruction, response, answer = _fields(values)
        response = response if calculator else _CALCULATOR.sub("", response)
        return example(model, instruction, response, answer, suffix=suffix, identifier=name, **common)

    made = make(taken, maker, skip=skip_malformed)
    if not made:
        raise InputError(f"{source if isinstance(source, str | Path) else 'The list of rows'} holds no usable row.")
    return [e if e.identifier else replace(e, identifier=str(i)) for i, e in enumerate(made)]


def write_examples(examples: Sequence[Example], path: str | Path) -> Path:
    """Write examples as JSON lines, whole or not at all; `read_examples` reads them as they were."""
    return write_text(path, "".join(json.dumps(as_record(e)) + "\n" for e in examples))


def _asked(
    model: HookedModel | TextTokenizer,
    question: MultipleChoice | FreeForm,
    choices: ScoreAnswers,
    suffix: str,
    name: str,
    common: dict[str, Any],
) -> Example:
    """The example of a question: asked for a letter, or for an answer in words."""
    if isinstance(question, FreeForm):
        text, request, accepted, options = question.question, question.request, question.answers, ()
    elif choices == "letter":
        text, request, accepted, options = question.listed(), ASK_LETTER, (question.letter,), question.choices
    else:
        right = question.choices[question.answer]
        text, request, accepted, options = question.question, ASK_BRIEFLY, (right,), question.choices
    response = (question.solution if isinstance(question, FreeForm) else "") or accepted[0]
    made = example(model, text, response, accepted[0], suffix=suffix or f"\n{request}", identifier=name, **common)
    return replace(made, accepted=tuple(accepted[1:]), options=tuple(options))


def _text_under(values: dict[str, Any], names: Sequence[str]) -> str | None:
    return next((values[name] for name in names if isinstance(values.get(name), str)), None)


def _fields(values: dict[str, Any]) -> tuple[str, str, str | None]:
    """Instruction, response and final answer of a row."""
    instruction, response = _text_under(values, INSTRUCTIONS), _text_under(values, RESPONSES)
    if instruction is None or response is None:
        what, names = ("instruction", INSTRUCTIONS) if instruction is None else ("response", RESPONSES)
        raise Malformed(f"it has no {what} under any of {', '.join(names)}; its columns are {', '.join(values)}.")
    given = next((str(values[name]) for name in ANSWERS if values.get(name) not in (None, "")), None)
    marked = _MARKED.search(response)
    return instruction, response, given or (marked.group(1) if marked else None)


def _rows(source: str | Path | Iterable[dict[str, Any]], split: str) -> Iterable[Row]:
    if not isinstance(source, str | Path):
        return rows_from(source)
    path = Path(source).expanduser()
    if path.is_file():
        return read_rows(path)
    if path.suffix in (".jsonl", ".json", ".csv", ".gz") or path.is_dir():
        what = "is a folder; name the file in it" if path.is_dir() else "does not exist"
        raise InputError(f"The file {path} {what}. Give a .jsonl, .json or .csv file of questions and answers.")
    return _hub(str(source), split)


def _hub(name: str, split: str) -> Iterable[Row]:
    from datasets import load_dataset

    repo, _, configuration = name.partition(":")
    try:
        loaded = load_dataset(repo, configuration or None, split=split)
    except Exception as cause:  # the library raises many kinds: no such set, no connection, no such split
        first = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise InputError(
            f"No data {name!r}: it is no file here, and the Hub gave: {first} Check the spelling, the connection "
            "(HF_HUB_OFFLINE is off?), and that the split exists."
        ) from cause
    return (Row(f"{repo}, {split}, row {i}", dict(values)) for i, values in enumerate(loaded))
