"""What bad input to LeaF's first stage is answered with, word for word."""

import re

import numpy as np
import pytest
import torch
import xarray as xr

from tests.leaf.made import examples, pair
from tests.tiny import tiny
from tests.tuning.chat import chat_tokenizer
from tests.words import word_tokenizer
from workbench.errors import InputError
from workbench.leaf import selection
from workbench.leaf.asking import ask
from workbench.leaf.confounding import confounders
from workbench.leaf.examples import Example
from workbench.leaf.pruning import prune
from workbench.leaf.scoring import sensitivity
from workbench.leaf.tokenized_examples import example
from workbench.models.load import load


def unlike():
    models = [load(tiny("llama"), tokenizer=t) for t in (word_tokenizer(), chat_tokenizer())]
    sensitivity(*models, examples(), progress=False)


def overflowing():
    student = load(tiny("llama"))
    with torch.no_grad():
        student.original_model.model.layers[2].mlp.down_proj.weight[0, 0] = torch.nan
    sensitivity(student, pair()[1], examples(), progress=False)


def all_pruned():
    one = examples()[0]
    prune([one], [one.positions], how="collective")


CASES = {
    "different vocabularies": (
        unlike,
        "Student and teacher have different vocabularies: 17 of the first 20 ids stand for different tokens, such as 3 "
        "('<unk>' and '<user>'), 4 ('the' and '<bot>'), 5 ('cat' and '<unk>'). Take models of one family, or "
        "align='characters' to compare them by the characters of the text.",
    ),
    "an answer that is not in the text": (
        lambda: example(chat_tokenizer(), "what", "it is two", "four", identifier="7"),
        "Example '7': the answer 'four' is not found in its response 'it is two', so the gold response is not a right "
        "one. Correct the row, or leave it out.",
    ),
    "an answer that no matcher reads": (
        lambda: ask(pair()[0], [Example((5,), (6,), (True,), answer="two", identifier="7")], progress=False),
        "Example '7': match='number' finds no answer in its answer 'two', so no reply could be right. Choose another "
        "matcher (letter, number, yes_no, gsm8k_strict, gsm8k_flexible, text) or give a function of reply and example.",
    ),
    "no misled example: the student is right": (
        lambda: misled([True] * 3),
        "None of 3 examples misleads the student alone: the student answers all of them correctly. Give harder "
        "examples, or a weaker student.",
    ),
    "no misled example: the teacher is wrong": (
        lambda: misled([False] * 3),
        "None of 3 examples misleads the student alone: of the 3 that the student gets wrong, the teacher gets none "
        "right. Give easier examples or a stronger teacher, look at the replies (workbench.leaf.ask), and check that "
        "match= reads them.",
    ),
    "no misled example: the student is cut": (
        lambda: misled([1, np.nan, np.nan], "length"),
        "None of 3 examples misleads the student alone: the student answers 1 correctly, and its other 2 replies were "
        "cut before their end, so that they are neither right nor wrong. Raise max_new_tokens=, or give the strings "
        "that end a reply as stop=.",
    ),
    "no misled example: both are cut": (
        lambda: misled([0, 0, np.nan], "length"),
        "None of 3 examples misleads the student alone: of the 2 that the student gets wrong, the teacher gets none "
        "right. Give easier examples or a stronger teacher, look at the replies (workbench.leaf.ask), and check that "
        "match= reads them; max_new_tokens= cuts 1 replies of the student and 0 of the teacher, which count as neither "
        "right nor wrong.",
    ),
    "no control": (
        lambda: confounders(*pair(), examples(), draws=0),
        "draws=0 leaves the result without a control: examples that the student gets wrong turn right at times "
        "whatever is taken out. Give at least 1.",
    ),
    "a pattern that is none": (
        lambda: example(chat_tokenizer(), "what", "two", protect=["("]),
        "protect='(' is no regular expression (missing ), unterminated subpattern at position 0); known by name: "
        "options, numbers.",
    ),
    "all of it protected": (
        lambda: example(chat_tokenizer(), "what is", "two", protect=["what", "is"], identifier="7"),
        "Example '7' has no token that may be pruned: 'what is' is all protected or cut off. Protect less, or leave it "
        "out.",
    ),
    "everything pruned": (
        all_pruned,
        "Pruning would delete everything that may be pruned in each of 1 counterfactuals, so nothing of the questions "
        "would be left. Lower the threshold.",
    ),
    "an empty response segment": (
        lambda: Example((1, 2), (3, 4), (True,) * 4, prefix=2, identifier="7"),
        "Example '7' has 2 response tokens and prefix=2, so its response segment is empty and there is no loss to "
        "take. Give a response, or split it into fewer segments.",
    ),
    "a context that overflows": (
        lambda: sensitivity(*pair(), [Example((5,) * 126, (6,) * 3, (True,) * 126, identifier="7")], progress=False),
        "Example '7' has 129 tokens, but the student's context has 128. Leave it out: cut, it would lose its response.",
    ),
    "nothing that may be pruned": (
        lambda: sensitivity(*pair(), [Example((5, 6), (7,), (False, False), identifier="7")], progress=False),
        "Example '7' has no token that may be pruned, so there is nothing to score. Its words are white space only, or "
        "cut_last is longer than they are; leave it out.",
    ),
    "a gradient that is NaN": (
        overflowing,
        "The gradient of LlamaForCausalLM is NaN or infinite in row 0 of a batch (its loss is nan), so no token of it "
        "can be scored. The usual cause: a model that diverged in training, or a hook on it that overflows.",
    ),
}


def misled(right, ending="end"):
    def reply(model, those, **_given):
        n = len(those)
        texts = {"reply": "", "answer": "", "ending": ending}
        return xr.Dataset(
            {
                "tokens": (("example", "step"), np.ones((n, 1), dtype=int)),
                "n_tokens": ("example", [1] * n),
                **{name: ("example", np.array([value] * n, dtype=object)) for name, value in texts.items()},
                "correct": ("example", np.array(right[:n], dtype=float)),
            }
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "ask", reply)
        selection.select_examples(*pair(), examples(), progress=False)


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_answered(name):
    bad, text = CASES[name]
    with pytest.raises(InputError) as raised:
        bad()
    assert re.fullmatch(re.escape(text), str(raised.value)), str(raised.value)
