"""A sample of `benchmarks.kill`: killed at random moments, alone and two at a time, a measurement loses nothing."""

import random
import sys

import numpy as np
import pytest

import workbench as wb
from benchmarks.kill import attack, ended, started
from tests.tiny import bridge

TEXTS = [np.random.default_rng(i).integers(5, 90, 12).tolist() for i in range(24)]


def scores(folder):
    try:
        wb.head_scores(bridge("llama"), TEXTS, ("AHON", "AWFT"), batch_size=1, resume=folder / "a.nc", progress=False)
    except wb.InputError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 2
    return 0


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_measurement_loses_and_repeats_nothing(processes, tmp_path):
    bridge("llama")
    (tmp_path / "whole").mkdir()
    assert ended(started(scores, tmp_path / "whole", tmp_path / "whole.log")) == 0
    kills, _ = attack(scores, tmp_path, 2, processes, random.Random(0), 0.6)
    assert kills >= 2
