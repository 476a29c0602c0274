"""A HookedTransformer of the same weights gives the same numbers as the bridge, wherever a model is taken."""

import functools
from importlib.metadata import version

import numpy as np
import pytest
import torch

from tests.patching.test_path import logit_diff, pairs, twin
from tests.tiny import bridge, sequences, tiny
from tests.words import word_tokenizer
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.capture import capture
from workbench.models.checks import EXACT, check
from workbench.models.exact import agreement
from workbench.models.forward import run, run_from, supports_prefix
from workbench.models.hooked import FAMILIES
from workbench.models.load import load
from workbench.patching.activation import activation_patch
from workbench.patching.path import path_patch
from workbench.prompts.pairs import PromptPairs

HAS_HOOKED = version("transformer-lens").startswith("3.9")
needs_hooked = pytest.mark.skipif(not HAS_HOOKED, reason="HookedTransformer needs TransformerLens 3.9; 4.0 removed it")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*read logit_diff:workbench.errors.WorkbenchWarning"),
    pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning"),
]
TOKENS = torch.tensor([[5, 9, 11, 30, 2, 7, 60, 13, 1]])


@functools.cache
def hooked_model(family, dtype=torch.float64):
    return load(tiny(family, dtype), backend="hooked")


@pytest.mark.skipif(HAS_HOOKED, reason="TransformerLens 3.9 has HookedTransformer")
def test_without_hookedtransformer_the_error_says_what_to_install():
    with pytest.raises(InputError, match=r"removed in 4\.0\. Install 3\.9 .*constraints-hooked\.txt"):
        load(tiny("llama"), backend="hooked")


@needs_hooked
def test_other_families_are_refused():
    with pytest.raises(InputError, match="No HookedTransformer for the family 'olmo2': only llama, qwen2"):
        load(tiny("olmo2"), backend="hooked")


@needs_hooked
def test_rotary_scaling_is_refused():
    hf = tiny("llama")
    hf.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(InputError, match="Rotary scaling 'linear' does not convert"):
        load(hf, backend="hooked")


@needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_the_bridge(family):
    with torch.no_grad():
        wanted = bridge(family)(TOKENS)
        torch.testing.assert_close(hooked_model(family)(TOKENS), wanted, rtol=0, atol=1e-5)


@needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
def test_anatomy_equals_the_bridge(family):
    mine, other = anatomy(hooked_model(family)), anatomy(bridge(family))
    assert mine.kind == "hooked" and agreement(hooked_model(family)).worst < 1e-10
    for name in ("n_layers", "n_heads", "n_kv_heads", "group_size", "d_head", "d_model", "d_vocab", "layout"):
        assert getattr(mine, name) == getattr(other, name)
    assert (mine.architecture, mine.norms, mine.dtype) == (other.architecture, other.norms, other.dtype)


@needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_equal_the_bridge(family):
    words = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "attn.hook_pattern")
    words += ("hook_attn_out", "hook_mlp_out", "hook_resid_pre", "hook_resid_post")
    names = {f"blocks.{layer}.{word}": lambda t: t for layer in (0, 2) for word in words}
    mine = capture(hooked_model(family), TOKENS.tolist(), names)
    other = capture(bridge(family), TOKENS.tolist(), names)
    for name in names:
        torch.testing.assert_close(mine[name], other[name], rtol=0, atol=1e-5)


@needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
def test_unequal_lengths_equal_singles(family):
    model, rows, end = hooked_model(family), sequences((9, 4, 7)), "blocks.2.hook_resid_post"
    together = capture(model, rows, {end: lambda t: t})[end]
    for row, tokens in zip(together, rows, strict=True):
        alone = capture(model, [tokens], {end: lambda t: t})[end][0]
        torch.testing.assert_close(row[: len(tokens)], alone, rtol=0, atol=1e-12)


@needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_from_a_layer_equals_the_whole_run(family):
    model, ends = hooked_model(family), []
    pre, end = "blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"
    resid = capture(model, TOKENS.tolist(), {pre: lambda t: t})[pre]
    with torch.no_grad(), model.hooks(fwd_hooks=[(end, lambda t, hook: ends.append(t.clone()))]):
        run(model, TOKENS)
        run_from(model, 1, resid, TOKENS)
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-12)
    assert not supports_prefix(model)


@needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
def test_checks_pass(family):
    model = hooked_model(family, torch.float32)
    alone = check(model)
    assert alone.attrs["verdict"] == EXACT
    assert alone["status"].sel(check="hugging_face_logits").item() == "not applicable"
    beside = check(model, reference=tiny(family, torch.float32))
    assert beside["passed"].all() and beside["value"].sel(check="hugging_face_logits") < 1e-5
    other = check(model, reference=tiny(family, torch.float32, seed=1))
    assert other.attrs["verdict"].startswith("refused: hugging_face_logits")


@needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("unit", ["head", "kv_group", "layer"])
def test_path_patching_equals_the_bridge(family, unit):
    mine = path_patch(hooked_model(family), pairs(), unit=unit, progress=False)
    other = path_patch(bridge(family), pairs(), unit=unit, progress=False)
    assert mine["patched"].dims == other["patched"].dims
    for name in ("base", "source", "patched"):
        found, wanted = (d[name].sel(metric=["logit_diff", "prob"]).values for d in (mine, other))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@needs_hooked
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_path_patching_equals_the_twin_that_freezes_every_head(family):
    model, data = hooked_model(family), pairs()
    size = anatomy(model).group_size
    found = path_patch(model, data, progress=False)["patched"].sel(metric="logit_diff")
    for i, (base, source) in enumerate(zip(data.base, data.source, strict=True)):
        for layer in range(3):
            for group in range(found.sizes["kv_group"]):
                heads = [(layer, h) for h in range(group * size, (group + 1) * size)]
                wanted = logit_diff(twin(model, base, source, heads))
                assert abs(float(found[layer, group, i]) - wanted) < 1e-9


@needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hook", ["k", "v", "z", "attn_out", "resid_post"])
def test_activation_patching_equals_the_bridge(family, hook):
    data = PromptPairs(sequences((9, 7), prefix=3), sequences((8, 7), seed=2, prefix=3), (5, 9))
    mine = activation_patch(hooked_model(family), data, hook=hook, progress=False)
    other = activation_patch(bridge(family), data, hook=hook, progress=False)
    assert mine["patched"].dims == other["patched"].dims
    found, wanted = (d["patched"].sel(metric="logit_diff").values for d in (mine, other))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@needs_hooked
@pytest.mark.parametrize("options", [{}, {"bos": 0}, {"bos": 0, "begin": False}])
def test_its_tokenizer_stays_as_it_is(options):
    tokenizer = word_tokenizer(**options)
    wanted = tokenizer("the cat")["input_ids"]
    model = load(tiny("llama"), tokenizer=tokenizer, backend="hooked")
    assert model.tokenizer("the cat")["input_ids"] == wanted
    assert model.to_tokens("the cat").tolist() == [wanted]
    found = PromptPairs.from_text(model, ["the cat"], ["the dog"], ("yes", "no"))
    assert found.base == [wanted]


@needs_hooked
def test_a_hookedtransformer_given_is_the_one_returned():
    given = load(tiny("qwen2"), backend="hooked")
    assert load(given) is given and load(given, backend="hooked") is given
    assert load(given, tokenizer=word_tokenizer()).tokenizer("cat")["input_ids"] == [1, 5]


@needs_hooked
def test_attention_without_mlps_is_refused():
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {"n_layers": 1, "d_model": 8, "n_ctx": 16, "d_head": 4, "n_heads": 2, "d_vocab": 20}
    only = HookedTransformer(HookedTransformerConfig(**sizes, attn_only=True, seed=0))
    with pytest.raises(InputError, match="is attention-only"):
        load(only)
