import numpy as np
import pytest

from workbench.bigram_backcopy import counts
from workbench.errors import InputError


def test_the_committed_table_counts_the_whole_text():
    table = counts.shakespeare()
    assert table.unigram.sum() == 1_115_394
    assert table.bigram.sum() == 1_115_393
    assert len(table.symbols) == 65
    assert table.symbols == tuple(sorted(table.symbols))


def test_counting_matches_counting_by_hand(tmp_path):
    text = "abcd" * 9 + "aab"
    found = counts.Counts.from_text(text)
    for i, first in enumerate(found.symbols):
        assert found.unigram[i] == text.count(first)
        for j, second in enumerate(found.symbols):
            assert found.bigram[i, j] == sum(text[n : n + 2] == first + second for n in range(len(text) - 1))
    found.write(tmp_path / "table.json")
    again = counts.Counts.read(tmp_path / "table.json")
    assert again.symbols == found.symbols
    assert np.array_equal(again.bigram, found.bigram)


def test_a_last_character_that_occurs_once_is_followed_by_the_first():
    found = counts.Counts.from_text("abcd" * 20 + "z")
    assert found.bigram[found.symbols.index("z")].tolist() == [1, 0, 0, 0, 0]


def test_a_text_too_small_is_refused():
    with pytest.raises(InputError, match="too small to estimate which character follows which"):
        counts.Counts.from_text("to be or not to be")


def test_the_synthetic_chain_is_stationary_and_as_random_as_described():
    chain = counts.synthetic()
    assert np.allclose(chain.unigram @ chain.bigram, chain.unigram)
    rows = chain.bigram
    entropy = -(chain.unigram[:, None] * rows * np.log(np.where(rows > 0, rows, 1))).sum()
    assert 1.5 < entropy < 1.7
