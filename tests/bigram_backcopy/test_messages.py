"""What bad input to the toy models is answered with, word for word, and beside it the input that was meant.

`{here}` stands for the test's folder and `…` for numbers that hang on the machine.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from workbench.bigram_backcopy import Counts, Task, Trained, architecture, train
from workbench.errors import InputError

BRIEF: dict[str, Any] = {"steps": 2, "batch": 2, "length": 12, "evaluate": 2, "progress": False, "measured_at": (0,)}
VERSE = "to be or not to be that is the question "


class Case(NamedTuple):
    name: str
    bad: Callable[[Path], Any]
    text: str
    good: Callable[[Path], Any]


def trained(**changes: Any) -> Trained:
    return train(Task(), architecture("1xTF", d_model=16, n_ctx=12), **(BRIEF | changes))


def resumed(folder: Path, **changes: Any) -> Trained:
    trained(resume=folder / "run")
    return trained(resume=folder / "run", **changes)


CASES = [
    Case(
        "a trigger that is not in the vocabulary",
        lambda here: Task(Counts.from_text(VERSE * 20, "verse"), triggers=["e", "z"]),
        "The trigger 'z' is not in the vocabulary ' abehinoqrstu'. Triggers are single characters, such as "
        "triggers=['e', 't'].",
        lambda here: Task(Counts.from_text(VERSE * 20, "verse"), triggers=["e", "o"]),
    ),
    Case(
        "all tokens are triggers",
        lambda here: Task(Counts.from_text(VERSE * 20, "verse"), triggers=13),
        "All 13 characters are triggers, so nothing is left to copy. Name fewer, such as triggers=3.",
        lambda here: Task(Counts.from_text(VERSE * 20, "verse"), triggers=12),
    ),
    Case(
        "a sequence of length 1",
        lambda here: trained(length=1),
        "A sequence of length 1 holds nothing to predict: with 1 BOS token(s) it needs at least 3.",
        lambda here: trained(length=3),
    ),
    Case(
        "a text too small to estimate bigrams",
        lambda here: Counts.from_text(VERSE),
        "The text has 40 characters, 13 of them distinct: too small to estimate which character follows which. Give at "
        "least 4 distinct characters and 338 in all (twice as many as there are pairs), or use source='synthetic'.",
        lambda here: Counts.from_text(VERSE * 9),
    ),
    Case(
        "a loss that diverges",
        lambda here: trained(optimizer="sgd", lr=1e6, steps=20),
        "Training diverged at step …, seed 0 (loss …; guessing has 4.19): sgd with lr=1e+06 is too fast here. Take a "
        "smaller lr; what was measured until then is in this error's `record`.",
        lambda here: trained(optimizer="sgd", lr=0.03, steps=20),
    ),
    Case(
        "a checkpoint of another configuration",
        lambda here: resumed(here, lr=0.1, batch=3),
        "{here}/run belongs to a training run with another configuration (batch: 2 there, 3 now; lr: 0.003 there, 0.1 "
        "now). Resume with the same configuration, choose another file, or delete it.",
        lambda here: resumed(here, steps=3),
    ),
    Case(
        "weights drawn in an unknown order",
        lambda here: architecture("1xTF", start="author"),
        "start='author' is unknown; did you mean 'authors'? Known: here, authors.",
        lambda here: architecture("1xTF", start="authors"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_answered(case, tmp_path):
    with pytest.raises(InputError) as raised:
        case.bad(tmp_path)
    wanted = re.escape(case.text.replace("{here}", str(tmp_path))).replace("…", r"[^\n]*")
    assert re.fullmatch(wanted, str(raised.value)), str(raised.value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_was_meant_is_taken(case, tmp_path):
    case.good(tmp_path)
