import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.optim import AdamW

from tests.interrupts import killed_before_update, spoiled, watched
from tests.tuning.chat import chat_model, dialogues
from tests.tuning.disk import full_disk
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.original import unwrapped
from workbench.runs.processes import Processes
from workbench.runs.state import StateFile
from workbench.tuning.pinpoint import pinpoint_tune
from workbench.tuning.recipe import TuningRecipe
from workbench.tuning.slices import slices_of
from workbench.tuning.tokens import rows_of
from workbench.tuning.units import units_of

UNITS = [(0, 1), (2, 3)]
QUICK = {"steps": 6, "batch": 4, "micro_batch": 2, "learning_rate": 1e-2}


def tune(model=None, **options):
    recipe = TuningRecipe(**QUICK | options.pop("recipe", {}))
    arguments = {"validation": dialogues(3), "every": 2, "progress": False} | options
    return pinpoint_tune(model or chat_model(), dialogues(), UNITS, recipe=recipe, **arguments)


def by_hand(model, recipe):
    """The same training with whole matrices and masked gradients, row by row, without weight decay."""
    rows, parts = rows_of(model, dialogues()), anatomy(model)
    with unwrapped(model) as hf:
        slices = slices_of(hf, parts, units_of(parts, UNITS))
        weights = {part.module: hf.get_submodule(part.module).weight for part in slices.parts}
        masks = {}
        for part in slices.parts:
            masks[part.module] = torch.zeros_like(weights[part.module])
            (masks[part.module] if part.side == "out" else masks[part.module].T)[list(part.index)] = 1
        optimizer = torch.optim.AdamW([w.requires_grad_(True) for w in weights.values()], weight_decay=0.0)
        losses = []
        for step, chosen in enumerate(recipe.order(len(rows)).tolist()):
            with torch.enable_grad():
                parts_of_loss, labels = [], 0
                for i in chosen:
                    ids = torch.tensor([rows[i].tokens])
                    logits = hf(input_ids=ids).logits[0, rows[i].start - 1 : -1]
                    parts_of_loss.append(functional.cross_entropy(logits, ids[0, rows[i].start :], reduction="sum"))
                    labels += rows[i].labels
                loss = sum(parts_of_loss) / labels
                loss.backward()
            for name, weight in weights.items():
                weight.grad *= masks[name]
            torch.nn.utils.clip_grad_norm_(weights.values(), recipe.clip)
            optimizer.param_groups[0]["lr"] = recipe.rate(step)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def test_training_equals_that_of_whole_matrices_with_masked_gradients():
    recipe = TuningRecipe(**QUICK | {"weight_decay": 0.0})
    record = tune(recipe={"weight_decay": 0.0}).record
    np.testing.assert_allclose(record["loss"].values, by_hand(chat_model(), recipe), rtol=1e-6)


def test_how_a_batch_is_cut_changes_nothing():
    one, other = tune(recipe={"micro_batch": 1}).record, tune(recipe={"micro_batch": 4}).record
    np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-9)
    np.testing.assert_allclose(one["gradient_norm"], other["gradient_norm"], rtol=1e-9)


def test_a_seed_decides_the_curve():
    first, again, other = tune().record, tune().record, tune(recipe={"seed": 1}).record
    assert first["loss"].equals(again["loss"])
    assert not first["loss"].equals(other["loss"])


def test_losses_fall_and_validation_is_measured_where_asked():
    record = tune(recipe={"steps": 20, "learning_rate": 3e-2}).record
    assert float(record["loss"][19]) < 0.8 * float(record["loss"][0])
    measured = record["step"].values[~np.isnan(record["validation"].values)]
    assert measured.tolist() == list(range(0, 21, 2))
    assert float(record["validation"][-1]) < float(record["validation"][0])
    for name in ("loss", "learning_rate", "gradient_norm"):
        assert record[name].sizes == {"update": 20}
        assert np.isfinite(record[name]).all(), name


def test_the_rate_falls_from_the_first_to_the_last():
    recipe = TuningRecipe(steps=10)
    assert recipe.rate(0) == 3e-5 and recipe.rate(10) == 1e-7
    assert recipe.rate(5) == pytest.approx((3e-5 + 1e-7) / 2)


@pytest.mark.parametrize("options", ({}, {"recipe": {"leak": True}}), ids=("plain", "leak"))
def test_a_killed_run_goes_on_with_the_same_curve(options, tmp_path):
    whole = tune(**options)
    with killed_before_update(5):
        tune(resume=tmp_path / "run", **options)
    with watched(AdamW, "step") as updates:
        resumed = tune(resume=tmp_path / "run", **options)
    assert len(updates) == 2  # updates 4 and 5; the state was kept after update 4
    for name in whole.record:
        assert np.array_equal(whole.record[name], resumed.record[name], equal_nan=True), name
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_finished_run_is_not_run_again(tmp_path):
    first = tune(resume=tmp_path / "run")
    with watched(AdamW, "step") as updates:
        again = tune(resume=tmp_path / "run")
    assert not updates
    assert first.record["loss"].equals(again.record["loss"])


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"recipe": {"learning_rate": 2e-2}}, "learning_rate: 0.01 there, 0.02 now"), ({"kv": True}, "kv: false there")],
)
def test_another_configuration_is_not_resumed(changed, named, tmp_path):
    tune(resume=tmp_path / "run")
    with pytest.raises(InputError, match=named):
        tune(resume=tmp_path / "run", **changed)


def test_a_file_of_something_else_is_not_resumed(tmp_path):
    (tmp_path / "run").write_text("no state")
    with pytest.raises(InputError, match="holds no state of a tuning run"):
        tune(resume=tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    with (
        watched(Processes, "backward", 6, spoiled),
        pytest.raises(InputError, match=r"stopped at update 3: loss nan.*after 3 updates, is in"),
    ):
        tune(resume=tmp_path / "run")
    assert tune(resume=tmp_path / "run").record["loss"].equals(tune().record["loss"])


def test_a_full_disk_leaves_the_older_state_whole(tmp_path, monkeypatch):
    keep, kept = StateFile.keep, []

    def filling(*arguments):
        if kept:
            with full_disk():
                keep(*arguments)
        kept.append(keep(*arguments))

    monkeypatch.setattr(StateFile, "keep", filling)
    with pytest.raises(InputError, match=r"File too large.*what stood there before is unchanged"):
        tune(resume=tmp_path / "run")
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    monkeypatch.setattr(StateFile, "keep", keep)
    assert tune(resume=tmp_path / "run").record["loss"].equals(tune().record["loss"])


def test_leaking_decay_shrinks_what_is_frozen_and_nothing_else_does():
    recipe = TuningRecipe(**QUICK)
    plain, leaky = chat_model(), tune(recipe={"leak": True}).model
    shrunk = np.prod([1 - recipe.rate(step) * recipe.weight_decay for step in range(recipe.steps)])
    with unwrapped(plain) as before, unwrapped(leaky) as after:
        first, other = (hf.model.layers[0].self_attn.q_proj.weight for hf in (before, after))
        torch.testing.assert_close(other[:8], first[:8] * shrunk)
        first, other = (hf.model.layers[1].self_attn.q_proj.weight for hf in (before, after))
        assert torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "must be at least 1"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"end_rate": 1.0}, "between 0 and it"),
        ({"weight_decay": -0.1}, "must not be negative"),
        ({"loss_on": "replies"}, "did you mean 'reply'"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        TuningRecipe(**options)
