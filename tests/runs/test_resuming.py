"""A measurement that is killed goes on from what was finished, and ends in the numbers of one that was not."""

from functools import partial

import numpy as np
import pytest
import xarray as xr

import workbench as wb
from tests.interrupts import killed_before_piece, pieces
from tests.tiny import bridge
from workbench.evaluation.questions import Question

pytestmark = pytest.mark.filterwarnings("ignore:.*read logit_diff:workbench.errors.WorkbenchWarning")
RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(5, 90, n).tolist() for n in (9, 12, 9, 5)]
PAIRS = wb.PromptPairs(TEXTS[:3], [[*text[:-1], 3] for text in TEXTS[:3]], (5, 9))
QUESTIONS = [Question(tuple(text), ((1,), (2, 3), (4,))[: 2 + i % 2], i % 2) for i, text in enumerate(TEXTS)]
EXACTLY = {"batch_size": 1, "progress": False}
MEASUREMENTS = {
    "head_scores": (partial(wb.head_scores, texts=TEXTS, scores=("AHON", "AWFT"), **EXACTLY), 4),
    "extreme_tokens": (partial(wb.extreme_tokens, texts=TEXTS, **EXACTLY), 4),
    "score_choices": (partial(wb.evaluation.score_choices, questions=QUESTIONS, **EXACTLY), 8),
    "attribution_patch": (partial(wb.attribution_patch, pairs=PAIRS, verify=4, progress=False), 6),
    "activation_patch": (partial(wb.activation_patch, pairs=PAIRS, **EXACTLY), 3),
    "path_patch": (partial(wb.path_patch, pairs=PAIRS, **EXACTLY), 3),
    "generate": (partial(wb.evaluation.generate, prompts=TEXTS, max_new_tokens=3, **EXACTLY), 4),
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_killed_measurement_goes_on_and_a_finished_one_is_read(name, tmp_path):
    measure, count = MEASUREMENTS[name]
    whole = measure(bridge("llama"))
    file = tmp_path / "result.nc"
    with killed_before_piece(2):
        measure(bridge("llama"), resume=file)
    with pieces() as computed:
        again = measure(bridge("llama"), resume=file)
    assert len(computed) == count - 2
    with pieces() as computed:
        read = measure(bridge("llama"), resume=file)
    assert computed == []
    for found in (again, read):
        xr.testing.assert_equal(found, whole)
        extra = {"date", "duration_s", "resume_config"}
        assert {k: v for k, v in found.attrs.items() if k not in extra} == {
            k: v for k, v in whole.attrs.items() if k not in extra
        }
    with pytest.raises(wb.InputError, match="belongs to a run with another configuration"):
        measure(bridge("mistral"), resume=file)
