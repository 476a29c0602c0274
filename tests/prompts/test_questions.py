"""Questions of every known form become one type, and what could be read in two ways is refused."""

import json
import random
import warnings

import datasets
import numpy as np
import pytest

from workbench.errors import InputError, WorkbenchWarning
from workbench.prompts import FreeForm, MultipleChoice, read_choices, read_questions
from workbench.prompts.questions import first

FRUIT = MultipleChoice("Which is a fruit?", ("car", "pear", "oak"), 1)
ROW = {"question": "Which is a fruit?", "choices": ["car", "pear", "oak"]}
TEXTS, LABELS = ["car", "pear", "oak"], ["A", "B", "C"]
SCORES = {"car": 0, "pear": 1, "oak": 0}


def human(text):
    return [{"type": "human", "content": text}]


@pytest.mark.parametrize(
    "row",
    [
        ROW | {"answer": 1},
        ROW | {"answer": np.int64(1)},
        ROW | {"answer": "B"},
        ROW | {"answer": " (B) "},
        ROW | {"answer": "B."},
        ROW | {"answer": "pear"},
        {"question": ROW["question"], "options": TEXTS, "answer": "B", "answer_index": 1},
        {"question": ROW["question"], "choices": {"text": TEXTS, "label": LABELS}, "answerKey": "B"},
        {"question": ROW["question"], "choices": {"text": TEXTS, "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"question": ROW["question"], "choices": {"text": TEXTS, "label": ["1", "2", "3"]}, "answerKey": 2},
        {"question_stem": ROW["question"], "choices": {"text": TEXTS, "label": LABELS}, "answerKey": "B"},
        {
            "question": {
                "stem": ROW["question"],
                "choices": [{"label": x, "text": t} for x, t in zip(LABELS, TEXTS, strict=True)],
            },
            "answerKey": "B",
        },
        {"question": ROW["question"], "options": dict(zip(LABELS, TEXTS, strict=True)), "answer": "B"},
        {"question": ROW["question"], "options": ["A)car", "B)pear", "C)oak"], "correct": "B"},
        {"input": ROW["question"], "target_scores": SCORES},
        {
            "prompt": human("Which is a fruit?\n(A) car\n(B) pear\n(C) oak\nPlease answer."),
            "base": {"question": ROW["question"], "letters": "\n(A) car\n(B) pear\n(C) oak", "correct_letter": "B"},
        },
        {
            "prompt": human("Which is a fruit?\n(A) car\n(B) pear\n(C) oak"),
            "base": {"correct_letter": "(B)"},
        },
    ],
)
def test_every_form_of_choices_is_the_same_question(row):
    assert read_questions([row]) == read_choices([row]) == [FRUIT]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which is a fruit?", "mc1_targets": {"pear": 1, "car": 0, "oak": 0}},
        {"question": "Which is a fruit?", "mc1_targets": {"choices": ["pear", "car", "oak"], "labels": [1, 0, 0]}},
        {"question": "Which is a fruit?", "options": {"pear": 1, "car": 0, "oak": 0}},
    ],
)
def test_the_right_choice_of_truthfulqa_does_not_stay_first(row):
    (found,) = read_choices([row])
    assert found.choices[found.answer] == "pear" and sorted(found.choices) == sorted(TEXTS)
    many = read_choices([row | {"question": f"{i}?"} for i in range(60)])
    assert {asked.answer for asked in many} == {0, 1, 2} and many == read_choices(
        [row | {"question": f"{i}?"} for i in range(60)]
    )


@pytest.mark.parametrize(
    ("row", "free"),
    [
        ({"question": "3 x 6?", "answer": "3 * 6 = <<3*6=18>>18\n#### 18"}, FreeForm("3 x 6?", ("18",))),
        ({"question": "Who?", "answers": ["Jane Austen", "Austen"]}, FreeForm("Who?", ("Jane Austen", "Austen"))),
        (
            {"question": "Who?", "answer": "Jane Austen", "aliases": ["Austen"]},
            FreeForm("Who?", ("Jane Austen", "Austen")),
        ),
        (
            {"question": "Who?", "answer": {"value": "Austen", "aliases": ["Jane"]}},
            FreeForm("Who?", ("Austen", "Jane")),
        ),
        ({"input": "Who?", "target": "Austen"}, FreeForm("Who?", ("Austen",))),
        (
            {"prompt": human("Who? Dickens?"), "base": {"correct_answer": "Austen", "incorrect_answer": "Dickens"}},
            FreeForm("Who? Dickens?", ("Austen",), ("Dickens",)),
        ),
    ],
)
def test_every_form_of_free_answers(row, free):
    (found,) = read_questions([row])
    assert isinstance(found, FreeForm)
    assert (found.question, found.answers, found.wrong) == (free.question, free.answers, free.wrong)
    assert found.solution == (row["answer"] if "#" in str(row) else "")
    with pytest.raises(InputError, match=r"Question 0 .* has no choices, which are needed here"):
        read_choices([row])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (ROW | {"answer": "1"}, "answer '1' is a string, which may count from 0 or from 1"),
        (ROW | {"answer": 1.0}, "answer is 1.0, of type float. Give the index of a choice, 0 to 2"),
        (ROW | {"answer": True}, "answer is True, of type bool"),
        (ROW | {"answer": None}, "answer is None, of type NoneType"),
        (ROW | {"answer": 3}, "right answer 3 is none of its 3 choices"),
        (ROW | {"answer": -1}, "right answer -1 is none of its 3 choices"),
        (ROW | {"answer": "D"}, "right answer 'D' is none of its 3 choices"),
        (ROW | {"answer": "plum"}, "right answer 'plum' is none of its 3 choices"),
        (ROW | {"choices": ["B", "A"], "answer": "B"}, r"right answer 'B' could be any of its choices \[0, 1\]"),
        (ROW | {"choices": ["2", "2", "1"], "answer": "2"}, r"could be any of its choices \[0, 1\]"),
        (ROW | {"choices": "car, pear", "answer": 1}, "its choices are 'car, pear'; give a list of texts"),
        (ROW | {"choices": ["car"], "answer": 0}, "give at least two, none of them empty"),
        (ROW | {"choices": ["car", " "], "answer": 0}, "give at least two, none of them empty"),
        (ROW | {"choices": ["car", ["pear"]], "answer": 0}, "give a list of texts"),
        (ROW, "lacks 'answer'; its keys are question, choices. Known forms: "),
        ({"question": "?"}, "no known form; its keys are question. Known forms: "),
        ({"a": 1}, "no known form; its keys are a"),
        (ROW | {"question": 3, "answer": 1}, "its question is 3, and not text"),
        (ROW | {"question": " ", "answer": 1}, "has no text"),
        ({"question": "?", "answer": 2}, "its answer is the number 2 and it has no choices"),
        ({"question": "?", "answer": " "}, "give at least one, none of them empty"),
        ({"question": "?", "mc1_targets": {"a": 1, "b": 1}}, "2 of its 2 options are right instead of one"),
        ({"question": "?", "choices": {"text": TEXTS, "label": LABELS}, "answerKey": "E"}, "right answer 'E' is none"),
    ],
)
def test_what_cannot_be_read_for_certain_is_refused_by_its_row(row, says):
    good = ROW | {"answer": 0}
    with pytest.raises(InputError, match=f"row 1 is malformed: .*{says}"):
        read_questions([good, row])
    assert len(read_questions([good, row, good], skip_malformed=True)) == 2


def test_digits_that_are_the_text_of_one_choice_are_that_choice():
    (found,) = read_choices([ROW | {"choices": ["10", "12", "14"], "answer": "12"}])
    assert found.answer == 1


def test_files_rows_and_data_sets_are_the_same_questions(tmp_path):
    rows = [ROW | {"answer": "B", "id": f"q{i}", "explanation": " Pears grow. "} for i in range(2)]
    wanted = [MultipleChoice(FRUIT.question, FRUIT.choices, 1, f"q{i}", "Pears grow.") for i in range(2)]
    whole, lines = tmp_path / "q.json", tmp_path / "q.jsonl"
    whole.write_text(json.dumps(rows))
    lines.write_text("\n".join(map(json.dumps, rows)))
    for source in (whole, str(lines), rows, iter(rows), datasets.Dataset.from_list(rows), wanted):
        assert read_questions(source) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "q.json is no JSON"),
        ("[]", "q.json holds no questions. Known forms"),
        ("[1]", "q.json, entry 0 is malformed: is no object"),
    ],
)
def test_a_file_without_questions_is_refused(tmp_path, text, says):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(InputError, match=says):
        read_questions(tmp_path / "q.json")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("data/absent.json", "There is no file 'absent.json'"),
        (ROW, "One question was given"),
        ([], "The source holds no questions"),
        (3, "not int"),
    ],
)
def test_what_holds_no_questions_is_refused(source, says):
    with pytest.raises(InputError, match=says):
        read_questions(source)


def test_choices_are_listed_by_letters():
    assert FRUIT.letter == "B"
    assert FRUIT.listed() == "Which is a fruit?\n(A) car\n(B) pear\n(C) oak"
    assert FRUIT.listed("{}. ") == "Which is a fruit?\nA. car\nB. pear\nC. oak"
    with pytest.raises(InputError, match="has 11 choices, and there are letters for 10"):
        MultipleChoice("?", tuple(map(str, range(11))), 0).listed()


def test_a_question_of_your_own_is_checked_too():
    with pytest.raises(InputError, match=r"Question 'q7': the right answer 5 is none of its 2 choices"):
        MultipleChoice("?", ("a", "b"), 5, "q7")


@pytest.mark.parametrize("n", [2, 10, 14])
def test_shuffled_choices_keep_the_right_one(n):
    asked = MultipleChoice("?", tuple(f"c{i}" for i in range(n)), n - 1)
    for seed in range(20):
        drawn = asked.shuffled(random.Random(seed))
        assert drawn.choices[drawn.answer] == f"c{n - 1}" and len(set(drawn.choices)) == min(n, 10)


def test_fewer_than_asked_for_is_said():
    with pytest.warns(WorkbenchWarning, match="5 questions were asked for, and there are 3"):
        assert first([1, 2, 3], 5) == [1, 2, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first([1, 2, 3], 2) == [1, 2]
