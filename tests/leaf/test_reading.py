"""Data in the forms it comes in, and splits of responses at their steps."""

import json

import pytest

from tests.leaf.test_vocabularies import letters_tokenizer
from tests.tuning.chat import chat_tokenizer
from workbench.errors import InputError
from workbench.leaf.reading import read_examples, write_examples
from workbench.leaf.segments import split_points, split_responses
from workbench.leaf.tokenized_examples import example, reword

GSM8K = [
    {"question": "what is two", "answer": "it is <<1+1=2>>two\n#### 2"},
    {"question": "is it wrong", "answer": "no it is four\n#### 1,200"},
]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_in_the_form_of_gsm8k(tmp_path):
    tokenizer = chat_tokenizer()
    made = read_examples(tokenizer, lines(tmp_path / "train.jsonl", GSM8K))
    assert [e.answer for e in made] == ["2", "1,200"]
    assert [e.identifier for e in made] == ["0", "1"]
    assert made[0].wording.instruction == "what is two"
    assert made[0].wording.response == "it is two\n#### 2"
    kept = read_examples(tokenizer, lines(tmp_path / "train.jsonl", GSM8K), n=1, calculator=True)
    assert [e.wording.response for e in kept] == ["it is <<1+1=2>>two\n#### 2"]


def test_rows_under_other_names_and_the_released_codes():
    tokenizer = chat_tokenizer()
    rows = [
        {"instruction": "what is two", "output": "it is two", "prompt_answer": "two", "id": 5},
        {"problem": "what is two", "solution": "two"},
    ]
    first, second = read_examples(tokenizer, rows, suffix=" sure", cut_last=1)
    assert (first.answer, second.answer) == ("two", None)
    assert (first.identifier, second.identifier) == ("5", "1")
    assert first.wording.suffix == " sure"
    assert len(first.positions) == 2


def test_what_was_written_is_read_as_it_was(tmp_path):
    tokenizer = chat_tokenizer()
    made = read_examples(tokenizer, GSM8K)
    made.append(made[0].without([made[0].positions[0]]))
    assert read_examples(tokenizer, write_examples(made, tmp_path / "new" / "examples.jsonl")) == made


def test_rows_that_cannot_be_used_are_refused_or_left_out(tmp_path):
    tokenizer = chat_tokenizer()
    rows = [*GSM8K, {"question": "what is two", "reply": "two"}]
    with pytest.raises(InputError, match=r"train\.jsonl, line 3 is malformed: it has no response under any of resp"):
        read_examples(tokenizer, lines(tmp_path / "train.jsonl", rows))
    assert len(read_examples(tokenizer, rows, skip_malformed=True)) == 2
    wrong = [{"question": "what", "answer": "it is two", "final_answer": "three"}]
    with pytest.raises(InputError, match="row 0 is malformed: An example: the answer 'three' is not found"):
        read_examples(tokenizer, wrong)
    with pytest.raises(InputError, match="The list of rows holds no usable row"):
        read_examples(tokenizer, [])
    with pytest.raises(InputError, match=r"no\.jsonl does not exist"):
        read_examples(tokenizer, tmp_path / "no.jsonl")
    with pytest.raises(InputError, match="is a folder; name the file in it"):
        read_examples(tokenizer, tmp_path)


def test_a_name_of_the_hub_goes_through_datasets(monkeypatch):
    import datasets

    asked = []

    def load(repo, configuration, split):
        asked.append((repo, configuration, split))
        if split == "dev":
            raise ValueError("Unknown split dev")
        return GSM8K

    monkeypatch.setattr(datasets, "load_dataset", load)
    made = read_examples(chat_tokenizer(), "openai/gsm8k:main", n=1, split="test")
    assert asked == [("openai/gsm8k", "main", "test")]
    assert made[0].answer == "2"
    with pytest.raises(InputError, match="No data 'openai/gsm8k': it is no file here, and the Hub gave: Unknown split"):
        read_examples(chat_tokenizer(), "openai/gsm8k", split="dev")


STEPS = "two is right. three is wrong\nno it is four\nsure"


def test_responses_are_split_at_the_steps_nearest_to_equal_shares():
    tokenizer = chat_tokenizer()
    made = example(tokenizer, "what is it", STEPS, identifier="q")
    assert [STEPS[:cut] for cut in split_points(tokenizer, made, 2)] == ["two is right. three is wrong"]
    assert [STEPS[:cut] for cut in split_points(tokenizer, made, 3)] == [
        "two is right.",
        "two is right. three is wrong",
    ]
    assert len(split_points(tokenizer, made, 9)) <= 3


def test_segments_become_examples_at_response_level():
    tokenizer = chat_tokenizer()
    made = example(tokenizer, "what is it", STEPS, "four", identifier="q")
    halves, thirds = split_responses(tokenizer, [made]), split_responses(tokenizer, [made], 3)
    assert [e.identifier for e in halves + thirds] == ["q/1", "q/1", "q/2"]
    for part in halves + thirds:
        assert part.tokens == made.tokens
        assert part.answer == "four"
        assert not any(part.prunable[: len(part.prompt)])
        assert len(part.positions) == part.prefix
    assert tokenizer.decode(halves[0].target) == "no it is four sure </s>"


def test_responses_of_one_step_are_refused():
    tokenizer = chat_tokenizer()
    one = example(tokenizer, "what is it", "two")
    two = example(tokenizer, "what is it", STEPS)
    assert len(split_responses(tokenizer, [one, two])) == 1
    with pytest.raises(InputError, match="No response has two steps, so every segment but one would be empty"):
        split_responses(tokenizer, [one])
    with pytest.raises(InputError, match="segments=1 gives no earlier part"):
        split_responses(tokenizer, [two], 1)


FORMS = [
    {"question": "what is it", "choices": ["two", "three", "four", "no", "yes"], "answer": "E"},
    {
        "question": "what is it",
        "choices": {"text": ["two", "three", "four", "no", "yes"], "label": list("ABCDE")},
        "answerKey": "E",
    },
    {"input": "what is it", "target_scores": {"two": 0, "three": 0, "four": 0, "no": 0, "yes": 1}},
]


@pytest.mark.parametrize("row", FORMS)
def test_questions_of_known_forms_are_asked_for_a_letter_or_a_text(row):
    tokenizer = letters_tokenizer()
    [one] = read_examples(tokenizer, [row])
    assert one.wording.instruction == "what is it\n(A) two\n(B) three\n(C) four\n(D) no\n(E) yes"
    assert (one.answer, one.wording.response, one.options) == ("E", "E", ("two", "three", "four", "no", "yes"))
    [text] = read_examples(tokenizer, [row], choices="text")
    assert text.wording.instruction == "what is it" and (text.answer, text.wording.response) == ("yes", "yes")


def test_options_are_protected_unless_that_is_unwanted():
    tokenizer = letters_tokenizer()

    def prunable(**given):
        [one] = read_examples(tokenizer, [FORMS[0] | {"question": "if it is 12 what is it"}], **given)
        spans = [one.wording.offsets[p] for p in one.positions]
        return "".join(one.wording.instruction[a:b].strip() for a, b in spans)

    assert prunable() == "ifitis12whatisit"
    assert prunable(protect=("options", "numbers")) == "ifitiswhatisit"
    assert prunable(protect=("options", r"what.*it\n")) == "ifitis12"
    assert "(E)yes" in prunable(protect=())


def test_what_is_protected_stays_so_in_other_tokens_and_in_responses():
    tokenizer = letters_tokenizer()
    [one] = read_examples(
        tokenizer, [{"question": "is it 12", "answer": "it is 3.\nthe answer is 4"}], protect=("numbers",)
    )
    [part] = split_responses(tokenizer, [one])
    shown = part.wording.instruction + part.wording.response
    assert "3" not in {shown[a:b].strip() for a, b in (part.wording.offsets[p] for p in part.positions)}
    assert len(reword(one, tokenizer).positions) == len(one.positions)


def test_free_answers_with_several_forms():
    rows = [{"question": "what is it", "answers": ["two", "three"]}, {"input": "what", "target": "four"}]
    first, second = read_examples(chat_tokenizer(), rows)
    assert (first.answer, first.accepted, second.answer) == ("two", ("three",), "four")
    assert first.wording.suffix.strip() == "Give your best answer, as briefly as you can."


def test_examples_with_options_are_written_and_read(tmp_path):
    made = read_examples(letters_tokenizer(), FORMS, protect=("options", "numbers"))
    assert read_examples(letters_tokenizer(), write_examples(made, tmp_path / "made.jsonl")) == made
