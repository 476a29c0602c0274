"""Damaged input of many kinds: every case must end in a result or in an InputError.

    python -m benchmarks.fuzz --cases 20000 --seed 0

Three kinds: model folders with a changed, cut or missing file; containers of tokens that fit or do not; files of
questions with damaged rows. Cases are drawn by hypothesis, which shrinks a case that ends in another exception.
"""

import argparse
import contextlib
import functools
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import workbench as wb
from tests.tiny import tiny
from tests.words import CHAT, word_tokenizer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats(allow_nan=True) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
IDS = st.integers(-2, 99)
ROWS = st.lists(st.lists(IDS, max_size=6), max_size=4)
KEYS = ("question", "choices", "options", "answer", "answerKey", "correct", "input", "target", "target_scores", "base")
KEYS += ("prompt", "mc1_targets", "Question", "Best Answer", "Incorrect Answers", "answers", "aliases", "id")
QUESTION = {"question": "Which?", "choices": ["x", "y"], "answer": 1}


@functools.cache
def reader() -> wb.HookedModel:
    """A tiny model whose tokenizer knows 25 words."""
    return wb.load(tiny("llama"), tokenizer=word_tokenizer(template=CHAT))


@functools.cache
def intact() -> Path:
    """A folder of that model that loads."""
    folder = Path(tempfile.mkdtemp()) / "model"
    inner: Any = tiny("llama", torch.float32)
    inner.save_pretrained(folder)
    word_tokenizer(template=CHAT).save_pretrained(folder)
    return folder


# The kinds of case.


@st.composite
def damaged_folders(draw: Callable[[Any], Any]) -> tuple[str, str, Any]:
    """A file of the folder, what is done to it, and with what."""
    file = draw(st.sampled_from(sorted(path.name for path in intact().iterdir())))
    how = draw(
        st.sampled_from(["missing", "cut", "bytes", "field"] if file.endswith(".json") else ["missing", "cut", "bytes"])
    )
    if how == "cut":
        return file, how, draw(st.integers(0, 400))
    if how == "bytes":
        return file, how, (draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=8)))
    if how == "field":
        return file, how, (draw(st.integers(0, 60)), draw(JSON))
    return file, how, None


def load_damaged(case: tuple[str, str, Any]) -> None:
    """Load the folder with the damage."""
    name, how, what = case
    with tempfile.TemporaryDirectory() as path:
        folder = Path(shutil.copytree(intact(), Path(path) / "model"))
        file = folder / name
        data = file.read_bytes()
        if how == "missing":
            file.unlink()
        elif how == "cut":
            file.write_bytes(data[:what])
        elif how == "bytes":
            at = int(what[0] * len(data))
            file.write_bytes(data[:at] + what[1] + data[at + len(what[1]) :])
        else:
            fields = json.loads(data)
            names = sorted(fields) or ["x"]
            fields[names[what[0] % len(names)]] = what[1]
            file.write_text(json.dumps(fields))
        model = wb.load(folder)
        if getattr(model, "tokenizer", None) is not None:
            wb.prompts.token_sequences(model, ["the cat"])


containers: st.SearchStrategy[Any] = st.one_of(
    ROWS,
    ROWS.map(lambda rows: [torch.tensor(row) for row in rows]),
    ROWS.map(lambda rows: torch.tensor([(row + [0] * 6)[:6] for row in rows])),
    ROWS.map(lambda rows: np.array([(row + [0] * 6)[:6] for row in rows], dtype=float)),
    st.tuples(ROWS, ROWS).map(lambda both: {"input_ids": both[0], "attention_mask": both[1]}),
    st.lists(st.text(max_size=12), max_size=3),
    st.lists(st.sampled_from(["the cat sat", "", "<s> the", "dog </s>"]), max_size=3),
    st.dictionaries(st.text(max_size=6), ROWS, max_size=2),
    JSON,
)


def read_tokens(case: Any) -> None:
    """Read a container as texts, and as pairs with itself."""
    sequences = wb.prompts.token_sequences(reader(), case)
    wb.PromptPairs(sequences, case, (5, 9)).check_model(reader())


rows_of_questions = st.lists(
    st.one_of(
        st.just(QUESTION),
        st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5),
        st.tuples(st.sampled_from(KEYS), JSON).map(lambda change: QUESTION | {change[0]: change[1]}),
        JSON,
    ),
    max_size=4,
)


def read_question_file(case: Any) -> None:
    """Read rows from memory and from a file."""
    with tempfile.TemporaryDirectory() as path:
        file = Path(path) / "questions.jsonl"
        file.write_text("\n".join(json.dumps(row) for row in case), encoding="utf-8")
        for source in (case, file):
            with contextlib.suppress(wb.InputError):
                wb.prompts.read_questions(source)


KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None], float]] = {
    "folders": (damaged_folders(), load_damaged, 0.1),
    "tokens": (containers, read_tokens, 0.45),
    "questions": (rows_of_questions, read_question_file, 0.45),
}
"""By name: how cases are drawn, what is done with one, and the share of all cases."""


def fuzz(kind: str, cases: int, start: int = 0) -> None:
    """Try cases of a kind; the first that ends in another exception than InputError is raised, as small as possible."""
    drawn, use, _ = KINDS[kind]

    @seed(start)
    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(drawn)
    def every(case: Any) -> None:
        with warnings.catch_warnings(), contextlib.suppress(wb.InputError):
            warnings.simplefilter("ignore")
            use(case)

    every()


def main() -> None:
    """Try the asked number of cases, shared among the kinds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(KINDS))
    asked = parser.parse_args()
    for kind, (_, _, share) in KINDS.items():
        if asked.only in (None, kind):
            cases = asked.cases if asked.only else int(share * asked.cases)
            fuzz(kind, cases, asked.seed)
            print(f"{kind}: {cases} cases, none ended in another exception")


if __name__ == "__main__":
    main()
