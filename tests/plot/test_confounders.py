"""The view of confounding tokens: what is struck out, underlined, asked and counted."""

import re

import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.plot.confounders import chance_rows, confounders, summary


def result() -> xr.Dataset:
    """Two examples of five tokens; the trap "<7>" of the first is proved, "blue" of the second only a candidate."""
    words = [["[go]", "Tom", " has", " <7>", ""], ["[go]", "A", " blue", " hat", " ?"]]
    values = [[np.nan, 0.9, 1.0, 0.0, np.nan], [np.nan, 1.0, 0.0, 0.4, 0.6]]
    removed = np.array([[0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0]], dtype=bool)
    return xr.Dataset(
        {
            "sensitivity": (("score", "example", "position"), [values]),
            "word": (("example", "position"), np.array(words, dtype=object)),
            "candidate": (("threshold", "example", "position"), np.isin(values, [0.0])[None].repeat(2, 0)),
            "reply_before": (("model", "example"), np.array([["9", "8"], ["7", "6"]], dtype=object)),
            "gold": ("example", np.array(["7", "6"], dtype=object)),
            "answer_before": (("model", "example"), np.array([["9", "8"], ["7", "6"]], dtype=object)),
            "ending_before": (("model", "example"), np.array([["end", "stop"], ["end", "end"]], dtype=object)),
            "correct_before": (("model", "example"), [[0.0, 0.0], [1.0, 1.0]]),
            "reply_after": (("model", "span"), np.array([["7", "5", "4"], ["7", "", ""]], dtype=object)),
            "answer_after": (("model", "span"), np.array([["7", "", "4"], ["7", "", ""]], dtype=object)),
            "ending_after": (("model", "span"), np.array([["end", "length", "end"], ["end", "", ""]], dtype=object)),
            "correct_after": (("model", "span"), [[1.0, np.nan, 0.0], [1.0, np.nan, np.nan]]),
            "accepted": ("span", [True, False, False]),
            "removed": (("span", "position"), removed),
            "origin": ("span", [4, 6, 6]),
            "span_threshold": ("span", [0.1, 0.1, 0.3]),
            "control_accepted": (("draw", "span"), [[False, True, False], [False, False, False]]),
            "n_spans": ("tried", [2, 1, 3]),
            "n_accepted": ("tried", [1, 0, 1]),
            "rescued": (("tried", "example"), [[True, False], [False, False], [True, False]]),
            "rescued_by_chance": (("tried", "example"), [[0, 0.5], [0, 0], [0, 0.5]]),
            "rescued_share": ("tried", [0.5, 0, 0.5]),
            "chance_share": ("tried", [0.25, 0, 0.25]),
            "excess": ("tried", [0.25, 0, 0.25]),
            "excess_low": ("tried", [-0.4, -0.3, -0.4]),
            "excess_high": ("tried", [0.7, 0.3, 0.7]),
        },
        coords={
            "score": ["gradient_difference"],
            "confounding": ("score", ["low"]),
            "example": [4, 6],
            "identifier": ("example", np.array(["q4", ""], dtype=object)),
            "model": ["student", "teacher"],
            "threshold": [0.1, 0.3],
            "tried": ["0.1", "0.3", "any"],
        },
        attrs={"student": "small", "teacher": "big", "score": "gradient_difference"}
        | {
            f"n_{name}": n
            for name, n in zip(("examples", "student_wrong", "misled", "spans"), (9, 5, 2, 3), strict=True)
        }
        | {"n_accepted": 1, "n_rescued": 1, "n_student_cut": 3, "n_teacher_cut": 0},
    )


def test_proved_spans_are_struck_out_and_candidates_underlined():
    html = confounders(result(), threshold=0.1)
    struck = re.findall(r'<s style="[^"]*line-through[^"]*" title="0.000">([^<]*)</s>', html)
    assert struck == [" &lt;7&gt;"]
    assert re.findall(r'<span style="[^"]*underline;text[^"]*" title="0.000">([^<]*)</span>', html) == [" blue"]
    assert html.count('title="may not be pruned">[go]') == 2


def test_the_answers_stand_below_with_what_was_taken_out():
    html = confounders(result(), threshold=0.1)
    assert "without “&lt;7&gt;”" in html
    assert html.count("not asked") == 1
    assert "without “A blue”" not in html
    assert "without “A blue”" in confounders(result(), threshold=0.3)
    assert '✗ <b>9</b> · <span title="9">9</span>' in html
    assert '✓ <b>7</b> · <span title="7">7</span>' in html
    assert '– <span title="5">5</span>' in html and "(cut: most tokens)" in html and "(stop string)" in html
    assert "right answer: <b>7</b>" in html
    assert "both right in 1 of 2" in html  # the second span's random ones


def test_thresholds_stand_apart_each_beside_its_own_chance():
    html = confounders(result())
    assert re.findall("<h3[^>]*>([^<]*)</h3>", html) == ["threshold 0.1", "threshold 0.3"]
    first, second = html.split("threshold 0.3</h3>")
    assert "without “A blue”" in second and "without “A blue”" not in first
    assert chance_rows(result()) == [
        ("0.1", "2", "1", "1 of 2 (50%)", "0.5 of 2 (25%)", "+25 (-40 to +70)"),
        ("0.3", "1", "0", "0 of 2 (0%)", "0.0 of 2 (0%)", "+0 (-30 to +30)"),
        ("any", "3", "1", "1 of 2 (50%)", "0.5 of 2 (25%)", "+25 (-40 to +70)"),
    ]
    assert all(f">{value}</td>" in html for row in chance_rows(result()) for value in row)


def test_examples_with_a_proved_span_come_first_and_may_be_chosen():
    assert "example q4" in confounders(result(), n=1)
    assert "example 6" not in confounders(result(), n=1)
    assert "1 of 2 prompts, chosen: those with a struck-out span come first." in confounders(result(), n=1)
    assert "chosen:" not in confounders(result())
    assert "example q4" not in confounders(result(), examples=[6])


def test_the_redder_the_more_confounding():
    html = confounders(result(), threshold=0.1)
    opacity = {
        t: float(a) for a, t in re.findall(r"rgba\(181,67,42,([\d.]+)\);[^\"]*\" title=\"[\d.]+\">([^<]+)<", html)
    }
    assert opacity[" &lt;7&gt;"] == opacity[" blue"] == 0.75
    assert opacity[" has"] == opacity["A"] == 0
    assert opacity[" hat"] > opacity[" ?"] > 0


def test_the_counts_are_said():
    text = summary(result())
    assert text == (
        "Of 9 examples small got 5 wrong, and big 2 of these right (40%). 3 of its and 0 of the teacher's first "
        "replies were cut and count as neither. Both answer correctly without one of 1 of 3 candidate spans, which "
        "rescues 1 of the 2 (50%). As many random spans of the same lengths rescue 25% (mean of 2 draws): +25 points, "
        "not clear of chance (95 % interval -40 to +70)."
    )
    assert text.replace("'", "&#39;") in confounders(result())
    for ends, verdict in (((-0.3, -0.1), "worse than chance"), ((0.1, 0.3), "beyond chance")):
        apart = result().assign(
            {f"excess_{name}": ("tried", [end] * 3) for name, end in zip(("low", "high"), ends, strict=True)}
        )
        assert f"points, {verdict} (95" in summary(apart)
    assert "right (40%, where a guess among the options gets 20%). 3" in summary(result().assign_attrs(guess=0.2))


def test_other_datasets_examples_and_thresholds_are_refused():
    with pytest.raises(InputError, match="this Dataset lacks word, accepted"):
        confounders(result().drop_vars(["word", "accepted"]))
    with pytest.raises(InputError, match=r"Example 5 is not in this result; it has \[4, 6\]"):
        confounders(result(), examples=[5])
    with pytest.raises(InputError, match=r"threshold=0.2 is not in this result; it has \[0.1, 0.3\]"):
        confounders(result(), threshold=0.2)
