import pytest

from workbench.plot.text import text_height, text_width, wrap

HELVETICA = {"Attention": 3.947, "illicit": 1.888, "MMMM": 3.332, "0.25": 1.946}
"""Widths in font sizes from the metrics of the font (units of 1,000 per font size)."""


@pytest.mark.parametrize(("word", "ems"), HELVETICA.items())
def test_widths_are_those_of_the_font_and_rather_wider(word, ems):
    assert 0.98 * ems < text_width(word, 1) < 1.3 * ems


def test_tags_and_entities_take_no_room_of_their_own():
    assert text_width("<b>a&lt;b</b>", 12) == text_width("a<b", 12)
    assert text_width("one<br>longer", 12) == text_width("longer", 12) and text_height("one<br>two", 12) == 30


def test_lines_are_broken_between_words_or_at_hyphens():
    assert wrap("one two three", text_width("one two", 12) + 1, 12) == "one two<br>three"
    assert wrap("smollm2-135m-instruct", 70, 12) == "smollm2-<br>135m-<br>instruct"
    assert wrap("<b>bold</b> text", 1000, 12) == "<b>bold</b> text"
