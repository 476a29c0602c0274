"""Scoring: equal to running every prompt with every choice alone, with and without hooks, whatever is shared."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.test_hooked import hooked_model, needs_hooked
from tests.tiny import COHERE, TEN, bridge, sequences
from workbench.errors import InputError
from workbench.evaluation import local
from workbench.evaluation.local import interval, score_choices
from workbench.evaluation.questions import Question
from workbench.runs.results import open_result, save_result

HOOKED = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")


def twin(model, questions):
    """Every prompt with every choice in a pass of its own, from the model's logits."""
    found = np.full((len(questions), max(len(q.choices) for q in questions)), np.nan)
    for i, question in enumerate(questions):
        for k, choice in enumerate(question.choices):
            row = torch.tensor([[*question.prompt, *choice]])
            logits = model(row, attention_mask=torch.ones_like(row))[0].log_softmax(-1)
            places = range(len(question.prompt) - 1, row.shape[1] - 1)
            found[i, k] = sum(float(logits[p, row[0, p + 1]]) for p in places)
    return found


def questions(lengths=(5, 9, 9, 14, 3), prefix=0, seed=1):
    prompts = sequences(lengths, seed=seed, prefix=prefix)
    sizes = [(1, 1), (2, 4, 1), (3, 3), (1, 1, 1), (5, 2)]
    made = []
    for i, prompt in enumerate(prompts):
        choices = sequences(sizes[i % len(sizes)], seed=seed + 10 + i)
        made.append(Question(tuple(prompt), tuple(tuple(c) for c in choices), i % 2, str(i), "made up"))
    return made


@pytest.mark.parametrize("family", [*TEN, "gptj", COHERE, "gemma3"])
def test_log_likelihoods_are_those_of_single_runs(family):
    model = bridge(family)
    found = score_choices(model, questions(), progress=False)
    np.testing.assert_allclose(found["loglikelihood"], twin(model, questions()), rtol=1e-6)


@pytest.mark.parametrize("family", [*TEN, "gemma3"])
def test_a_shared_beginning_is_run_once_and_changes_nothing(family, monkeypatch):
    asked = questions((20, 25, 22, 31, 27), prefix=19)
    model, begun = bridge(family), []
    monkeypatch.setattr(local, "WORTH_SHARING", 64)
    monkeypatch.setattr(local, "_ALIKE", 8)
    own = local.prefix_cache
    monkeypatch.setattr(local, "prefix_cache", lambda m, tokens: begun.append(len(tokens[0])) or own(m, tokens))
    found = score_choices(model, asked, batch_size=3, progress=False)
    assert [n for n in begun if n] == [19]
    np.testing.assert_allclose(found["loglikelihood"], twin(model, asked), rtol=1e-6)


def mean_dependent(z, hook):
    """An intervention that looks at every position of its sequence, as zeroing by an average does."""
    return z * torch.tanh(z.mean((1, 3), keepdim=True) * 9)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mistral"])
def test_interventions_see_whole_sequences_without_padding(family, monkeypatch):
    monkeypatch.setattr(local, "WORTH_SHARING", 1)
    asked = questions((20, 25, 22, 31, 27), prefix=19)
    model = bridge(family)
    plain = score_choices(model, asked, progress=False)
    with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", mean_dependent) for layer in range(3)]):
        found = score_choices(model, asked, progress=False)
        expected = np.full_like(found["loglikelihood"], np.nan)
        for i, question in enumerate(asked):
            for k, choice in enumerate(question.choices):
                row = torch.tensor([[*question.prompt, *choice[:-1]]])
                logits = model(row)[0, len(question.prompt) - 1 :].log_softmax(-1)
                expected[i, k] = float(logits[range(len(choice)), list(choice)].sum())
    np.testing.assert_allclose(found["loglikelihood"], expected, rtol=1e-6)
    assert np.nanmax(np.abs(found["loglikelihood"] - plain["loglikelihood"])) > 0.01
    assert found.attrs["hooks_active"] == 1 and plain.attrs["hooks_active"] == 0


@needs_hooked
@HOOKED
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_hookedtransformer_scores_as_the_bridge(family):
    found, expected = (score_choices(m, questions(), progress=False) for m in (hooked_model(family), bridge(family)))
    np.testing.assert_allclose(found["loglikelihood"], expected["loglikelihood"], rtol=1e-5)


@pytest.fixture(scope="module")
def expected():
    return score_choices(bridge("llama"), questions(), progress=False)["loglikelihood"].values


@given(st.integers(1, 7), st.randoms())
@settings(max_examples=5)
def test_neither_batches_nor_order_matter(expected, batch_size, rng):
    model, asked = bridge("llama"), questions()
    order = list(range(len(asked)))
    rng.shuffle(order)
    found = score_choices(model, [asked[i] for i in order], batch_size=batch_size, progress=False)
    width = found.sizes["choice"]
    np.testing.assert_allclose(found["loglikelihood"], expected[order][:, :width], rtol=1e-6)


def test_choices_of_one_token_share_one_row(monkeypatch):
    rows = []
    own = local._measure
    monkeypatch.setattr(local, "_measure", lambda *rest: rows.extend(rest[-1]) or own(*rest))
    score_choices(bridge("llama"), [Question((5, 6, 7), ((1,), (2,), (3,), (4,)), 0)], progress=False)
    assert len(rows) == 1


@pytest.mark.parametrize(("normalise", "best"), [("none", 0), ("characters", 2), ("bytes", 1), ("tokens", 3)])
def test_log_likelihoods_are_divided_by_the_length_asked_for(normalise, best):
    asked = [Question("p", (" a", " ééé", " bbbb", " c d"), 0)]
    from workbench.evaluation.questions import Encoded

    encoded = [Encoded((1,), ((2,), (2, 3), (2,), (2,) * 8))]
    values = np.array([[-1.0, -2.1, -3.0, -4.8]])
    found = local._dataset(values, asked, encoded, normalise)
    by_hand = {
        "none": [-1, -2.1, -3, -4.8],
        "characters": [-1, -0.7, -0.75, -1.6],
        "bytes": [-1, -0.35, -0.75, -1.6],
        "tokens": [-1, -1.05, -3, -0.6],
    }[normalise]
    assert int(found["chosen"][0]) == int(np.argmax(by_hand))
    assert float(found["margin"][0]) == pytest.approx(by_hand[0] - max(by_hand[1:]))


def test_accuracy_comes_with_its_interval_and_chance(tmp_path):
    found = score_choices(bridge("llama"), questions(), progress=False)
    correct = found["correct"].values
    assert found.attrs["accuracy"] == correct.mean()
    assert found.attrs["accuracy_low"] <= found.attrs["accuracy"] <= found.attrs["accuracy_high"]
    assert found.attrs["chance"] == pytest.approx(np.mean([1 / 2, 1 / 3, 1 / 2, 1 / 3, 1 / 2]))
    assert list(found["id"].values) == list("01234")
    save_result(found, tmp_path / "x.nc")
    assert open_result(tmp_path / "x.nc").equals(found)


def test_the_interval_is_wilsons():
    n, k, z = 40, 31, 1.959963984540054
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    np.testing.assert_allclose(interval([True] * k + [False] * (n - k)), (k / n, centre - half, centre + half))
    assert interval([True] * 5)[2] == 1.0


@pytest.mark.parametrize(
    ("asked", "given", "says"),
    [
        ([], {}, "No questions: the list is empty"),
        (
            [Question((1, 2), id="9", task="gsm8k")],
            {},
            "Question '9' of gsm8k has no choices: its reply must be generated",
        ),
        (questions(), {"normalise": "letters"}, "normalise='letters' is unknown"),
        (questions(), {"normalise": "bytes"}, "normalise='bytes' needs choices as text"),
        ([Question((1,) * 140, ((1,), (2,)), 0, "7")], {}, "has 140 tokens, but the model's context holds 128"),
    ],
)
def test_what_cannot_be_scored_is_refused(asked, given, says):
    with pytest.raises(InputError) as raised:
        score_choices(bridge("llama"), asked, progress=False, **given)
    assert says in str(raised.value)


def test_a_broken_stream_is_told():
    model = bridge("llama")
    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: x * torch.nan)]),
        pytest.raises(InputError, match="NaN or infinite"),
    ):
        score_choices(model, questions(), progress=False)
