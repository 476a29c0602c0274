"""Programs: completed, run only on request, and counted."""

import math

import numpy as np
import pytest
import xarray as xr

from tests.evaluation.files import write_benchmarks
from tests.evaluation.test_sandbox import confined
from tests.tiny import bridge, tiny
from tests.words import CHAT, word_tokenizer
from workbench.errors import InputError
from workbench.evaluation import code
from workbench.evaluation.code import pass_at_k, program, score_programs
from workbench.evaluation.tasks import load_task
from workbench.models.load import load


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return load_task("humaneval", write_benchmarks(tmp_path_factory.mktemp("benchmarks"), 4))


def test_nothing_runs_without_the_flag(questions):
    with pytest.raises(InputError, match="pass run_code=True to allow it"):
        score_programs(bridge("llama"), questions, progress=False)


@confined
def test_right_programs_pass_and_others_say_why(questions, monkeypatch):
    replies = [
        "    return x + 0\n",
        "    return x + 1\n```\nThis adds one.",
        "    return x\n",
        "    while True:\n        pass\n",
    ]
    said = xr.Dataset({"reply": ("example", np.array(replies, dtype=object))})
    monkeypatch.setattr(code, "generate", lambda *_args, **_given: said)
    found = score_programs(bridge("llama"), questions, run_code=True, seconds=0.2, progress=False)
    assert list(found["correct"].values) == [True, True, False, False]
    assert found["reason"].values[2].startswith("AssertionError") and found["reason"].values[3].startswith("time")
    assert found.attrs["accuracy"] == 0.5 and found.attrs["metric"] == "pass@1"


@confined
def test_a_model_that_writes_nonsense_passes_nothing(questions):
    model = load(tiny("llama"), tokenizer=word_tokenizer(template=CHAT, extra=72))
    found = score_programs(model, questions[:2], run_code=True, max_new_tokens=4, progress=False)
    assert found.attrs["accuracy"] == 0.0 and all(found["reason"].values)


def test_a_chat_is_asked_as_in_the_harness(questions):
    model = load(tiny("llama"), tokenizer=word_tokenizer(template=CHAT))
    code_ = str(questions[1].prompt)
    assert code._in_chat(model, questions[1], None).prompt == (
        "user : Write a solution to the following problem and make sure that it passes the tests:\n"
        f"```python\n{code_}\n```\n assistant :Here is the completed function:\n```python\n{code_}\n"
    )
    assert (
        program(questions[1], "    return x + 1\n```\nDone") == f"{code_}    return x + 1\n\n\n{questions[1].target}\n"
    )


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (4, 0, 2), (4, 4, 1), (6, 5, 2)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n, c, k):
    from itertools import combinations

    draws = list(combinations([True] * c + [False] * (n - c), k))
    assert math.isclose(pass_at_k(n, c, k), sum(any(d) for d in draws) / len(draws))


def test_pass_at_k_refuses_what_cannot_be_drawn():
    with pytest.raises(InputError, match="pass@4 of 2 right programs among 3"):
        pass_at_k(3, 2, 4)
