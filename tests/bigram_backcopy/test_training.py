import numpy as np
import pytest
import torch
import torch.nn.functional as F

from workbench.bigram_backcopy import DivergedError, Task, Toy, architecture, experiment, train
from workbench.bigram_backcopy.training import EVALUATION_SEED, RATES
from workbench.errors import InputError

TASK = Task()
TINY = {"steps": 6, "batch": 4, "length": 12, "evaluate": 8, "progress": False, "measured_at": (0, 3)}


def tiny(**changes):
    shape = architecture("1xTF", d_model=16, n_ctx=12)
    return train(TASK, shape, **(TINY | changes))


def slow_training(seed, optimizer, steps=6):
    """A plain loop over the hooked model, on the same stream of sequences."""
    model = Toy(architecture("1xTF", d_model=16, n_ctx=12), TASK.d_vocab, seed)
    if optimizer == "adamw":
        chosen = torch.optim.AdamW(model.parameters(), lr=RATES[optimizer], betas=(0.9, 0.99), weight_decay=1e-4)
    else:
        chosen = torch.optim.SGD(model.parameters(), lr=RATES[optimizer], momentum=0.9, weight_decay=1e-4)
    for step in range(steps):
        generator = torch.Generator().manual_seed((seed << 32) + step)
        tokens = TASK.walk(torch.rand(TASK.draws(13), 4, generator=generator))
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        chosen.zero_grad()
        loss.backward()
        chosen.step()
    return model


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_seeds_in_one_run_equal_plain_loops_one_by_one(optimizer):
    trained = tiny(seeds=(0, 5), optimizer=optimizer)
    for model, seed in zip(trained.models, (0, 5), strict=True):
        for (name, ours), theirs in zip(
            model.named_parameters(), slow_training(seed, optimizer).parameters(), strict=True
        ):
            assert torch.allclose(ours, theirs, atol=2e-5), name


def test_training_is_deterministic():
    one, two = tiny(seeds=(3,)), tiny(seeds=(3,))
    assert all(torch.equal(a, b) for a, b in zip(one.models[0].parameters(), two.models[0].parameters(), strict=True))


def test_a_stopped_run_goes_on_to_the_same_end(tmp_path):
    whole = tiny(seeds=(0, 1))
    tiny(seeds=(0, 1), steps=3, resume=tmp_path / "run.safetensors")
    rest = tiny(seeds=(0, 1), resume=tmp_path / "run.safetensors")
    for one, two in zip(whole.models, rest.models, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert rest.record["step"].values.tolist() == [0, 3, 6]
    assert whole.record["sink"].equals(rest.record["sink"])


def test_the_state_of_another_run_is_refused(tmp_path):
    tiny(resume=tmp_path / "run")
    with pytest.raises(InputError, match=r"another configuration \(lr: 0.003 there, 0.1 now\)"):
        tiny(resume=tmp_path / "run", lr=0.1)
    with pytest.raises(InputError, match="has already reached step 6"):
        tiny(resume=tmp_path / "run", steps=5)
    (tmp_path / "run").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="holds no state of a training run"):
        tiny(resume=tmp_path / "run")


def test_divergence_stops_with_the_record_and_the_step():
    with pytest.raises(DivergedError, match="Training diverged at step") as caught:
        tiny(optimizer="sgd", lr=1e6, steps=40)
    record = caught.value.record
    assert record["step"].values.tolist() == [0, 3] or record["step"].values.tolist() == [0]
    assert 0 < record.attrs["diverged_at"] < 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "There is no optimizer 'adam'"),
        ({"precision": "float16"}, "precision='float16'"),
        ({"length": 1}, "holds nothing to predict|do not fit"),
        ({"length": 20}, "Sequences of 20 positions do not fit an architecture with 12"),
        ({"seeds": ()}, "give at least one, and each once"),
        ({"seeds": (1, 1)}, "give at least one, and each once"),
        ({"steps": 0}, "each must be at least 1"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        tiny(**changes)


def test_length_one_is_refused_with_its_reason():
    with pytest.raises(InputError, match="holds nothing to predict"):
        train(TASK, "1xTF", length=1, steps=1, progress=False)


def test_the_record_names_its_axes_and_how_it_was_made():
    record = tiny(seeds=(0, 1), precision="bfloat16").record
    assert dict(record.sizes) == {"step": 3, "seed": 2, "layer": 1, "head": 1, "token": TASK.d_vocab}
    assert record["attention_to"].dims == ("seed", "layer", "head", "token")
    assert record.attrs["optimizer"] == "adamw"
    assert record.attrs["steps"] == 6


def test_experiments_know_the_papers_settings():
    assert experiment("one-layer").structure == "1xTF"
    with pytest.raises(InputError, match="did you mean 'three-layer"):
        experiment("three-layers")
    trained = experiment("skip").run("small", seeds=(0,), steps=2, batch=2, evaluate=4, progress=False)
    assert trained.task.kind == "skip"


def test_a_sink_is_born():
    """Setting S of half the width, against the bounds of a short run: copy, sink, drain, ablation."""
    trained = train(
        TASK,
        architecture("1xTF", d_model=48, n_ctx=32),
        length=32,
        steps=800,
        seeds=(0,),
        measured_at=(0, 800),
        progress=False,
    )
    last = trained.record.isel(step=-1, seed=0, layer=0, head=0)
    assert float(last["backcopy"]) < 0.1
    assert float(last["bigram_excess"]) < 0.08
    assert float(last["sink"]) > 0.3
    assert float(last["sink"]) > 10 * float(last["sink_at_trigger"])
    assert float(last["previous"]) > 0.8
    assert float(last["value_bos"]) < 0.6 * float(last["value_others"])
    assert float(last["sink_logit"]) > 2
    tokens = TASK.sample(64, 32, seed=EVALUATION_SEED)
    assert np.isfinite(float(last["sink_logit_high"]))
    with torch.no_grad():
        model = trained.models[0]
        model.blocks[0].attn.W_O.zero_()
        assert TASK.losses(model(tokens), tokens)["backcopy"] > 3
