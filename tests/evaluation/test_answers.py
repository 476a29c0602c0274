"""Answers are read where a reply gives one, and nowhere else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.evaluation.answers import canonical, gsm8k_flexible, gsm8k_strict, letter, number, yes_no


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B", "B"),
        (" b.", "B"),
        ("**C**", "C"),
        ("(D)", "D"),
        ("The answer is A.", "A"),
        ("The answer is: (B)", "B"),
        ("the correct answer is **C**, since birds fly.", "C"),
        ("Answer: D", "D"),
        ("B. Bird", "B"),
        ("(C) Rome is the capital.", "C"),
        ("C) Rome", "C"),
        ("A\nBecause it is.", "A"),
        ("I think it's B because of the wings.", "B"),
        ("Apologies for the confusion. The correct answer is (C).", "C"),
        ("I'd go with (A).", "A"),
        ("The answer is A. Wait, that is too fast. The answer is B.", "B"),
        ("The answer is not A, the answer is B.", "B"),
        ("The answer isn't (A) but (B), so the answer is (B).", "B"),
        ("It must be (B).", "B"),
        ("The correct answer is indeed B.", "B"),
        ("The answer is actually B", "B"),
        ("The answer is still B.", "B"),
        ("My answer remains (B).", "B"),
        ("The answer should be D.", "D"),
        ("A is correct.", "A"),
        ("A is the correct answer.", "A"),
        ("Option A is correct.", "A"),
        ("A is wrong, B is right.", "B"),
        ("A is not correct.", None),
        ("I don't think that C is right.", None),
        ("A: Paris", "A"),
        (r"\boxed{A}", "A"),
        (r"So it is $\boxed{\text{C}}$, as A shows.", "C"),
        ("Apologies, you are right.", None),
        ("Based on what you say, I am not sure.", None),
        ("A good question! Let me think.", None),
        ("As an assistant I can't say.", None),
        ("Certainly! Both are possible.", None),
        ("Dogs, of course.", None),
        ("A", "A"),
        ("An answer is hard to give.", None),
        ("The answer is A Midsummer Night's Dream.", None),
        ("The answer is A's opposite.", None),
        ("I don't think the answer is A.", None),
        ("It cannot be (A).", None),
        ("Either (A) or (B).", None),
        ("Options: A, B, C", None),
        ("The answer is a bird.", None),
        ("The answer is Cat.", None),
        ("", None),
        ("I apologize. I am sorry.", None),
        ("The answer is E.", None),
        ("Vitamin C. It is in oranges.", None),
    ],
)
def test_letters(reply, expected):
    assert letter(reply) == expected


def test_letters_reach_as_far_as_the_choices():
    assert letter("The answer is E.", 5) == "E" and letter("E") is None and letter("b", 2) == "B"


@settings(max_examples=50)
@given(
    st.sampled_from("ABCD"), st.sampled_from(["pologies", "ased on that", "ertainly", "ogs", "nd so", "lso"]), st.text()
)
def test_a_words_first_letter_is_no_choice(capital, rest, tail):
    assert letter(f"{capital}{rest} {tail.replace('(', '').replace('[', '')}") in (None, *_later(tail))


def _later(tail):
    """Choices that the random tail itself announces."""
    found = letter(f"x {tail}")
    return (found,) if found else ()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("5 + 3 = 8. The answer is 8.", "8"),
        ("#### 1,234", "1234"),
        ("He has 3 left.\n#### $18.00 in 2 days", "18"),
        ("The answer is $1,050.50!", "1050.5"),
        ("The answer is: **42** apples for 3 children", "42"),
        ("The answer is 5 + 3 = 8", "8"),
        ("First the answer is 3. No, the answer is 4.", "4"),
        ("So there are 12 eggs and 7 hens", "7"),
        ("minus: -7", "-7"),
        ("10-4", "4"),
        ("−5", "-5"),
        ("It is 0.50", "0.5"),
        (r"\boxed{18} is final; check with 9*2", "18"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        (r"$\boxed{-\dfrac{1}{3}}$", "-1/3"),
        (r"\boxed{x = 1{,}200 \text{ eggs}} in 2 days", "1200"),
        (r"First \boxed{3}, then \boxed{4}.", "4"),
        (r"\boxed{\tfrac34}", "0.75"),
        (r"\boxed{45^\circ}", "45"),
        (r"\boxed{12\%}", "12"),
        (r"\boxed{2\sqrt{3}}", None),
        (r"\boxed{2^{10}} with 5 left", None),
        (r"\boxed{3\pi}", None),
        (r"\boxed{1\frac{1}{2}}", "1.5"),
        (r"\boxed{-1\frac12}", "-1.5"),
        (r"\boxed{2\frac{3}{4}\text{ cups}}", "2.75"),
        ("The answer is 1 1/2", "1.5"),
        (r"\boxed{12,\!345}", "12345"),
        (r"\boxed{3\,000}", "3000"),
        (r"\boxed{\frac{1.5}{3}}", "0.5"),
        (r"\boxed{\frac{1,000}{3}}", "1000/3"),
        (r"\boxed{6.02e23}", "602000000000000000000000"),
        (r"\boxed{\frac{2x}{3}}", None),
        (r"\boxed{\frac12+1}", None),
        (r"\boxed{2n+1}", None),
        (r"\boxed{n-5}", None),
        (r"\boxed{3+4i}", None),
        (r"\boxed{(1,2)}", None),
        (r"\boxed{3_{8}}", None),
        (r"\boxed{10!}", None),
        (r"\boxed{5 \text{ apples} + 2}", None),
        ("3/4", "0.75"),
        (r"\frac{3}{4}", "0.75"),
        (r"2\sqrt{3}", None),
        ("12 apples", "12"),
        ("The answer is 1/2.", "0.5"),
        ("The answer is 18/2 = 9", "9"),
        ("no number here", None),
        ("x2 and y3b", None),
        ("1,2,3", "3"),
        ("The answer is eight, from 5 and 3", "3"),
    ],
)
def test_numbers(reply, expected):
    assert number(reply) == expected


@given(st.integers(-(10**9), 10**9))
def test_every_way_to_write_a_number_is_one_form(value):
    assert canonical(f"{value:,}.00") == canonical(str(value)) == str(value)
    assert number(f"#### {value:,}") == str(value)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("So the answer is yes.", "yes"),
        ("Yes, it is. But the answer is no.", "no"),
        ("No, never.", "no"),
        ('"Yes"', "yes"),
        ("Answer: No", "no"),
        (r"No. On reflection: \boxed{\text{Yes}}", "yes"),
        ("No doubt it does.", None),
        ("No one knows.", None),
        ("I know that there is no such thing.", None),
        ("Yesterday it rained.", None),
        ("Nothing is known.", None),
        ("Yes and no.", None),
        ("", None),
    ],
)
def test_yes_and_no(reply, expected):
    assert yes_no(reply) == expected


@pytest.mark.parametrize(
    ("reply", "strict", "flexible"),
    [
        ("5 + 3 = 8\n#### 8", "8", "8"),
        ("The answer is $1,234.", None, "1234"),
        ("#### 7 then #### 9", "7", "9"),
        ("none", None, None),
        ("#### -3.50", "-3.50", "-3.50"),
    ],
)
def test_gsm8k_as_in_the_harness(reply, strict, flexible):
    assert (gsm8k_strict(reply), gsm8k_flexible(reply)) == (strict, flexible)
