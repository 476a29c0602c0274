import numpy as np
import pytest
import xarray as xr

from workbench.bigram_backcopy import EXPERIMENTS, dynamics, measured, published
from workbench.bigram_backcopy import records as shelf
from workbench.bigram_backcopy.events import copying_layer
from workbench.bigram_backcopy.records import collect, gather
from workbench.errors import InputError
from workbench.runs.results import open_result


def made_up():
    """Two layers of which the second copies; every event at a known step."""
    steps = [0, 10, 20, 30, 40]
    axes = ("step", "seed", "layer", "head")

    def heads(values):
        return axes, np.stack([np.zeros(5), np.asarray(values, float)], -1)[:, None, :, None]

    return xr.Dataset(
        {
            "backcopy": (("step", "seed"), np.array([[4.0], [2.0], [0.5], [0.05], [0.01]])),
            "bigram_excess": (("step", "seed"), np.array([[2.0], [0.05], [0.04], [0.03], [0.02]])),
            "sink": heads([0, 0, 0.4, 0.6, 0.9]),
            "previous": heads([0, 0, 0.4, 0.6, 0.9]),
            "value_bos": heads([5, 9, 6, 4, 1]),
            "sink_logit": heads([0, 1, 2, 4, 8]),
            "residual_bos": (("step", "seed", "layer"), np.array([[[s, 0]] for s in (3, 4, 10, 20, 30)], float)),
        },
        coords={"step": steps, "seed": [0], "layer": [0, 1], "head": [0]},
    )


def test_events_are_the_first_steps_beyond_their_bounds():
    found = dynamics(made_up())
    when = {str(e): float(found["event_step"].sel(event=e, seed=0)) for e in found["event"].values}
    assert when == {
        "bigram learned": 10,
        "copying learned": 30,
        "sink formed": 30,
        "value norm at its peak": 10,
        "value norm half drained": 30,
    }
    assert found["copying_layer"].values.tolist() == [1]
    assert np.isclose(found["residual_slope"].sel(seed=0), 1.0)
    assert np.allclose(found["normalised"].max("step"), 1)


def test_an_event_that_did_not_happen_has_no_step():
    record = made_up().isel(step=[0, 1])
    assert np.isnan(dynamics(record)["event_step"].sel(event="sink formed", seed=0))


def test_a_record_with_one_step_is_refused():
    with pytest.raises(InputError, match="no training record with several steps"):
        dynamics(made_up().isel(step=[0]))


def test_the_shelf_holds_every_experiment_as_it_was_measured():
    for name in EXPERIMENTS:
        one = measured(name)
        assert one.record.sizes["seed"] == 3
        assert not one.record["bigram"].isnull().any()
        assert one.interventions["intervention"].values[0] == "none"
        assert one.record.attrs["steps"] == int(one.record["step"][-1])
    assert measured("one-layer-long", "paper").record["step"].values[-1] == 100_000
    assert measured("no-bos").line is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("bietti", "paper"), "does not come measured at 'paper' size"), (("one-layer", "huge"), "scale='huge'")],
)
def test_what_was_not_measured_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        measured(*arguments)


def test_gathering_gives_back_what_was_gathered():
    one = measured("three-layer-sgd")
    together = gather({"a": measured("one-layer"), "b": one}).sel(experiment="b")
    kept = together["residual_bos"].dropna("step", how="all")
    assert np.array_equal(kept.values, one.record["residual_bos"].values)


SOFTMAX = [n for n, e in EXPERIMENTS.items() if e.attention == "softmax" and e.optimizer == "adamw"]


@pytest.mark.parametrize("name", [n for n in SOFTMAX if n not in ("markov", "attention-only", "no-bos", "bietti")])
def test_sinks_and_drains_in_the_measured_runs(name):
    record = measured(name).record.isel(step=-1)
    layer = copying_layer(record)
    at = {k: record[k].isel(layer=layer, head=0).values for k in ("sink", "value_bos", "value_others", "previous")}
    assert (at["previous"] > 0.85).all()
    assert np.median(at["sink"]) > 0.6
    assert (at["value_bos"] < 0.4 * at["value_others"]).all()


def test_collecting_writes_each_experiment_and_skips_what_it_holds(tmp_path, monkeypatch):
    brief = {"steps": 4, "batch": 2, "evaluate": 4, "seeds": (0,), "progress": False}
    monkeypatch.setitem(shelf.VARIATIONS, "small", {"a": ("one-layer", brief), "b": ("two-layer", brief)})
    file = tmp_path / "shelf.nc"
    assert list(collect(file, "small", ["a"])) == ["a"]
    before = shelf._one(open_result(file), "a")
    monkeypatch.setitem(shelf.VARIATIONS["small"], "a", ("one-layer", brief | {"lr": 1e9}))
    assert list(collect(file, "small", ["a", "b"])) == ["a", "b"]
    after = open_result(file)
    assert after["experiment"].values.tolist() == ["a", "b"]
    assert before.record["backcopy"].equals(shelf._one(after, "a").record["backcopy"])
    assert [path.name for path in tmp_path.iterdir()] == ["shelf.nc"]
    with pytest.raises(InputError, match="There is no experiment 'c'"):
        collect(file, "small", ["c"])


def test_from_the_authors_weights_the_sink_is_as_large_as_published():
    """The same seeds elsewhere, the same measure: only the first weights differ (0.38 to 0.66 from ours)."""
    record = measured("one-layer-authors", "paper").record.isel(seed=0, layer=0, head=0)
    for step, told in zip(published.ONE_LAYER["step"], published.ONE_LAYER["sink"], strict=True):
        if 500 <= step <= 10_000:
            assert float(record["sink"].sel(step=step)) == pytest.approx(told, abs=0.04)
    last = measured("attention-layer-mlp-authors", "paper").record.isel(step=-1, layer=0)
    gap = float((last["residual_bos"] - last["residual_others"]).squeeze())
    assert gap == pytest.approx(published.STRUCTURES["attention-layer-mlp"], abs=0.6)
    other = measured("attention-layer-mlp", "paper").record.isel(step=-1, layer=0)
    assert float((other["residual_bos"] - other["residual_others"]).squeeze()) > 50


def test_from_the_published_weights_what_grows_late_does_not_hang_on_the_products_precision():
    """A finding that has no explanation yet: sink logit and norms leave the published curve, whatever the products."""
    ends = [
        measured(name, "paper").record.sel(step=10_000).isel(seed=0, layer=0, head=0)
        for name in ("one-layer-authors", "one-layer-authors-tf32")
    ]
    place = published.ONE_LAYER["step"].index(10_000)
    for name in ("sink_logit", "value_bos", "residual_bos"):
        rounded, finer = (float(end[name]) for end in ends)
        assert rounded == pytest.approx(finer, rel=0.1) and rounded > 1.9 * published.ONE_LAYER[name][place]


def test_sgd_with_three_layers_keeps_to_the_published_norms_from_the_published_weights():
    record = measured("three-layer-sgd-authors", "paper").record.isel(seed=0, layer=0)
    norms = record["residual_bos"].sel(step=list(published.RESIDUAL["step"])).values
    np.testing.assert_allclose(norms, published.RESIDUAL["three-layer-sgd"], rtol=0.03)


def test_every_seed_of_the_longer_runs_passes_in_the_end():
    record = measured("mlp-layer-mlp-longer").record
    ratio = (record["residual_bos"] / record["residual_others"]).isel(layer=0)
    assert (ratio.sel(step=slice(2800, None)) > 2).all()
    assert (measured("synthetic-longer").record["sink"].isel(step=-1) > 0.9).all()
