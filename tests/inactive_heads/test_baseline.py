"""Baselines counted by hand: chance, the commonest answer, and what is refused."""

import re

import numpy as np
import pytest
import torch
import xarray as xr

import workbench as wb
from tests.tiny import tiny
from tests.words import word_tokenizer
from workbench.errors import InputError
from workbench.evaluation import score_choices
from workbench.inactive_heads import ablation_curve, baseline_of, choices, unusable
from workbench.prompts.questions import MultipleChoice


def answers(given, right, chance=0.25):
    given, right = np.array(given), np.array(right)
    coords = {"given": ("example", given), "right": ("example", right), "chance": ("example", [chance] * len(given))}
    return xr.DataArray(given == right, dims="example", coords=coords, attrs={"score_answers": "letter"})


def wilson(k, n, z=1.959963984540054):
    middle, spread = k / n + z**2 / (2 * n), z * np.sqrt(k / n * (1 - k / n) / n + z**2 / (4 * n**2))
    return (middle - spread) / (1 + z**2 / n), (middle + spread) / (1 + z**2 / n)


def test_a_baseline_is_counted():
    found = baseline_of(answers(list("AABBABCDAA"), list("AABBCDCDBB")))
    assert float(found["baseline"]) == 0.6 and found.attrs["points_per_question"] == 10
    np.testing.assert_allclose([found["baseline_low"], found["baseline_high"]], wilson(6, 10))
    assert float(found["chance"]) == 0.25
    assert (float(found["commonest"]), float(found["commonest_right"])) == (0.5, 0.2)
    assert found.attrs["commonest_answer"] == "A"
    assert float(found["chance_of_answers"]) == pytest.approx(0.5 * 0.2 + 0.3 * 0.4 + 0.1 * 0.2 + 0.1 * 0.2)


def test_what_a_task_does_not_tell_is_unknown_and_refuses_nothing():
    found = baseline_of(xr.DataArray([True, False, False], dims="example"))
    assert np.isnan(found["chance"]) and np.isnan(found["commonest"]) and unusable(found) is None


def test_guessing_dealt_at_random_is_the_accuracy_of_shuffled_answers():
    rng = np.random.default_rng(0)
    given, right = rng.choice(list("ABC"), 300, p=[0.7, 0.2, 0.1]), rng.choice(list("ABC"), 300)
    shuffled = [np.mean(rng.permutation(given) == right) for _ in range(2000)]
    assert float(baseline_of(answers(given, right))["chance_of_answers"]) == pytest.approx(np.mean(shuffled), abs=0.003)


@pytest.mark.parametrize(
    ("given", "right", "problem"),
    [
        ("ABCD" * 25, "ABCD" * 25, None),
        (
            "ABCD" * 25,
            "ADBC" * 25,
            r"25.0% of 100 questions .* \(95% interval 17.5% to 34.3%\).*not above chance, 25.0%",
        ),
        ("A" * 100, "A" * 70 + "B" * 30, "not above 70.0%, which the same answers reach when they are dealt"),
        ("A" * 90 + "B" * 10, "A" * 55 + "B" * 45, "'A', is given to 90.0% of 100 questions and is right for 55.0%"),
        ("A" * 85 + "B" * 15, "A" * 82 + "B" * 18, None),
    ],
)
def test_chance_and_a_dominant_answer_are_named(given, right, problem):
    found = unusable(baseline_of(answers(list(given), list(right))))
    assert found is None if problem is None else re.search(problem, found)


def test_the_way_out_is_to_score_the_answers_as_text():
    model = wb.load(tiny("llama", torch.float32))
    model.tokenizer = word_tokenizer()
    asked = [MultipleChoice("the cat sat on", ("a mat", "the dog", "a dog"), i % 3, str(i)) for i in range(9)]
    with pytest.raises(
        InputError, match=r"not above chance, 33.3%.*not their letters: score the answers as text, score_a"
    ):
        ablation_curve(model, asked, "AHON_LN", [0.2], progress=False)
    with pytest.raises(InputError, match="normalise=characters divides"):
        ablation_curve(model, choices(asked, "text"), "AHON_LN", [0.2], progress=False)
    found = choices(asked, "text", normalise="tokens")(model)
    assert found.attrs == {"score_answers": "text", "normalise": "tokens"}
    text = [wb.evaluation.worded([one])[0] for one in asked]
    wanted = score_choices(model, text, normalise="tokens", progress=False)
    np.testing.assert_array_equal(found, wanted["correct"])
    assert found["given"].values.tolist() == [text[i].choices[k] for i, k in enumerate(wanted["chosen"].values)]
    with pytest.raises(InputError, match="score_answers='words' is unknown"):
        choices(asked, "words")
    with pytest.raises(InputError, match="continuations of these are already set"):
        choices(text, "text")
    with pytest.raises(InputError, match="of two kinds"):
        choices([*asked, *text])
