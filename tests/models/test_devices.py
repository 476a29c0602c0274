from importlib.metadata import version

import pytest
import torch
from torch import nn

import workbench as wb
from benchmarks.devices import MEASUREMENTS, device_map, difference, losses, offloaded, pairs, rows
from tests.devices import TWO, fake_devices, place_of, placed, spread_out
from tests.tiny import bridge, tiny
from tests.zoo import specimen
from workbench.errors import InputError
from workbench.models.devices import device_of, devices_of, follows
from workbench.models.grams import _root
from workbench.models.identity import fingerprint

pytestmark = pytest.mark.filterwarnings("ignore:.*read logit_diff:workbench.errors.WorkbenchWarning")
FAMILIES = ("llama", "gpt2", "gemma2")
SHORT = ("path_patch", "extreme_tokens")
LONG = ("q", "k", "z", "attn_out", "mlp_out", "resid_pre")
CHECKED = [name for name in MEASUREMENTS if not name.endswith(tuple(f", {hook}" for hook in LONG))]


@pytest.fixture(scope="module", params=FAMILIES)
def both(request):
    """A tiny model on one device, and spread over two."""
    hf = spread_out(tiny(request.param))
    with fake_devices():
        spread = wb.load(hf)
    return bridge(request.param), spread


@pytest.mark.parametrize("name", CHECKED)
def test_every_measurement_of_a_model_on_two_devices_is_that_of_one(both, name):
    one, two = both
    if one.cfg.architecture != "LlamaForCausalLM" and name not in SHORT:
        pytest.skip("measured on one architecture")
    with fake_devices():
        found = MEASUREMENTS[name](two)
    assert difference(MEASUREMENTS[name](one), found) < 1e-9


def test_tensors_of_two_devices_do_not_meet():
    with fake_devices():
        a, b = (torch.ones(2, 3, device=device) for device in TWO)
        assert a.device == torch.device("hpu:0") and (a + 1).sum().device == a.device and a.cpu().device.type == "cpu"
        assert float(a.sum()) == 6 and a[torch.tensor([0])].device == a.device
        for meet in (lambda: a + b, lambda: torch.cat([a, b]), lambda: a @ b.T, lambda: a[b.long()[:, 0]]):
            with pytest.raises(RuntimeError, match="same device"):
                meet()
        with pytest.raises(TypeError, match="numpy"):
            a.numpy()
        assert torch.equal((a + b.to(a.device)).cpu(), torch.full((2, 3), 2.0))
    assert place_of(torch.ones(1)).type == "cpu"


def test_code_that_forgets_to_move_fails(monkeypatch):
    monkeypatch.setattr("workbench.models.blocks.follows", lambda branch, _module: branch)
    monkeypatch.setattr("workbench.models.grams._root", lambda gram: _root(gram).to("hpu:0"))
    hf = spread_out(tiny("llama"))
    with fake_devices():
        model = wb.load(hf)
        assert "recomputed_attention failed" in wb.check(model).verdict
        assert wb.path_patch(model, pairs(model), progress=False).computed == "rerun"
        with pytest.raises(RuntimeError, match="same device"):
            MEASUREMENTS["extreme_tokens"](model)


def test_a_model_that_runs_again_for_each_sender_gives_on_two_devices_what_it_gives_on_one():
    one = wb.load(specimen("Lfm2ForCausalLM"))
    hf = spread_out(specimen("Lfm2ForCausalLM"))
    wanted = wb.path_patch(one, pairs(one), unit="layer", progress=False)
    with fake_devices():
        found = wb.path_patch(wb.load(hf), pairs(one), unit="layer", progress=False)
    assert wanted.computed == found.computed == "rerun" and difference(wanted, found) < 1e-9


def test_a_spread_model_says_where_it_computes(both):
    one, two = both
    with fake_devices():
        assert list(map(str, devices_of(two))) == list(TWO) and str(device_of(two)) == "hpu:0"
        assert wb.anatomy(two).device == "hpu:0, hpu:1" and two.cfg.n_devices == 2
        assert str(device_of(two.blocks[2])) == "hpu:1"
    assert devices_of(one) == [torch.device("cpu")]


def test_a_branch_follows_the_device_of_its_module():
    with fake_devices():
        module = nn.Linear(3, 3)
        placed(dict(module.named_parameters()), torch.device("hpu:1"))
        given = torch.ones(2, 3, device="hpu:0")
        assert follows(module, module)(given).device == given.device
        with pytest.raises(RuntimeError, match="same device"):
            module(given)


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_offloaded_weights_give_the_same_numbers(family, tmp_path):
    if family == "gpt2" and version("transformer-lens").startswith("3.9"):
        with pytest.raises(InputError, match="fused QKV projection"):
            wb.load(offloaded(tiny(family), "cpu", str(tmp_path)))
        return
    one, away = bridge(family), wb.load(offloaded(tiny(family), "cpu", str(tmp_path)))
    assert any(p.is_meta for p in away.parameters()) and devices_of(away) == [torch.device("cpu")]
    for name in ("path_patch", "extreme_tokens", "head_scores"):
        assert difference(MEASUREMENTS[name](one), MEASUREMENTS[name](away)) < 1e-9
    assert family != "llama" or fingerprint(away) == fingerprint(one)


def test_load_passes_a_device_map_on(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "model")
    where = {name: "disk" if name.endswith("2") else "cpu" for name in device_map(tiny("llama"), ["cpu"])}
    one = wb.load(tmp_path / "model", dtype="float64")
    away = wb.load(tmp_path / "model", dtype="float64", device_map=where)
    assert any(p.is_meta for p in away.parameters())
    assert difference(losses(one), losses(away)) < 1e-9


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"device_map": "auto", "device": "cpu"}, "not both"),
        ({"device_map": "auto", "backend": "hooked"}, "backend='bridge'"),
        ({"quantization_config": object(), "backend": "hooked"}, "unquantised"),
        ({"device_map": {"": "nowhere"}}, "cannot be loaded"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, keywords, words):
    tiny("llama").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=words):
        wb.load(tmp_path, **keywords)


def test_a_model_in_memory_is_dispatched_before_and_stays_where_it_is(tmp_path):
    with pytest.raises(InputError, match="dispatch_model"):
        wb.load(tiny("llama"), device_map="auto")
    hf = spread_out(tiny("llama"))
    with fake_devices(), pytest.raises(InputError, match="spread over hpu:0, hpu:1"):
        wb.load(hf, device="cpu")
    with pytest.raises(InputError, match="offloaded, and backend='hooked' needs all of them on one device"):
        wb.load(offloaded(tiny("llama"), "cpu", str(tmp_path)), backend="hooked")


def test_weights_of_an_offloaded_model_are_not_tuned_or_written(tmp_path):
    away = wb.load(offloaded(tiny("llama"), "cpu", str(tmp_path / "away")))
    dialogues = [{"context": rows(away, (5,))[0], "reply": [5, 6]}]
    with pytest.raises(InputError, match="offloaded, and tuning needs all of them on one device"):
        wb.pinpoint_tune(away, dialogues, [(0, 0)])
    with pytest.raises(InputError, match="offloaded, and writing a checkpoint"):
        wb.save_pretrained(away, tmp_path / "written")
