from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests.tiny import bridge, tiny
from tests.zoo import specimen
from workbench.errors import InputError, WorkbenchWarning
from workbench.models.anatomy import anatomy
from workbench.models.capture import capture
from workbench.models.load import load
from workbench.models.original import added_parameters, unwrapped
from workbench.tuning.deltas import Tunable
from workbench.tuning.pinpoint import parameter_count
from workbench.tuning.slices import attention_modules, slices_of
from workbench.tuning.units import units_of

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gpt2", "gpt_neox", "olmo2")
COMMON_NORM = pytest.mark.filterwarnings("ignore:The queries of all heads:workbench.errors.WorkbenchWarning")
TOKENS = [[5, 17, 3, 44, 60, 8]]


def shaken(family, units, letters):
    """The model with noise on the slices of units, in those projections alone."""
    hf, parts = tiny(family), anatomy(bridge(family))
    slices = slices_of(hf, parts, units_of(parts, units, True))
    generator = torch.Generator().manual_seed(0)
    for part in slices.parts:
        if part.side not in letters:
            continue
        module = hf.get_submodule(part.module)
        axis = int((part.side == "in") != (type(module).__name__ == "Conv1D"))
        index = torch.tensor(part.index)
        rows = module.weight.data.index_select(axis, index)
        module.weight.data.index_add_(axis, index, torch.randn(rows.shape, generator=generator, dtype=rows.dtype))
        if part.side == "out" and module.bias is not None:
            module.bias.data.index_add_(0, index, torch.randn(len(index), generator=generator, dtype=rows.dtype))
    return load(hf)


@COMMON_NORM
@pytest.mark.parametrize("family", FAMILIES)
def test_output_slices_change_the_queries_keys_and_values_of_their_heads_alone(family):
    plain, parts = bridge(family), anatomy(bridge(family))
    layer, head = 1, 3
    changed = shaken(family, [(layer, head)], ("out",))
    wanted = {f"blocks.{layer}.attn.hook_{letter}": (lambda x: x) for letter in "qkv"}
    before, after = capture(plain, TOKENS, wanted), capture(changed, TOKENS, wanted)
    for name, one in before.items():
        own = head if name.endswith("q") else head // parts.group_size
        count = parts.n_heads if name.endswith("q") else parts.n_kv_heads
        differs = (after[name] - one).abs().reshape(1, 6, count, parts.d_head).amax((0, 1, 3)) > 1e-9
        mine = family != "olmo2" or name.endswith("v")  # one norm over the queries of all heads, and one over the keys
        assert differs.tolist() == [mine and i == own for i in range(count)], name


@COMMON_NORM
@pytest.mark.parametrize("family", FAMILIES)
def test_input_slices_change_the_output_matrix_of_their_heads_alone(family):
    changed, plain = anatomy(shaken(family, [(0, 2), (2, 1)], ("in",))), anatomy(bridge(family))
    for layer, chosen in ((0, 2), (1, None), (2, 1)):
        moved = (changed.blocks[layer].w_o() - plain.blocks[layer].w_o()).abs().amax((1, 2)) > 1e-9
        assert moved.tolist() == [head == chosen for head in range(plain.n_heads)]


@pytest.mark.parametrize("family", ("llama", "gpt2", "gpt_neox"))
def test_the_slices_of_all_heads_with_keys_and_values_are_all_of_attention(family):
    parts = anatomy(bridge(family))
    every = [(layer, head) for layer in range(parts.n_layers) for head in range(parts.n_heads)]
    with unwrapped(bridge(family)) as hf:
        slices = slices_of(hf, parts, units_of(parts, every, True))
        for part in slices.parts:
            module = hf.get_submodule(part.module)
            shape = module.weight.T.shape if type(module).__name__ == "Conv1D" else module.weight.shape
            assert part.index == tuple(range(shape[0 if part.side == "out" else 1]))


def test_counts_of_tuned_parameters_are_those_of_the_formula():
    parts = anatomy(bridge("llama"))
    heads = [(0, 0), (0, 1)]
    q_and_o = 2 * len(heads) * parts.d_head * parts.d_model
    assert parameter_count(bridge("llama"), heads) == q_and_o
    assert parameter_count(bridge("llama"), heads, kv=True) == q_and_o + 2 * parts.d_head * parts.d_model
    assert parameter_count(bridge("qwen2"), heads) == q_and_o + len(heads) * parts.d_head
    assert parameter_count(bridge("gpt_neox"), [(1, 2)]) == 4 * 8 * 32 + 3 * 8


LLAMA_2_7B = (LlamaConfig, 32, 32, 32, 4096)
LLAMA_2_13B = (LlamaConfig, 40, 40, 40, 5120)
LLAMA_2_70B = (LlamaConfig, 80, 64, 8, 8192)
MISTRAL_7B = (MistralConfig, 32, 32, 8, 4096)
LLAMA_3_8B = (LlamaConfig, 32, 32, 8, 4096)
LLAMA_32_3B = (LlamaConfig, 28, 24, 8, 3072)
QWEN_25_7B = (Qwen2Config, 28, 28, 4, 3584)


@pytest.mark.parametrize(
    ("shape", "n_heads", "kv", "millions"),
    [
        (LLAMA_2_7B, 32, True, 67.1),
        (LLAMA_2_13B, 64, True, 168),
        (LLAMA_2_70B, 192, False, 403),
        (MISTRAL_7B, 32, False, 33.6),
        (LLAMA_3_8B, 40, False, 41.9),
        (LLAMA_3_8B, 40, True, 41.9 + 10.5),
        (QWEN_25_7B, 28, False, 25.7),
        (QWEN_25_7B, 28, True, 25.7 + 3.7),
        (LLAMA_32_3B, 27, False, 21.2),
        (LLAMA_32_3B, 27, True, 21.2 + 7.1),
    ],
)
def test_chat_models_have_the_published_number_of_tuned_parameters(shape, n_heads, kv, millions):
    """The first four are the column of Chen et al. 2024, Table 1; the others 4 % of the heads in whole groups."""
    config, layers, heads, kv_heads, width = shape
    made = config(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        hidden_size=width,
        head_dim=128,
        intermediate_size=8,
        vocab_size=8,
    )
    every = {"mixers": (("attn",),) * layers, "head_layers": tuple(range(layers))}
    size = {"n_layers": layers, "n_heads": heads, "n_kv_heads": kv_heads, "d_head": 128, "d_model": width}
    parts = replace(anatomy(bridge("llama")), **every, **size)
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
        size = parts.group_size
        chosen = [(n, g * size + i) for g in range(kv_heads) for n in range(layers) for i in range(size)][:n_heads]
        own = Tunable(hf, slices_of(hf, parts, units_of(parts, chosen, kv)))
    assert own.count / 1e6 == pytest.approx(millions, abs=0.5 if millions > 100 else 0.06)
    assert {p.dtype for p in own.parameters.values()} == {torch.float32}


def test_whole_attention_leaves_norms_and_mlps_out():
    parts = anatomy(bridge("qwen3"))
    with unwrapped(bridge("qwen3")) as hf:
        names = slices_of(hf, parts, units_of(parts, "attention")).whole
        everything = slices_of(hf, parts, units_of(parts, "all")).whole
        assert set(everything) == {name for name, _ in hf.named_parameters()} - added_parameters(hf).keys()
    assert len(names) == 4 * parts.n_layers
    assert all(name.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "o_proj") for name in names)


def test_unknown_storage_of_projections_is_named():
    hf, parts = tiny("llama"), anatomy(bridge("llama"))
    hf.model.layers[1].self_attn.q_proj = torch.nn.Linear(32, 64, bias=False).double()
    with pytest.raises(
        InputError, match=r"q_proj is a Linear with a weight of shape .64, 32., and its heads would need 32"
    ):
        slices_of(hf, parts, units_of(parts, [(1, 0)]))
    del hf.model.layers[1].self_attn.q_proj
    with pytest.raises(InputError, match=r"2 of 3 layers with heads keep.*layer 1 is none"):
        slices_of(hf, parts, units_of(parts, [(1, 0)]))


def test_the_attention_of_a_vision_tower_is_none_of_the_layers():
    seen = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = SiglipVisionConfig(**seen, image_size=28, patch_size=14)
    text = tiny("gemma3").config
    config = Gemma3Config(text_config=text.to_dict(), vision_config=vision.to_dict(), image_token_index=90)
    hf = Gemma3ForConditionalGeneration(config)
    paths = {layer: path for layer, (path, _) in attention_modules(hf, anatomy(bridge("gemma3"))).items()}
    assert paths == {layer: f"model.language_model.layers.{layer}.self_attn" for layer in range(3)}


def found_in(name, head, kv=None):
    """The slices of one head by the end of their module's name, on an architecture of the zoo."""
    model = load(specimen(name))
    parts = anatomy(model)
    with unwrapped(model) as hf:
        slices = slices_of(hf, parts, units_of(parts, [head], kv))
    return {part.module.partition("layers.")[2] or part.module: part.index for part in slices.parts}


@pytest.mark.parametrize("name", ["Lfm2ForCausalLM", "OlmoHybridForCausalLM", "ModernBertDecoderForCausalLM"])
@COMMON_NORM
def test_heads_are_found_in_layers_that_have_them(name):
    """Beside layers of other mixers, whose projections may be called the same, and under other names."""
    out = {"Lfm2ForCausalLM": "self_attn.out_proj", "ModernBertDecoderForCausalLM": "attn.Wo"}.get(name)
    found = found_in(name, (3, 1))
    width = len(found[f"3.{out or 'self_attn.o_proj'}"])
    assert found[f"3.{out or 'self_attn.o_proj'}"] == tuple(range(width, 2 * width))
    assert (f"3.{out.split('.')[0] if out else 'self_attn'}.q_proj" in found) == (name != "OlmoHybridForCausalLM")


def test_heads_may_be_wider_in_some_layers():
    narrow, wide = (found_in("Gemma4ForCausalLM", (layer, 1)) for layer in (0, 1))
    assert narrow["0.self_attn.o_proj"] == tuple(range(16, 32)) and wide["1.self_attn.o_proj"] == tuple(range(24, 48))
    assert narrow["0.self_attn.q_proj"] == tuple(range(16, 32)) and wide["1.self_attn.q_proj"] == tuple(range(24, 48))


def test_queries_that_pass_a_common_norm_belong_to_no_head_and_that_is_told():
    model = load(specimen("MiniMaxM2ForCausalLM"))
    parts = anatomy(model)
    with pytest.warns(WorkbenchWarning, match="queries of all heads of MiniMaxM2ForCausalLM pass one norm together"):
        count = parameter_count(model, [(0, 0)])
    assert count == parts.d_head * parts.d_model


@pytest.mark.parametrize(
    ("name", "head", "wanted"),
    [
        ("CodeGenForCausalLM", (0, 1), {"qkv_proj": [*range(24, 48)]}),
        ("FalconForCausalLM", (0, 1), {"query_key_value": [*range(8, 16)]}),
        ("DeepseekV3ForCausalLM", (0, 1), {"q_b_proj": [*range(20, 40)], "kv_b_proj": [*range(22, 44)]}),
    ],
)
def test_heads_of_matrices_of_many_kinds_are_found(name, head, wanted):
    """CodeGen keeps queries, values and keys of each quarter of its heads together, here of one head of width 8."""
    found = found_in(name, head, True if name != "FalconForCausalLM" else None)
    for part, rows in wanted.items():
        assert found[next(key for key in found if key.endswith(part))] == tuple(rows)
