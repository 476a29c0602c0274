"""Where answers are read, and that what is read there is their logit or their whole log-probability."""

import numpy as np
import pytest
import torch

from tests.tiny import bridge, sequences
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.patching.answers import answer_logits, answer_metrics, reads, refuse_nan
from workbench.prompts.pairs import PromptPairs

SHORT = PromptPairs([[1, 2], [3, 4, 5]], [[6], [7, 8]], [(10, 11), (12, 13)])
LONG = PromptPairs([[1, 2], [3, 4, 5]], [[6], [7, 8]], [((10, 14), (11,)), ((12,), (13, 15, 16))])


def test_short_answers_are_read_together_at_the_last_position():
    read = reads(SHORT)
    assert read.base == SHORT.base and read.source == SHORT.source
    assert list(read.back) == [0, 0] and list(read.sequence) == [0, 1]
    assert read.targets.tolist() == [[10, 11], [12, 13]] and read.answer.tolist() == [-1, -1]


def test_long_answers_are_appended_and_each_token_is_read_before_it():
    read = reads(LONG)
    assert read.base == [[1, 2, 10], [1, 2], [3, 4, 5], [3, 4, 5, 13, 15]]
    assert read.source == [[6, 10], [6], [7, 8], [7, 8, 13, 15]]
    for row, (sequence, back) in enumerate(zip(read.sequence, read.back, strict=True)):
        tokens = [*read.base[sequence], None]
        following = tokens[len(read.base[sequence]) - back]
        whole = LONG.answers[read.example[row]][read.answer[row]]
        step = len(whole) - 1 - back
        assert read.targets[row].tolist() == [whole[step]]
        assert following is None or following == whole[step]


def test_metrics_are_what_the_answers_allow():
    assert answer_metrics(SHORT, None) == ("logit_ratio", "logit_diff", "prob")
    assert answer_metrics(SHORT, ["prob"]) == ("prob",)
    assert answer_metrics(LONG, None) == ("logit_diff", "prob")
    with pytest.raises(InputError, match="logit_ratio is a ratio of two single raw logits"):
        answer_metrics(LONG, ("logit_ratio",))


def streams(model, rows):
    """The final stream at the last position of each row, with a first axis of one cell."""
    kept = []
    hook = ("blocks.2.hook_resid_post", lambda t, hook: kept.append(t[0, -1].clone()))
    with torch.no_grad(), model.hooks(fwd_hooks=[hook]):
        logits = [model(torch.tensor([row]))[0, -1] for row in rows]
    return torch.stack(kept)[None], torch.stack(logits)


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_short_answers_give_the_logits(family):
    model = bridge(family)
    pairs = PromptPairs(sequences((5, 7)), sequences((5, 7), seed=2), [(10, 11), (12, 13)])
    stream, logits = streams(model, pairs.base)
    found = answer_logits(anatomy(model), stream, reads(pairs))
    wanted = [[[logits[0, 10], logits[1, 12]]], [[logits[0, 11], logits[1, 13]]]]
    np.testing.assert_allclose(found, np.array(wanted), atol=1e-10)


def test_long_answers_give_the_log_probability_of_the_whole():
    model = bridge("llama")
    pairs = PromptPairs(sequences((5,)), sequences((5,), seed=2), [((10, 14), (11,))])
    base = pairs.base[0]
    read = reads(pairs)
    rows = [read.base[s][: len(read.base[s]) - back] for s, back in zip(read.sequence, read.back, strict=True)]
    stream, logits = streams(model, rows)
    found = answer_logits(anatomy(model), stream, read)
    assert rows == [base, [*base, 10], base]
    steps = logits.log_softmax(-1)
    wanted = [[[float(steps[0, 10] + steps[1, 14])]], [[float(steps[2, 11])]]]
    np.testing.assert_allclose(found, wanted, atol=1e-10)


def test_nan_names_the_model_and_the_example():
    logits = np.zeros((2, 3, 4))
    parts = anatomy(bridge("llama"))
    refuse_nan(logits, parts)
    logits[1, 2, 3] = np.inf
    with pytest.raises(InputError, match="LlamaForCausalLM gives NaN or infinite logits, first for example 3"):
        refuse_nan(logits, parts)
