"""Bars are shown where they are wanted and the environment does not forbid them."""

import re

import pytest

from tests.tiny import bridge
from workbench.extreme import extreme_tokens, zeroing_sweep

MEASURES = [extreme_tokens, zeroing_sweep]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("value", "progress", "shown"), [("1", True, False), ("0", False, False), ("0", True, True)])
def test_either_word_silences_a_bar(measure, value, progress, shown, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", value)
    measure(bridge("llama"), [[3, 4, 5, 6]], progress=progress)
    assert bool(capsys.readouterr().err) == shown


def test_a_sweep_says_beforehand_how_long_it_takes(capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    zeroing_sweep(bridge("llama"), [[3, 4, 5, 6]] * 3, heads=[(0, 1), (2, 3)])
    shown = capsys.readouterr().err
    assert re.search(r"zeroing 2 heads on 3 texts, about \d+ s", shown) and "0/6" in shown
