import tempfile

import pytest
import torch
import transformers
from torch import nn

import workbench as wb
from benchmarks.devices import MEASUREMENTS, pairs, rows
from tests.tiny import BASE, randomise, tiny
from workbench.errors import InputError, WorkbenchWarning
from workbench.extreme.quantize import linear_layers
from workbench.models.weights import quantisation, require_gradients

WIDE = BASE | {"hidden_size": 64, "intermediate_size": 128}
PATHS = "ignore:.*read logit_diff:workbench.errors.WorkbenchWarning"


class Packed(nn.Linear):
    """A layer with whole numbers for weights, through which no gradient passes."""

    def __init__(self, own: nn.Linear, gradients: bool):
        super().__init__(own.in_features, own.out_features, bias=False)
        self.weight = nn.Parameter((own.weight * 32).round().to(torch.int8), requires_grad=False)
        self.gradients = gradients

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return (given if self.gradients else given.detach()) @ (self.weight.to(given.dtype) / 32).T


def packed(gradients: bool, config: dict | None = None):
    """A tiny model with one layer of each block packed."""
    hf = tiny("llama")
    for layer in hf.model.layers:
        layer.self_attn.o_proj = Packed(layer.self_attn.o_proj, gradients)
    hf.is_quantized, hf.config.quantization_config = True, {"quant_method": "packed"} | (config or {})
    return wb.load(hf)


@pytest.mark.filterwarnings(PATHS)
def test_a_model_with_packed_weights_is_measured_as_it_computes():
    model = packed(gradients=True)
    assert quantisation(model) == "packed"
    found = wb.path_patch(model, pairs(model), unit="layer", progress=False)
    exact = wb.activation_patch(model, pairs(model), unit="layer", progress=False)
    last = {"metric": "logit_diff", "layer": 2}
    assert found.computed == "replay"
    assert float(abs(found.patched.sel(last) - exact.patched.sel(last)).max()) < 1e-9
    assert wb.attribution_patch(model, pairs(model), progress=False).agreement_pearson.notnull().all()
    wb.extreme_tokens(model, rows(model, (9,)), progress=False)


def test_estimates_by_gradients_are_refused_where_no_gradient_passes():
    model = packed(gradients=False)
    with pytest.raises(InputError, match=r"'model.layers.0.self_attn.o_proj': its kernel is for inference alone"):
        wb.attribution_patch(model, pairs(model), progress=False)
    with pytest.raises(InputError, match="No gradient passes"):
        MEASUREMENTS["sensitivity"](model)
    require_gradients(wb.load(tiny("llama")))


def test_packed_weights_are_not_tuned_rounded_or_written(tmp_path):
    model = packed(gradients=True)
    dialogues = [{"context": rows(model, (5,))[0], "reply": [5, 6]}]
    for refused in (
        lambda: wb.pinpoint_tune(model, dialogues, [(0, 0)]),
        lambda: wb.save_pretrained(model, tmp_path / "written"),
        lambda: wb.extreme.tune_lightly(model, rows(model, (80,) * 8)),
        lambda: linear_layers(model),
    ):
        with pytest.raises(InputError, match=r"quantised \(packed\), packed into integers"):
            refused()


def test_eight_bits_with_outliers_are_warned_of():
    with pytest.warns(WorkbenchWarning, match=r"llm_int8_threshold=0\.0"):
        packed(gradients=True, config={"load_in_8bit": True, "llm_int8_threshold": 6.0})


# With bitsandbytes itself, whose newer versions have kernels for CPUs.


@pytest.fixture(scope="module")
def folder():
    torch.manual_seed(0)
    model = randomise(transformers.LlamaForCausalLM(transformers.LlamaConfig(**WIDE)), torch.float32)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        yield place


@pytest.mark.filterwarnings(PATHS, "ignore:MatMul8bitLt")
@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_models_are_exact_and_near_the_full_one(folder, bits):
    pytest.importorskip(
        "bitsandbytes", minversion="0.49", reason="bitsandbytes is not installed, or has no CPU kernels"
    )
    how = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if bits == 4 else {"load_in_8bit": True}
    config = transformers.BitsAndBytesConfig(**how, llm_int8_threshold=0.0, bnb_4bit_compute_dtype=torch.float32)
    model, full = wb.load(folder, device="cpu", quantization_config=config), wb.load(folder, device="cpu")
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float32", f"torch.{'uint8' if bits == 4 else 'int8'}"}
    assert wb.check(model).exact and quantisation(model) == "bitsandbytes"
    found, wanted = (
        wb.path_patch(m, pairs(full), progress=False).patched.sel(metric="logit_diff") for m in (model, full)
    )
    assert 0 < float(abs(found - wanted).max()) < (2 if bits == 4 else 0.2) * float(abs(wanted).max())
    for name in ("activation_patch, v", "extreme_tokens", "head_scores", "active_dormant", "zero_heads", "generate"):
        MEASUREMENTS[name](model)
    with pytest.raises(InputError, match=r"quantised \(bitsandbytes\)"):
        wb.pinpoint_tune(model, [{"context": [5, 6], "reply": [7]}], [(0, 0)])
