"""What bad input to tuning and export is answered with, word for word; `{here}` is the test's folder."""

import re

import pytest
import torch
from transformers.utils.logging import disable_progress_bar

from tests.interrupts import spoiled, watched
from tests.tiny import tiny
from tests.tuning.chat import chat_model, dialogues
from tests.tuning.disk import full_disk
from tests.tuning.test_units import selection
from workbench.errors import InputError
from workbench.models.load import load
from workbench.runs.processes import Processes
from workbench.tuning.checkpoint import save_pretrained
from workbench.tuning.pinpoint import pinpoint_tune
from workbench.tuning.recipe import TuningRecipe

QUICK = TuningRecipe(steps=2, batch=4, learning_rate=1e-2)
USER, BOT = ({"role": role, "content": "two"} for role in ("user", "assistant"))


def tune(asked=None, units=((0, 1),), recipe=QUICK, **options):
    return pinpoint_tune(chat_model(), asked or dialogues(), units, recipe=recipe, progress=False, **options)


def diverged(here):
    with watched(Processes, "backward", 1, spoiled):
        tune(resume=here / "run")


def exported_to_a_full_disk(here):
    disable_progress_bar()
    with full_disk(1000):
        save_pretrained(chat_model(dtype=torch.float32), here / "tuned")


def saved_to_a_full_disk(here):
    with full_disk(1000):
        tune(resume=here / "run")


CASES = {
    "units of another model": (
        lambda here: tune(units=selection(4, 8, 2)),
        "The units were selected in a model of 4 layers of 8 query heads on 2 KV heads, and LlamaForCausalLM has 3 "
        "layers of 4 query heads on 2 KV heads. Select them again with results of this model.",
    ),
    "a ratio of nothing": (
        lambda here: selection(ratio=0.0),
        "ratio=0.0 must be a share above 0 and at most 1, such as 0.04 for 4 %.",
    ),
    "a ratio above one": (
        lambda here: selection(ratio=1.5),
        "ratio=1.5 must be a share above 0 and at most 1, such as 0.04 for 4 %.",
    ),
    "no reply": (
        lambda here: tune([[USER, BOT, USER]]),
        "Dialogue 0 has no reply to learn from: its turns are user, assistant, user, and the last must be the "
        "assistant's and not empty. All labels would be masked.",
    ),
    "a template without a system role": (
        lambda here: tune([[{"role": "system", "content": "is"}, USER, BOT]]),
        "The chat template refuses dialogue 0 (turns: system, user, assistant): no system role Some templates take no "
        "system message, or want user and assistant to alternate; leave the system message out, or put it into the "
        "first turn.",
    ),
    "all labels masked": (
        lambda here: tune(recipe=TuningRecipe(steps=1, max_length=3)),
        "All 8 dialogues have more than max_length=3 tokens, so every label would be masked. Give shorter dialogues or "
        "a larger max_length.",
    ),
    "a loss that is no number": (
        diverged,
        "Tuning stopped at update 1: loss nan, gradient norm 0, on dialogues 2, 5, 1, 6. The last good state, after 1 "
        "updates, is in {here}/run. Give a smaller learning_rate, or a wider dtype than float16.",
    ),
    "a full disk under the state": (
        saved_to_a_full_disk,
        "Cannot write {here}/run (Error while serializing: I/O error: File too large (os error 27)). The place is "
        "read-only, full or inside a file; what stood there before is unchanged. Choose another place for the output, "
        "make room, or change its permissions.",
    ),
    "a full disk under an export": (
        exported_to_a_full_disk,
        "Cannot write {here}/tuned (Error while serializing: I/O error: File too large (os error 27)). The place is "
        "read-only, full or inside a file; what stood there before is unchanged. Choose another place for the output, "
        "make room, or change its permissions.",
    ),
    "a folder that is taken": (
        lambda here: save_pretrained(load(tiny("llama")), [(here / "mine").write_text(""), here][1]),
        "{here} exists and is not an empty folder. Name a new one, or delete it.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_answered(name, tmp_path):
    bad, text = CASES[name]
    with pytest.raises(InputError) as raised:
        bad(tmp_path)
    assert str(raised.value) == text.replace("{here}", str(tmp_path))
    left = {file.name for file in tmp_path.rglob("*")}
    assert left <= {"run", "mine"} and not any(re.search(r"tmp|tuned", file) for file in left)
