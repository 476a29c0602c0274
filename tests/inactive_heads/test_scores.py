"""Scores against loops over the definitions, on many architectures, in batches, padded and in chunks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from tests.inactive_heads import slow
from tests.tiny import bridge, sequences, tiny
from workbench.errors import InputError
from workbench.inactive_heads import FIFTEEN, head_scores, score
from workbench.models.forward import hooked

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "olmo2", "gpt2", "gpt_neox", "gptj", "bloom"]


def mqa_and_mha():
    import transformers as hf

    from tests.tiny import BASE

    for kv_heads in (1, 4):
        torch.manual_seed(0)
        yield wb.load(hf.LlamaForCausalLM(hf.LlamaConfig(**BASE | {"num_key_value_heads": kv_heads})).double().eval())


def assert_equal_to_loops(found, model, texts, atol):
    for i, ids in enumerate(texts):
        wanted = slow.head_scores(model, ids)
        assert set(wanted) == set(found["score"].values.tolist())
        for name, values in wanted.items():
            np.testing.assert_allclose(found.sel(score=name, sequence=i), values, rtol=atol, atol=atol, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_fifteen_equal_the_definitions(family):
    model, texts = bridge(family), sequences((9, 5, 2))
    assert_equal_to_loops(head_scores(model, texts, chunk=4), model, texts, 1e-6)


def test_grouped_single_and_separate_kv_heads():
    for model in mqa_and_mha():
        texts = sequences((7, 4))
        found = head_scores(model, texts)
        assert_equal_to_loops(found, model, texts, 1e-6)
        if wb.anatomy(model).n_kv_heads == 1:
            np.testing.assert_array_equal(found.sel(score=["FTVVN_LN", "AVVN_LN"]), 1)


@pytest.mark.parametrize("family", ["llama", "olmo2", "gpt2"])
def test_float32_is_exact_to_a_hundred_thousandth(family):
    texts = sequences((40, 23))
    exact, rounded = (head_scores(bridge(family, dtype), texts) for dtype in (torch.float64, torch.float32))
    np.testing.assert_allclose(rounded, exact, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def alone():
    """Texts and the scores of each by itself."""
    texts = sequences((1, 2, 3, 5, 8, 12))
    return texts, [head_scores(bridge("qwen2"), [ids]) for ids in texts]


@settings(max_examples=15)
@given(
    picked=st.lists(st.integers(0, 5), min_size=1, max_size=5), batch_size=st.integers(1, 4), chunk=st.integers(1, 12)
)
def test_batches_and_chunks_change_nothing(alone, picked, batch_size, chunk):
    texts, scores = alone
    together = head_scores(bridge("qwen2"), [texts[i] for i in picked], batch_size=batch_size, chunk=chunk)
    for i, one in enumerate(picked):
        np.testing.assert_allclose(together.isel(sequence=i), scores[one].isel(sequence=0), atol=1e-6)


def test_padding_on_either_side_gives_the_same_numbers():
    model, texts = bridge("llama"), sequences((8, 3))
    pad = [0] * 5
    right = torch.tensor([texts[0], texts[1] + pad])
    left = torch.tensor([texts[0], pad + texts[1]])
    plain = head_scores(model, texts)
    on_the_right = head_scores(model, right, mask=torch.tensor([[1] * 8, [1] * 3 + [0] * 5]))
    on_the_left = head_scores(model, left, mask=torch.tensor([[1] * 8, [0] * 5 + [1] * 3]))
    np.testing.assert_array_equal(plain, on_the_right)
    np.testing.assert_array_equal(plain, on_the_left)


def test_only_attention_scores_depend_on_padding_in_the_released_code():
    model, texts = bridge("llama"), sequences((12, 4))
    compat, plain = head_scores(model, texts, compat=True, batch_size=2), head_scores(model, texts)
    for name in FIFTEEN:
        same = np.allclose(compat.sel(score=name), plain.sel(score=name), atol=1e-6)
        assert same == (name not in ("AWFT", "AWFT_LN", "AEQD", "AEQD_LN")), name
    padded = slow.observed(model, texts[1] + [0] * 8)
    for layer, (pattern, _, _) in enumerate(padded):
        np.testing.assert_allclose(
            compat.sel(score="AWFT", sequence=1, layer=layer), pattern[:, :, 0].mean(-1), atol=1e-6
        )
        entropy = torch.special.entr(pattern[:, :, :4]).sum(-1).mean(-1)
        np.testing.assert_allclose(compat.sel(score="AEQD", sequence=1, layer=layer), entropy, atol=1e-6)


def test_an_active_intervention_is_seen():
    model, texts = bridge("llama"), sequences((6,))
    with hooked(model, {"blocks.0.hook_mlp_out": torch.zeros_like}, times=1):
        changed = head_scores(model, texts)
    plain = head_scores(model, texts)
    np.testing.assert_allclose(changed.isel(layer=0), plain.isel(layer=0), atol=1e-6)
    assert float(abs(changed - plain).isel(layer=1).max()) > 1e-3


def test_scores_are_asked_for_by_name_and_carry_their_direction():
    found = head_scores(bridge("llama"), sequences((4,)), ["AHON_LN", "AWFT"])
    assert found.dims == ("score", "sequence", "layer", "head") and found.shape == (2, 1, 3, 4)
    assert found["inactive"].values.tolist() == ["below", "above"]
    assert found["length"].values.tolist() == [4] and found.attrs["n_kv_heads"] == 2


def test_your_own_score_of_outputs_and_of_attention():
    @score("LOUDEST", inactive="below")
    def loudest(layer):
        return layer.z_norm.masked_fill(~layer.real[..., None], 0).amax(1)

    def diagonal(queries):
        where = torch.arange(queries.start, queries.start + queries.pattern.shape[2])
        return queries.pattern[:, :, torch.arange(len(where)), where]

    @score("SELF", inactive="above", reads=(), per_query=diagonal)
    def to_itself(layer):
        return layer.attention[diagonal]

    model, texts = bridge("llama"), sequences((7, 5))
    found = head_scores(model, texts, ["SELF", "LOUDEST", "AHON"], chunk=3)
    assert found["inactive"].values.tolist() == ["above", "below", "below"]
    for i, ids in enumerate(texts):
        for layer, (pattern, _, z) in enumerate(slow.observed(model, ids)):
            at = {"sequence": i, "layer": layer}
            np.testing.assert_allclose(found.sel(score="LOUDEST", **at), z.norm(dim=-1).amax(0), atol=1e-6)
            np.testing.assert_allclose(found.sel(score="SELF", **at), pattern.diagonal(0, 1, 2).mean(-1), atol=1e-6)


def test_a_score_of_the_wrong_shape_or_name_is_refused():
    @score("WRONG", inactive="below")
    def wrong(layer):
        return layer.z_norm

    with pytest.raises(InputError, match=r"The score 'WRONG' gave shape \[1, 4, 4\]; it must give \[batch, head\]"):
        head_scores(bridge("llama"), sequences((4,)), "WRONG")
    with pytest.raises(InputError, match="'AHON' is a score of the paper and cannot be replaced"):
        score("AHON", inactive="below")
    with pytest.raises(InputError, match="inactive 'below' or 'above' its threshold"):
        score("NEW", inactive="under")


def test_bad_input_is_named():
    model = bridge("llama")
    with pytest.raises(InputError, match="There is no score 'AHONLN': did you mean 'AHON_LN'"):
        head_scores(model, sequences((4,)), ["AHONLN"])
    with pytest.raises(InputError, match="Give at least one score and each of them once"):
        head_scores(model, sequences((4,)), ["AHON", "AHON"])
    with pytest.raises(InputError, match="A sequence has 129 tokens, but the model's context has 128"):
        head_scores(bridge("gpt2"), sequences((4, 129)))
    with pytest.raises(InputError, match="Text 1 has no tokens"):
        head_scores(model, torch.tensor([[5, 6], [5, 6]]), mask=torch.tensor([[1, 1], [0, 0]]))
    with pytest.raises(InputError, match="Text 0 has no tokens"):
        head_scores(model, [[]])


def test_one_token_has_defined_scores():
    found = head_scores(bridge("llama"), [[5]])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sel(score=["AWFT", "AWFT_LN", "AEQD_LN", "LTHON_HN"]), 1)
    np.testing.assert_allclose(found.sel(score="AEQD"), 0)


def test_uniform_sink_and_diagonal_attention_have_known_scores():
    model, n = wb.load(tiny("llama")), 6
    causal = torch.ones(n, n).tril()
    patterns = {
        "uniform": causal / causal.sum(-1, keepdim=True),
        "sink": torch.eye(n)[:1].expand(n, n).clone(),
        "diagonal": torch.eye(n),
    }
    found = {}
    for name, pattern in patterns.items():
        with hooked(
            model,
            {f"blocks.{i}.attn.hook_pattern": lambda t, p=pattern: p.to(t).expand_as(t).clone() for i in range(3)},
        ):
            found[name] = head_scores(model, sequences((n,))).isel(sequence=0)
    uniform, sink, diagonal = (found[name] for name in patterns)
    np.testing.assert_allclose(uniform.sel(score="AWFT"), sum(1 / i for i in range(1, n + 1)) / n, atol=1e-6)
    np.testing.assert_allclose(uniform.sel(score="AEQD"), np.log(np.arange(1, n + 1)).mean(), atol=1e-6)
    np.testing.assert_allclose(sink.sel(score=["AWFT", "LTHON_HN"]), 1, atol=1e-6)
    np.testing.assert_allclose(sink.sel(score="AHON"), sink.sel(score="FTVVN"), atol=1e-6)
    np.testing.assert_allclose(diagonal.sel(score="AWFT"), 1 / n, atol=1e-6)
    np.testing.assert_allclose(diagonal.sel(score="AHON"), diagonal.sel(score="AVVN"), atol=1e-6)
    np.testing.assert_allclose(diagonal.sel(score="AEQD"), 0, atol=1e-6)


def test_layer_normalised_scores_average_to_one():
    found = head_scores(bridge("gemma2"), sequences((9, 4)))
    names = [name for name in FIFTEEN if name.endswith("_LN") and name != "LTHON_LN"]
    np.testing.assert_allclose(found.sel(score=names).mean("head"), 1, atol=1e-6)
    assert not np.allclose(found.sel(score="LTHON_LN").mean("head"), 1, atol=1e-3)
