"""Where answers are read, and that what is read there is their logit or their whole log-probability."""

import numpy as np
import pytest
import torch

from tests.tiny import bridge, sequences
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.patching.answers import answer_logits, answer_metrics, coverage, reads, refuse_nan
from workbench.prompts.pairs import PromptPairs

SHORT = PromptPairs([[1, 2], [3, 4, 5]], [[6], [7, 8]], [(10, 11), (12, 13)])
LONG = PromptPairs([[1, 2], [3, 4, 5]], [[6], [7, 8]], [((10, 14), (11,)), ((12,), (13, 15, 16))])


SETS = PromptPairs([[1, 2]], [[6]], [(((10,), (11, 12), (11, 13)), ((11, 14, 15), (16,)))])


def strings(read, pairs):
    """Each answer sequence as it can be read back from the edges it passes, with its example and answer."""
    for edges, (example, which) in zip(read.passes, read.belongs, strict=True):
        tokens = []
        for edge in edges:
            row = read.edge_row[edge]
            assert read.example[row] == example
            run = read.base[read.sequence[row]]
            assert run[: len(run) - read.back[row]] == [*pairs.base[example], *tokens]
            tokens.append(int(read.edge_token[edge]))
        yield example, which, tuple(tokens)


@pytest.mark.parametrize("pairs", [SHORT, LONG, SETS], ids=["short", "long", "sets"])
def test_the_edges_spell_every_answer_behind_its_prompt(pairs):
    found = sorted(strings(reads(pairs), pairs))
    assert found == sorted(
        (i, which, s) for i, sides in enumerate(pairs.answer_sets) for which, side in enumerate(sides) for s in side
    )


def test_short_answers_are_read_together_at_the_last_position():
    read = reads(SHORT)
    assert read.base == SHORT.base and read.source == SHORT.source and read.raw
    assert list(read.back) == [0, 0] and list(read.sequence) == [0, 1]
    assert read.targets()[0].tolist() == [[10, 11], [12, 13]]


def test_long_answers_are_appended_and_each_token_is_read_before_it():
    read = reads(LONG)
    assert read.base == [[1, 2, 10], [3, 4, 5, 13, 15]] and not read.raw
    assert read.source == [[6, 10], [7, 8, 13, 15]]


def test_shared_beginnings_are_read_once():
    read = reads(SETS)
    assert read.base == [[1, 2, 11, 14]]
    assert len(read.sequence) == 3 and len(read.edge_row) == 7


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


def slow_log_probability(model, prompt, answer):
    """log P(the reply begins with the answer), one forward pass a token."""
    total = 0.0
    for k, token in enumerate(answer):
        with torch.no_grad():
            total += float(model(torch.tensor([[*prompt, *answer[:k]]]))[0, -1].double().log_softmax(-1)[token])
    return total


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_sets_of_answers_give_the_log_probability_that_a_reply_begins_with_one_of_them(family):
    model = bridge(family)
    answers = [(((10,), (11, 12), (11, 13)), ((11, 14, 15), (16,))), ((20, 21), ((22,), (23,)))]
    pairs = PromptPairs(sequences((5, 7)), sequences((6, 4), seed=2), answers)
    read = reads(pairs)
    rows = [read.base[s][: len(read.base[s]) - back] for s, back in zip(read.sequence, read.back, strict=True)]
    stream, _ = streams(model, rows)
    found, covered = answer_logits(anatomy(model), stream, read), coverage(anatomy(model), stream, read)
    a, b = answer_logits(anatomy(model), stream, read.differences())
    np.testing.assert_allclose(a - b, found[0] - found[1], atol=1e-10)
    roots = [k for k, row in enumerate(rows) if row in pairs.base]
    assert np.flatnonzero(~read.differences().normalised).tolist() == roots and read.normalised.all()
    for example, sides in enumerate(pairs.answer_sets):
        wanted = [
            np.logaddexp.reduce([slow_log_probability(model, pairs.base[example], s) for s in side]) for side in sides
        ]
        np.testing.assert_allclose(found[:, 0, example], wanted, atol=1e-10)
        assert covered[0, example] == pytest.approx(np.exp(wanted).sum(), rel=1e-9)


def test_coverage_of_single_tokens_is_their_probability():
    model = bridge("llama")
    pairs = PromptPairs(sequences((5, 7)), sequences((5, 7), seed=2), [(10, 11), (12, 13)])
    stream, logits = streams(model, pairs.base)
    p = logits.softmax(-1)
    wanted = [float(p[0, 10] + p[0, 11]), float(p[1, 12] + p[1, 13])]
    np.testing.assert_allclose(coverage(anatomy(model), stream, reads(pairs))[0], wanted, rtol=1e-9)


def test_sets_of_single_tokens_need_no_normalisation():
    """Their logit difference is that of the log-probabilities, read from raw logits."""
    model = bridge("llama")
    pairs = PromptPairs(sequences((5,)), sequences((5,), seed=2), [(((10,), (11,)), ((12,), (13,), (14,)))])
    read = reads(pairs)
    stream, logits = streams(model, pairs.base)
    a, b = answer_logits(anatomy(model), stream, read)
    logp = logits.log_softmax(-1)[0]
    assert read.raw
    assert float(a[0, 0] - b[0, 0]) == pytest.approx(float(logp[[10, 11]].logsumexp(0) - logp[12:15].logsumexp(0)))
    assert answer_metrics(pairs, None) == ("logit_diff", "prob")


def test_nan_names_the_model_and_the_example():
    logits = np.zeros((2, 3, 4))
    parts = anatomy(bridge("llama"))
    refuse_nan(logits, parts)
    logits[1, 2, 3] = np.inf
    with pytest.raises(InputError, match="LlamaForCausalLM gives NaN or infinite logits, first for example 3"):
        refuse_nan(logits, parts)
