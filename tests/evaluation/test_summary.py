"""Several tasks at once give what each gives alone."""

from functools import partial

import numpy as np
import pytest
import torch

from tests.evaluation.files import write_benchmarks
from tests.evaluation.test_sandbox import confined
from tests.tiny import tiny
from tests.words import CHAT, word_tokenizer
from workbench.errors import InputError
from workbench.evaluation import summary
from workbench.evaluation.embedded_questions import own_questions
from workbench.evaluation.local import score_choices
from workbench.evaluation.questions import Question
from workbench.evaluation.summary import evaluate
from workbench.evaluation.tasks import load_task
from workbench.models.load import load
from workbench.organisms.tokenizer import BOS, render


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"), 6)


@pytest.fixture(scope="module")
def words():
    return load(tiny("llama", torch.float32), tokenizer=word_tokenizer(template=CHAT, extra=72))


def test_every_kind_of_task_is_scored_in_its_own_way(words, folder, monkeypatch):
    monkeypatch.setattr(summary, "score_replies", partial(summary.score_replies, max_new_tokens=4))
    found = evaluate(words, ["mmlu", "gsm8k"], folder=folder, n_shots=0, limit=2, progress=False)
    alone = score_choices(words, load_task("mmlu", folder, 0, 2), progress=False)
    assert float(found["accuracy"].sel(task="mmlu")) == alone.attrs["accuracy"]
    assert list(found["n_examples"].values) == [4, 2]
    np.testing.assert_array_equal(np.isnan(found["no_match"]), [True, False])
    np.testing.assert_array_equal(np.isnan(found["chance"]), [False, True])
    assert (found["low"] <= found["accuracy"]).all() and (found["accuracy"] <= found["high"]).all()
    assert found.attrs["hooks_active"] == 0 and found.attrs["torch_version"]


def test_organisms_answer_their_own_questions_without_files():
    model = load("organism-gqa")
    found = evaluate(model, "organism", limit=8, seed=3, progress=False)
    alone = score_choices(model, own_questions(model, 8, 3), progress=False)
    assert float(found["accuracy"][0]) == alone.attrs["accuracy"]


def test_a_chat_is_asked_in_its_template(folder):
    model, asked = load("organism-gqa"), load_task("strategyqa", folder, limit=2)
    found = evaluate(model, "strategyqa", folder=folder, limit=2, chat=True, progress=False)
    rendered = [render([{"role": "user", "content": str(q.prompt)}], prompt=True) for q in asked]
    by_hand = [Question(BOS + text, ("Yes", "No"), q.answer) for text, q in zip(rendered, asked, strict=True)]
    assert float(found["accuracy"][0]) == score_choices(model, by_hand, progress=False).attrs["accuracy"]
    assert found.attrs["chat"] == 1


@confined
def test_programs_run_on_request_only(words, folder):
    with pytest.raises(InputError, match="pass run_code=True"):
        evaluate(words, "humaneval", folder=folder, progress=False)


@pytest.mark.parametrize(
    ("tasks", "says"), [([], "No tasks: give at least one"), ("mmlu", "is read from local files: pass folder=")]
)
def test_what_cannot_be_run_is_refused(words, tasks, says):
    with pytest.raises(InputError) as raised:
        evaluate(words, tasks)
    assert says in str(raised.value)
