import json

import numpy as np
import pytest
import torch
import transformers
import xarray as xr

from tests.organisms.test_train import AMOUNTS, TINY
from tests.tiny import bridge, sequences, tiny
from tests.words import word_tokenizer
from workbench.errors import InputError
from workbench.extreme import dynamics
from workbench.extreme.detect import extreme_tokens
from workbench.extreme.dynamics import (
    follow_tokens,
    local_checkpoints,
    training_dynamics,
)
from workbench.models.load import load
from workbench.organisms.corpus import build_streams, save_streams
from workbench.organisms.tokenizer import load_tokenizer
from workbench.organisms.train import checkpoints_folder, spaced_steps, train_organism
from workbench.runs.results import open_result

TEXTS = sequences([9, 12, 10])


def saved(folder, seed):
    tiny("llama", torch.float32, seed).save_pretrained(folder)
    return str(folder)


def dynamics_of(checkpoints, **keywords):
    return training_dynamics(checkpoints, TEXTS, progress=False, device="cpu", **keywords)


def test_each_step_is_measured_on_its_own_model(tmp_path):
    checkpoints = {100: saved(tmp_path / "b", 2), 0: lambda: tiny("llama", torch.float32, 1)}
    found = dynamics_of(checkpoints)
    assert list(found["step"].values) == [0, 100]
    for step, seed in ((0, 1), (100, 2)):
        alone = follow_tokens(load(tiny("llama", torch.float32, seed)), TEXTS)
        for name in alone.data_vars:
            np.testing.assert_allclose(found[name].sel(step=step), alone[name], rtol=1e-5, err_msg=str(name))
    assert len(set(found["weights"].values)) == 2


def test_followed_tokens_are_means_of_what_extreme_tokens_measures():
    model = bridge("qwen2")
    raw = extreme_tokens(model, TEXTS, progress=False)
    found = follow_tokens(model, TEXTS, tokens={"first": 0, "third": [2, -1, 3]})
    assert list(found["token"].values) == ["first", "third", "other"]
    for name, source in (("sink_weight", "sink_weight"), ("value_norm", "head_value_norm")):
        values = raw[source].values
        np.testing.assert_allclose(found[name].sel(token="first"), values[..., 0].mean(0), rtol=1e-6)
        third = (values[0, ..., 2] + values[2, ..., 3]) / 2
        np.testing.assert_allclose(found[name].sel(token="third"), third, rtol=1e-6)
    norm = raw["residual_norm"].values
    others = [
        np.delete(norm[i, :, : len(tokens)], [0, *where], axis=1).mean(1)
        for i, (tokens, where) in enumerate(zip(TEXTS, ([2], [], [3]), strict=True))
    ]
    np.testing.assert_allclose(found["residual_norm"].sel(token="other"), np.mean(others, 0), rtol=1e-6)


def test_the_first_delimiter_of_each_text_is_followed():
    model = load(tiny("llama", torch.float32), tokenizer=word_tokenizer())
    words = [model.tokenizer.decode([i]) for i in range(97)]
    end = model.tokenizer.decode([9])
    where = dynamics._default_tokens(model, [[9, 5, 9, 9], [5, 6, 9], [9, 5]], [end.strip(" ")])
    assert len(set(words)) > 10
    assert where == {"first": [0, 0, 0], "delimiter": [2, 2, -1]}
    assert list(follow_tokens(model, TEXTS, delimiters=["no such word"])["token"].values) == ["first", "other"]


def test_a_stopped_run_goes_on_and_a_finished_one_is_read(tmp_path):
    sources = {step: saved(tmp_path / f"step{step}", step) for step in (0, 1, 2)}
    measured = []

    def measure(model, texts):
        if len(measured) == 2:
            measured.append("stop")
            raise RuntimeError("stopped")
        measured.append(model.workbench_name)
        return xr.Dataset({"n": ((), len(texts))})

    file = tmp_path / "dynamics.nc"
    with pytest.raises(RuntimeError, match="stopped"):
        dynamics_of(sources, measure=measure, resume=file)
    found = dynamics_of(sources, measure=measure, resume=file)
    assert measured == ["step0", "step1", "stop", "step2"]
    again = dynamics_of(sources, measure=measure, resume=file)
    assert len(measured) == 4 and again.equals(found) and open_result(file).equals(found)
    with pytest.raises(InputError, match="another configuration"):
        dynamics_of({0: sources[0]}, measure=measure, resume=file)


def test_only_one_model_is_in_memory_at_a_time():
    import gc
    import weakref

    alive = weakref.WeakSet()

    def checkpoint(seed):
        def make():
            gc.collect()
            assert len(alive) == 0
            model = tiny("llama", torch.float32, seed)
            alive.add(model)
            return model

        return make

    dynamics_of({step: checkpoint(step) for step in range(3)}, measure=lambda model, texts: xr.Dataset({"n": ((), 1)}))


def test_checkpoints_of_different_models_are_refused():
    other = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    )
    with pytest.raises(InputError, match="Steps 0 and 1 do not belong together: 'sink_weight' has the shapes"):
        dynamics_of({0: tiny("llama", torch.float32), 1: other.eval()})


@pytest.mark.parametrize(
    "tokens", [{"a": [0, 1]}, {"a": [0, 1, 99]}, {"other": 0}], ids=["too few", "behind the end", "reserved"]
)
def test_positions_that_do_not_fit_the_texts_are_refused(tokens):
    with pytest.raises(InputError, match="needs a name other than 'other' and one position for each of the 3 texts"):
        follow_tokens(bridge("llama"), TEXTS, tokens=tokens)


def test_no_checkpoints_are_refused():
    with pytest.raises(InputError, match="No checkpoints: give a dictionary"):
        dynamics_of({})


def test_organisms_keep_weights_at_chosen_steps_and_their_dynamics_can_be_drawn(tmp_path):
    streams = tmp_path / "streams.npz"
    save_streams(build_streams(load_tokenizer(), None, AMOUNTS), streams)
    out = tmp_path / "run"
    given = {"seed": 1, "recipe": TINY, "data": streams, "device": "cpu", "steps": 3}
    train_organism(2, out, keep=[0, 2, 3, 99], **given)
    checkpoints = local_checkpoints(checkpoints_folder(out))
    assert list(checkpoints) == [0, 2, 3]
    last, final = (load(where, device="cpu") for where in (checkpoints[3], str(out)))
    for (name, kept), (_, value) in zip(last.named_parameters(), final.named_parameters(), strict=True):
        assert torch.equal(kept, value), name
    found = training_dynamics(checkpoints, ["The cat is. It was red.", "A dog. The end"], progress=False, device="cpu")
    assert found.sizes["step"] == 3 and list(found["token"].values) == ["first", "delimiter", "other"]
    assert float(found["loss"][0]) == pytest.approx(np.log(last.cfg.d_vocab), rel=0.1)
    assert json.loads((checkpoints_folder(out) / "step2" / "record.json").read_text())["recipe"]["step"] == 2
    assert train_organism(2, out, keep=[2], **given) == out
    with pytest.raises(InputError, match="its weights at step 1 were not kept"):
        train_organism(2, out, keep=[1], **given)


def test_spaced_steps_begin_at_zero_and_end_with_the_run():
    steps = spaced_steps(4000, 12)
    assert steps[:3] == [0, 1, 2] and steps[-1] == 4000 and len(steps) <= 12
    ratios = np.diff(np.log(steps[5:]))
    np.testing.assert_allclose(ratios, ratios[-1], atol=0.05)
