"""What changes dormancy, on scores and models in which the change was planted."""

import numpy as np
import pytest
import torch
import xarray as xr

import workbench as wb
from tests.inactive_heads.test_cutoffs import drawn
from tests.tiny import bridge, sequences, tiny
from workbench.errors import InputError
from workbench.inactive_heads import by_domain, distances, frequency, head_scores, over_training, overlap, transfer


def quiet(share, head=(1, 2)):
    """A model in which one head's output is scaled."""
    model = tiny("llama")
    layer, one = head
    model.model.layers[layer].self_attn.v_proj.weight.data[8 * (one // 2) : 8 * (one // 2) + 8] *= share
    return wb.load(model)


def test_frequency_counts_sequences():
    scores = drawn(10)
    found = frequency(scores, 0.3)
    below = scores.sel(score="AHON").values < 0.3
    np.testing.assert_allclose(found.sel(score="AHON"), below.mean(0))
    np.testing.assert_allclose(found.sel(score="AWFT"), (scores.sel(score="AWFT").values > 0.3).mean(0))


def deaf(low):
    """A model whose first two heads of layer 0 hear nothing of the tokens below `low`."""
    model = tiny("llama")
    embedding = model.model.embed_tokens.weight.data
    embedding *= 0.1
    embedding[:low, 0] += 5
    embedding[low:, 1] += 5
    model.model.layers[0].self_attn.v_proj.weight.data[:8, 0] = 0
    return wb.load(model)


def test_kinds_of_text_that_differ_are_told_from_kinds_that_do_not():
    generator = torch.Generator().manual_seed(0)
    low, same = (torch.randint(3, 50, (12, 8), generator=generator).tolist() for _ in range(2))
    high = torch.randint(50, 97, (12, 8), generator=generator).tolist()
    model = deaf(50)
    found = by_domain(model, {"low": low, "high": high, "same": same}, share=0.11, progress=False)
    assert found["pair"].values.tolist() == ["low − high", "low − same", "high − same"]
    scores = head_scores(model, low + high + same, "AHON_LN", progress=False)
    mask = scores.isel(score=0).values < found.attrs["tau"]
    assert mask.mean() == pytest.approx(0.11, abs=0.01)
    np.testing.assert_allclose(found["frequency"].sel(domain="high"), mask[12:24].mean(0))
    np.testing.assert_allclose(found["difference"].isel(pair=0), mask[:12].mean(0) - mask[12:24].mean(0))
    differs = found["p_corrected"] < 0.05
    assert differs.sel(pair="low − high").values.nonzero()[0].tolist() == [0, 0]
    assert differs.sel(pair="low − high").values.nonzero()[1].tolist() == [0, 1]
    assert not differs.sel(pair="low − same").any()
    assert float(found["floor"].sel(domain="low", layer=0, head=0)) < 1e-12


def test_texts_are_cut_to_one_length():
    found = by_domain(bridge("llama"), {"a": sequences((9,) * 4), "b": sequences((7, 8, 9, 9))}, progress=False)
    assert found.attrs["length"] == 7


def test_heads_are_born_and_die_over_training():
    texts = sequences((8,) * 6)
    checkpoints = {0: quiet(1.0), 20: quiet(0.02, head=(2, 1)), 10: lambda: quiet(0.01)}
    found = over_training(checkpoints, texts, "AHON_LN", tau=0.3)
    dormant = found["dormant"].values
    group = np.zeros((3, 4), bool)
    group[1, 2:] = True
    other = np.zeros((3, 4), bool)
    other[2, :2] = True
    np.testing.assert_array_equal(dormant[1] & ~dormant[0], group)
    np.testing.assert_array_equal(dormant[2] & ~dormant[0], other)
    assert found["births"].values.tolist()[1:] == [2, 2] and found["deaths"].values.tolist() == [0, 0, 2]
    np.testing.assert_array_equal(found["switches"], 2 * group + other)
    assert float(found["persistence"].isel(step=-1)) == 1
    np.testing.assert_allclose(found["share_inactive"], found["frequency"].mean(["layer", "head"]))
    last = head_scores(quiet(0.02, head=(2, 1)), texts, "AHON_LN", progress=False)
    first = head_scores(quiet(1.0), texts, "AHON_LN", progress=False)
    wanted = distances({"first": first, "last": last})["distance"].sel(first="first", second="last").item()
    assert found["distance"].values[[0, -1]] == pytest.approx([wanted, 0])
    with pytest.raises(InputError, match=r"two checkpoints or more; got steps \[5\]"):
        over_training({5: quiet(1.0)}, texts)


def test_a_training_that_was_stopped_goes_on(tmp_path):
    texts, loaded = sequences((8,) * 6), []

    def checkpoint(step, fails=False):
        def load():
            loaded.append(step)
            if fails:
                raise KeyboardInterrupt
            return quiet(0.5 + step / 40)

        return load

    options = {"resume": tmp_path / "lives.nc", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        over_training({0: checkpoint(0), 10: checkpoint(10, fails=True)}, texts, **options)
    found = over_training({0: checkpoint(0), 10: checkpoint(10)}, texts, **options)
    assert loaded == [0, 10, 10]
    again = over_training({0: checkpoint(0), 10: checkpoint(10)}, texts, **options)
    assert loaded == [0, 10, 10]
    xr.testing.assert_equal(found, again)
    with pytest.raises(InputError, match="another"):
        over_training({0: checkpoint(0), 10: checkpoint(10)}, texts, "AWFT", **options)


def test_distances_are_those_of_the_pooled_scores():
    a, b = drawn(40), drawn(40, seed=1)
    found = distances({"a": a, "b": b, "moved": a + 1})
    np.testing.assert_allclose(found["distance"].sel(first="a", second="moved"), 1)
    np.testing.assert_allclose(found["distance"].sel(first="a", second="a"), 0)
    xr.testing.assert_equal(
        found["distance"], found["distance"].rename(first="second", second="first").transpose(*found["distance"].dims)
    )
    assert (found["distance"].sel(first="a", second="b") < 0.1).all() and (found["floor"] < 0.1).all()
    with pytest.raises(InputError, match="two groups of scores or more"):
        distances({"a": a})


def test_overlap_of_equal_opposite_and_unrelated_scores():
    first = drawn(60).sel(score=["AHON"])
    scores = xr.concat(
        [first, 1 - first, first, drawn(60, seed=3).sel(score=["AHON"])],
        dim="score",
        coords="minimal",
        compat="override",
    ).assign_coords(score=["a", "opposite", "same", "unrelated"], inactive=("score", ["below"] * 4))
    found = overlap(scores, 0.2)
    assert float(found["iou"].sel(score="a", other="same")) == 1
    assert float(found["iou"].sel(score="a", other="opposite")) == 0
    at = {"score": "a", "other": "unrelated"}
    assert float(found["iou"].sel(at)) == pytest.approx(float(found["chance"].sel(at)), abs=0.04)
    assert float(found["precision"].sel(at)) == pytest.approx(0.2, abs=0.06)


def test_a_threshold_is_applied_elsewhere():
    a, b = drawn(40), drawn(40) * 0.5
    found = transfer({"a": a, "b": b}, [0.2])
    np.testing.assert_allclose(found["selected"].sel(fit="a", applied="a"), 0.2, atol=0.01)
    wanted = (b.sel(score="AHON") < float(np.quantile(a.sel(score="AHON"), 0.2))).mean()
    np.testing.assert_allclose(found["selected"].sel(fit="a", applied="b", score="AHON"), wanted, atol=0.005)
    assert found["selected"].sel(fit="a", applied="b", score="AWFT").item() == 0


def test_too_few_texts_are_named():
    with pytest.raises(InputError, match=r"too few of: b \(2\)"):
        by_domain(bridge("llama"), {"a": sequences((5,) * 4), "b": sequences((5, 5))})
    with pytest.raises(InputError, match=r"given \['a'\]"):
        by_domain(bridge("llama"), {"a": sequences((5,) * 4)})
