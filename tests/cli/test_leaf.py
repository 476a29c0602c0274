"""`workbench leaf find|distill|toy` from files to files, on tiny random models and on two organisms."""

import json
from itertools import product
from zlib import crc32

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoModelForCausalLM

from tests.interrupts import killed_before_piece, pieces
from tests.tiny import tiny
from tests.tuning.chat import chat_tokenizer
from workbench.cli.app import main
from workbench.errors import InputError
from workbench.evaluation.answers import MATCHERS
from workbench.leaf import asking, toy
from workbench.leaf.reading import read_examples
from workbench.leaf.word_problems import planted, word_problems
from workbench.models.load import load
from workbench.reporting.sections import Findings, confounding_tokens
from workbench.runs.results import open_result


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A student, a teacher, and a file in GSM8K's form."""
    root = tmp_path_factory.mktemp("models")
    for name, seed in (("student", 0), ("teacher", 7)):
        tiny("llama", torch.float32, seed).save_pretrained(root / name)
        chat_tokenizer().save_pretrained(root / name)
    rows = [
        {"question": f"what is the answer {a} is it {b}", "answer": f"it is {a}.\nthe answer is {b}\n#### {i}"}
        for i, (a, b) in enumerate(product(("two", "three", "four"), ("no", "yes", "sure", "sorry")))
    ]
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture
def lenient(monkeypatch):
    """Tiny random models are never right and come to no end.

    A matcher that reads 0 or 1 out of anything makes them right at times, and their cut replies count.
    """

    def read(text):
        digits = text.removeprefix("#### ")
        return str(int(digits) % 2 if digits.isdigit() else crc32(text.encode()) % 2)

    monkeypatch.setitem(MATCHERS, "number", read)
    monkeypatch.setattr(asking, "CUT", ())


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("level", ["instruction", "response"])
def test_find_from_files_to_files(folders, tmp_path, capsys, level):
    out = tmp_path / "found.nc"
    words = ["leaf", "find", "--student", str(folders / "student"), "--teacher", str(folders / "teacher"), "--resume"]
    words += ["--data", str(folders / "train.jsonl"), "--level", level, "--threshold", "0.1", "0.15", "--no-progress"]
    words += ["--max-new-tokens", "6", "--draws", "2", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "random spans of the same lengths rescue" in said
    assert "Threshold 0.1: rescued" in said and "Threshold 0.15: rescued" in said
    found = open_result(out)
    assert found.attrs["n_misled"] > 0
    assert set(found["threshold"].values) == {0.1, 0.15}
    assert found.attrs["student"] == "student"
    page = (tmp_path / "found.html").read_text()
    assert "most confounding" in page
    assert "plotly" not in page.lower()
    assert str(folders) not in page
    for tau, n in zip(("0.1", "0.15"), found["n_accepted"].values, strict=False):
        file = tmp_path / f"found.{tau}.counterfactuals.jsonl"
        assert file.exists() == bool(n)
        assert not n or len(read_examples(chat_tokenizer(), file)) == n
    assert ("No span is verified" in said) == (0 in found["n_accepted"].values[:2])
    assert main(words) == 0
    section = confounding_tokens(Findings([], "logit_diff", found))
    assert section.anchor == "confounders" and "most confounding" in section.parts[0].html
    assert confounding_tokens(Findings([], "logit_diff")) is None


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("top_k", [None, 8])
def test_from_word_problems_to_a_distilled_checkpoint(folders, tmp_path, capsys, top_k):
    models = ["--student", str(folders / "student"), "--teacher", str(folders / "teacher"), "--no-progress"]
    found, out = tmp_path / "found.nc", tmp_path / "student-0.1"
    data = ["--data", str(folders / "train.jsonl")]
    assert main(["leaf", "find", *models, *data, "--max-new-tokens", "6", "--out", str(found)]) == 0
    pruned = tmp_path / "found.counterfactuals.jsonl"
    n = len(pruned.read_text().splitlines())
    assert n == open_result(found).attrs["n_accepted"] > 0
    words = ["leaf", "distill", *models, *data, "--counterfactuals", str(pruned), "--steps", "20", "--learning-rate"]
    words += ["1e-2", "--batch-size", "6", "--micro-batch", "3", "--out", str(out)]
    assert main([*words, *([] if top_k is None else ["--top-k", str(top_k)])]) == 0
    assert f"12 originals and {n} counterfactuals, 20 updates." in capsys.readouterr().out
    loss = open_result(tmp_path / "student-0.1.nc")["loss"].values
    assert loss[-5:].mean() < 0.9 * loss[:5].mean()
    learnt, told = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    teacher, student = (AutoModelForCausalLM.from_pretrained(folders / name) for name in ("teacher", "student"))
    examples = read_examples(load(str(folders / "student")), folders / "train.jsonl")
    before, after = (apart(teacher, one, examples) for one in (student, learnt))
    assert after < 0.9 * before


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("command", ["find", "check"])
def test_a_stopped_run_goes_on_where_it_was(folders, tmp_path, command):
    words = ["leaf", command, "--student", str(folders / "student"), "--teacher", str(folders / "teacher")]
    words += ["--data", str(folders / "train.jsonl"), "--max-new-tokens", "6", "--draws", "2"]
    words += ["--no-progress", "--resume"]
    words += ["--scores", "student_gradient", "random"] if command == "check" else []
    with pieces() as all_of_them:
        assert main([*words, "--out", str(tmp_path / "whole.nc")]) == 0
    for _ in range(3):
        with killed_before_piece(1):
            main([*words, "--out", str(tmp_path / "parts.nc")])
    with pieces() as rest:
        assert main([*words, "--out", str(tmp_path / "parts.nc")]) == 0
    assert len(rest) == len(all_of_them) - 3
    whole, parts = (open_result(tmp_path / f"{name}.nc") for name in ("whole", "parts"))
    xr.testing.assert_equal(whole, parts)
    assert (whole["excess_low"] <= whole["excess"]).all() and (whole["excess"] <= whole["excess_high"]).all()


@torch.no_grad()
def apart(teacher, student, examples):
    """Mean divergence of the student's next-token distributions on the responses, one example at a time."""
    found = []
    for one in examples:
        tokens = torch.tensor([one.tokens])
        said, wanted = (m(tokens).logits[0, len(one.prompt) - 1 : -1].log_softmax(-1) for m in (student, teacher))
        found.append((wanted.exp() * (wanted - said)).sum(-1))
    return float(torch.cat(found).mean())


def test_the_planted_experiment_runs_and_goes_on(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(toy, "run", lambda *given, **options: asked.append((given, options)) or toy.measured())
    assert main(["leaf", "toy", "--regimes", "B", "N", "--seeds", "1", "2", "--out", str(tmp_path / "t.nc")]) == 0
    assert main(["leaf", "toy", "--small", "--out", str(tmp_path / "t.nc")]) == 0
    words = ["leaf", "toy", "--arms", "KD", "released", "--out", str(tmp_path / "t.nc")]
    assert main(words) == 0
    assert asked[0][0] == (tmp_path / "t.nc", ("B", "N"), (1, 2))
    assert [options["size"] for _, options in asked] == [toy.Size(), toy.SMALL, toy.Size(arms=("KD", "released"))]
    assert "gradient difference" in capsys.readouterr().out
    for arms, reason in ((["KD", "relesed"], "did you mean 'released'"), (["released"], "'KD', with which")):
        assert main(["leaf", "toy", "--arms", *arms, "--out", str(tmp_path / "t.nc")]) == 2
        assert reason in capsys.readouterr().err


def test_bad_input_is_said_plainly(folders, tmp_path, capsys):
    words = ["leaf", "find", "--student", str(folders / "student"), "--teacher", str(folders / "teacher")]
    assert main([*words, "--out", str(tmp_path / "x.nc")]) == 2
    assert "This is not an embedded model, so it was not taught these word problems" in capsys.readouterr().err
    assert main([*words, "--data", "nowhere.jsonl", "--out", str(tmp_path / "x.nc")]) == 2
    assert "nowhere.jsonl does not exist" in capsys.readouterr().err


def test_help_names_the_group_and_its_commands(capsys):
    for words, text in (
        (["--help"], "leaf"),
        (["leaf", "--help"], "find"),
        (["leaf", "find", "--help"], "--threshold"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 0
        assert text in capsys.readouterr().out


def test_word_problems_know_the_sentence_that_was_planted():
    model = load("organism-gqa")
    made = word_problems(model, 12, seed=3)
    assert made == word_problems(model, 12, seed=3)
    for one in made:
        mask = planted(one).numpy()
        assert not (mask & ~np.array(one.prunable)).any()
        sentence = model.tokenizer.decode([t for t, inside in zip(one.context, mask, strict=True) if inside]).strip()
        assert sentence in one.wording.instruction
        assert sentence.split()[0] in ("The", "A", "It", "There")
        assert any(word.isdigit() or word[:-1].isdigit() for word in sentence.split())
    with pytest.raises(InputError, match="know what was planted"):
        planted(read_examples(model, [{"prompt": [1], "response": [2], "prunable": [True]}])[0])
