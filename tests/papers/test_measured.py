import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

import workbench as wb
from tests.tiny import bridge, sequences
from workbench.errors import InputError
from workbench.evaluation import Question
from workbench.papers import measured as measuring
from workbench.papers.measured import PARTS, Measured, measure
from workbench.patching.path import unpatched
from workbench.prompts import MultipleChoice
from workbench.runs.results import save_result
from workbench.sycophancy.openers import NoBehaviourError

pytestmark = pytest.mark.filterwarnings("ignore::workbench.errors.WorkbenchWarning")


@pytest.fixture(scope="module")
def pairs():
    return wb.PromptPairs(sequences([7, 6, 8], 1, prefix=3), sequences([7, 7, 8], 2, prefix=3), (5, 9))


@pytest.fixture
def toy(monkeypatch, pairs):
    """A tiny random Llama and random prompts in place of a chat model and its dialogues."""
    questions = [Question(tuple(ids), ((5,), (9,)), i % 2, str(i)) for i, ids in enumerate(pairs.base)]
    monkeypatch.setattr(measuring._Subject, "pairs", pairs)
    monkeypatch.setattr(measuring._Subject, "asked", questions)
    return bridge("llama", torch.float32)


def test_every_part_is_what_the_public_functions_give(toy, pairs):
    found = measure(toy, n=3)
    assert set(found.parts) == set(PARTS)
    for part, unit in (("heads", "head"), ("groups", "kv_group")):
        expected = wb.path_patch(toy, pairs, unit=unit, progress=False)
        np.testing.assert_allclose(found.part(part)["contribution"], expected["contribution"], rtol=1e-5, atol=5e-6)
    exact = wb.activation_patch(toy, pairs, hook="z", unit="head", progress=False)
    np.testing.assert_allclose(found.exact["contribution"], exact["contribution"], atol=1e-9)
    assert found.estimate["contribution"].shape == found.exact["contribution"].shape
    assert (found.checks["status"] != "failed").sum() > 5


def test_attention_is_that_of_the_strongest_group_on_the_clearest_example(toy, pairs):
    found = measure(toy, n=3, parts=("groups", "attention", "dialogues"))
    values = found.groups["contribution"].sel(metric="logit_diff")
    best = values.argmin(["layer", "kv_group"])
    layer, group = int(best["layer"]), int(best["kv_group"])
    assert found.attention["layer"].item() == layer
    assert list(found.attention["head"].values) == [2 * group, 2 * group + 1]
    fall = (found.groups["base"] - found.groups["source"]).sel(metric="prob").values
    example = int(found.attention.attrs["example"])
    assert example == fall.argmax()
    tokens = torch.tensor([pairs.base[example]])
    _, cache = toy.run_with_cache(tokens)
    expected = cache[f"blocks.{layer}.attn.hook_pattern"][0, 2 * group : 2 * group + 2]
    np.testing.assert_allclose(found.attention["pattern"].values[0], expected.numpy(), atol=1e-6)
    assert list(found.attention["token"].values) == [str(t) for t in pairs.base[example]]
    assert found.dialogues["base_text"].values[0] == " ".join(map(str, pairs.base[0]))


def test_only_what_is_wanted_is_measured(toy):
    found = measure(toy, n=3, parts=("heads",))
    assert list(found.parts) == ["heads"]
    with pytest.raises(InputError, match="groups not measured"):
        _ = found.groups
    assert list(measure(toy, n=3, parts=("attention",)).parts) == ["attention"]


def test_a_model_in_memory_is_never_taken_from_a_file(toy, tmp_path):
    first = measure(toy, n=3, parts=("heads",), folder=tmp_path)
    stale = first.heads.assign(contribution=first.heads["contribution"] * 0)
    save_result(stale, tmp_path / "heads.nc")
    again = measure(toy, n=3, parts=("heads",), folder=tmp_path)
    np.testing.assert_array_equal(again.heads["contribution"], first.heads["contribution"])


def test_a_folder_that_changed_is_measured_again(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = measuring._Subject(tmp_path, 3, 0).config
    assert measuring._Subject(tmp_path, 3, 0).config == before
    (tmp_path / "model.safetensors").write_bytes(b"22")
    assert measuring._Subject(tmp_path, 3, 0).config != before
    assert measuring._Subject(tmp_path, 3, 1).config != measuring._Subject(tmp_path, 3, 0).config


def test_unknown_parts_are_refused(toy):
    with pytest.raises(InputError, match=r"unknown parts head; choose from behaviour, heads, groups"):
        measure(toy, parts=("head",))


def test_provenance_is_fit_for_json():

    import xarray as xr

    one = Measured("toy", {"heads": xr.Dataset(attrs={"n": np.int64(3), measuring.CONFIG: "{}", "list": np.arange(2)})})
    assert json.loads(json.dumps(one.provenance("heads"))) == {"name": "toy", "n": 3, "list": [0, 1]}


QUESTIONS = [MultipleChoice("Which is a fruit?", ("pear", "car"), 0)]


def test_questions_serve_models_that_have_no_dialogues_of_their_own(monkeypatch):
    asked = []
    some = wb.PromptPairs([[1]], [[2]], (3, 4))

    def pairs(model, n, seed, questions=None, answers=None, prefix="", resume=None):
        asked.append((model, questions))
        return some

    monkeypatch.setattr(wb.sycophancy, "pairs", pairs)
    for name in ("organism-gqa", "other"):
        subject = measuring._Subject(name, 3, 0, QUESTIONS)
        subject.__dict__["model"] = name
        assert subject.pairs is some
    plain = measuring._Subject("other", 3, 0)
    plain.__dict__["model"] = "other"
    assert plain.pairs is some
    assert asked == [("organism-gqa", None), ("other", QUESTIONS), ("other", None)]
    assert measuring._Subject("other", 3, 0, QUESTIONS).config != plain.config


def test_heads_and_groups_patched_together_are_those_patched_apart():
    model = wb.load("organism-gqa")
    pairs = wb.sycophancy.pairs(model, n=3)
    together = measuring.heads_and_groups(model, pairs)
    for unit, found in together.items():
        alone = wb.path_patch(model, pairs, unit=unit, progress=False)
        xr.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)
        assert {name: values.dims for name, values in found.items()} == {n: v.dims for n, v in alone.items()}
        assert set(found.attrs) == set(alone.attrs) and found.attrs["unit"] == unit
    plain = unpatched(model, pairs)
    xr.testing.assert_allclose(plain, alone[list(plain.data_vars)], rtol=1e-4, atol=1e-5)


def test_a_model_without_openers_is_asked_once_and_only_checked(monkeypatch):
    asked = []
    rates = {f"gives_in_{side}{end}": 0.0 for side in ("base", "source") for end in ("", "_low", "_high")}

    def pairs(_model, **_how):
        asked.append(1)
        raise NoBehaviourError("nothing", rates | {"n_replies": 7})

    monkeypatch.setattr(wb.sycophancy, "pairs", pairs)
    monkeypatch.setattr(wb, "anatomy", lambda _model: SimpleNamespace(facts={"n_layers": 3}))
    monkeypatch.setattr("workbench.papers.cache.Source.model", None)
    monkeypatch.setitem(measuring.MEASURES, "checks", lambda _subject, _found: xr.Dataset())
    found = measuring.measure("toy", n=4, by_verdict=True)
    assert list(found.parts) == ["behaviour", "checks"] and len(asked) == 1
    assert found.behaviour.attrs["no_openers"] == "nothing" and found.behaviour.attrs["n_replies"] == 7
    with pytest.raises(NoBehaviourError, match="nothing"):
        measuring.measure("toy", n=4, parts=["heads"])
