"""The loop around the scores: order, resuming, labels, and what is refused before anything runs."""

import numpy as np
import pytest
import torch

from tests.interrupts import killed_before_piece, pieces, watched
from tests.leaf.made import examples, pair
from tests.tiny import tiny
from tests.words import word_tokenizer
from workbench.errors import InputError
from workbench.leaf.examples import Example
from workbench.leaf.scoring import sensitivity
from workbench.models.load import load
from workbench.runs.run import Run


def test_the_result_says_what_it_is():
    student, teacher = pair()
    some = examples()
    found = sensitivity(student, teacher, some, scores=("gradient_difference", "perplexity"), progress=False)
    assert found["sensitivity"].dims == ("score", "example", "position")
    assert found["confounding"].values.tolist() == ["low", "high"]
    assert found["identifier"].values.tolist() == ["example 0", "example 1", "example 2"]
    assert found["token"].values[1].tolist() == [*some[1].context, *[-1] * 6]
    assert found["word"].values[1, 0] == f"[{some[1].context[0]}]"
    assert found.attrs["scores"] == ["gradient_difference", "perplexity"]
    assert found.attrs["student_weights"] != found.attrs["teacher_weights"]


def test_the_most_confounding_token_is_what_the_student_alone_looks_at():
    found = sensitivity(*pair(), examples(), progress=False)["sensitivity"].values[0]
    assert np.nanmin(found, axis=-1).tolist() == [0, 0, 0]
    assert np.nanmax(found, axis=-1).tolist() == [1, 1, 1]


def test_a_stopped_run_goes_on_from_its_batches(tmp_path):
    some, file = examples(), str(tmp_path / "found.nc")
    wanted = sensitivity(*pair(), some, batch_size=1, progress=False)
    with watched(Run, "add") as added, killed_before_piece(2):
        sensitivity(*pair(), some, batch_size=1, resume=file, progress=False)
    assert [key for _, key, _ in added] == ["from example 2", "from example 0"]
    with pieces() as computed:
        found = sensitivity(*pair(), some, batch_size=1, resume=file, progress=False)
    assert computed == ["from example 1"]
    np.testing.assert_array_equal(found["sensitivity"], wanted["sensitivity"])
    assert sensitivity(*pair(), some, resume=file, progress=False).identical(found)
    with pytest.raises(InputError, match="belongs to a run with another configuration"):
        sensitivity(*pair(), some[:2], resume=file, progress=False)


def test_models_of_different_shapes_may_be_compared():
    student, teacher = pair("llama")[0], pair("gpt2")[1]
    found = sensitivity(student, teacher, examples(), scores="all", steps=2, progress=False)
    assert np.isfinite(found["loss"]).all()


def test_bad_examples_are_refused_by_name():
    with pytest.raises(InputError, match="Example 'x' has no token that may be pruned"):
        sensitivity(*pair(), [Example((1, 2), (3,), (False, False), identifier="x")], progress=False)
    with pytest.raises(InputError, match="Example 'x' has 129 tokens, but the student's context has 128"):
        long = Example((5,) * 126, (6, 7, 8), (True,) * 126, identifier="x")
        sensitivity(*pair(), [long], progress=False)
    with pytest.raises(InputError, match="Example 'x' holds token id 97, but the student knows the ids 0 to 96"):
        sensitivity(*pair(), [Example((1, 97), (3,), (True, True), identifier="x")], progress=False)
    with pytest.raises(InputError, match="the list is empty"):
        sensitivity(*pair(), [], progress=False)


def test_a_nan_model_is_named():
    student = load(tiny("llama"))
    with torch.no_grad():
        student.original_model.model.layers[2].mlp.down_proj.weight[0, 0] = torch.inf
    with pytest.raises(InputError, match="The gradient of LlamaForCausalLM is NaN or infinite"):
        sensitivity(student, pair()[1], examples(), progress=False)


def test_words_are_read_by_the_students_tokenizer():
    student = load(tiny("llama"), tokenizer=word_tokenizer(extra=70))
    found = sensitivity(student, student, [Example((1, 4, 5), (6,), (False, True, True))], progress=False)
    assert found["word"].values[0].tolist() == ["<s>", "the", "cat"]
