"""Runs with proved hooks, from any layer, after a shared prefix, and in right-padded batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from tests.tiny import TEN, bridge, sequences
from tests.zoo import RECENT, specimen
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.capture import capture
from workbench.models.forward import can_skip, copies, hooked, pad, prefix_cache, run, run_from, supports_prefix
from workbench.models.load import load

END = "blocks.2.hook_resid_post"


def seen(model, names, work):
    kept = {}
    with torch.no_grad(), hooked(model, {n: lambda t, n=n: kept.__setitem__(n, t.clone()) for n in names}):
        work()
    return kept


def end_of(model, tokens):
    return seen(model, [END], lambda: run(model, torch.tensor(tokens)))[END]


@pytest.mark.parametrize("family", [*TEN, "cohere", "gemma3"])
def test_a_run_computes_what_the_whole_model_does(family):
    model, tokens = bridge(family), sequences((7,))
    with torch.no_grad():
        wanted = model(torch.tensor(tokens))
        found = anatomy(model).unembed(end_of(model, tokens))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", [*TEN, "cohere", "gemma3"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_run_from_any_layer_equals_the_whole_run(family, layer):
    model, tokens = bridge(family), torch.tensor(sequences((7, 7)))
    pre = f"blocks.{layer}.hook_resid_pre"
    whole = seen(model, [pre, END], lambda: run(model, tokens))
    part = seen(model, [END, f"blocks.{layer}.attn.hook_z"], lambda: run_from(model, layer, whole[pre], tokens))
    torch.testing.assert_close(part[END], whole[END], rtol=0, atol=1e-12)


def test_blocks_below_the_first_are_not_run():
    model = bridge("llama")
    run(model, torch.tensor([[5, 6]]))
    with pytest.raises(InputError, match=r"'blocks\.0\.attn\.hook_z' fired 0 times instead of 1"):
        seen(
            model,
            ["blocks.0.attn.hook_z"],
            lambda: run_from(model, 1, torch.zeros(1, 4, 32).double(), torch.tensor([[5, 6, 7, 8]])),
        )
    assert torch.equal(end_of(model, [[5, 6]]), end_of(model, [[5, 6]]))


def test_a_run_from_a_layer_starts_from_what_it_is_given():
    model, resid = bridge("qwen3"), torch.randn(2, 5, 32, dtype=torch.float64)
    tokens = torch.tensor(sequences((5, 5)))
    name = "blocks.1.hook_resid_pre"
    run(model, torch.tensor([[5, 6]]))
    assert torch.equal(seen(model, [name], lambda: run_from(model, 1, resid, tokens))[name], resid)


@pytest.mark.parametrize(
    ("name", "options", "skips", "reuses"),
    [
        ("Gemma4ForCausalLM", {"num_kv_shared_layers": 2}, False, True),
        ("GlmMoeDsaForCausalLM", {}, False, True),
        ("Lfm2ForCausalLM", {}, True, False),
    ],
)
def test_where_blocks_see_more_than_the_stream_they_are_all_run(name, options, skips, reuses):
    """Gemma-4 shares keys and values between layers and GLM-DSA what they index; convolutions keep no keys."""
    model, tokens = load(specimen(name, **options)), torch.tensor(sequences((7, 7)))
    if name == "GlmMoeDsaForCausalLM" and not RECENT:
        pytest.skip("this version of transformers keeps no index in its cache")
    assert can_skip(model) == skips and supports_prefix(model) == reuses
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    pre = f"blocks.{model.cfg.n_layers - 1}.hook_resid_pre"
    whole = seen(model, [pre, last], lambda: run(model, tokens))
    part = seen(model, [last], lambda: run_from(model, model.cfg.n_layers - 1, whole[pre], tokens))
    torch.testing.assert_close(part[last], whole[last], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", TEN)
def test_a_shared_prefix_changes_nothing(family):
    model = bridge(family)
    assert supports_prefix(model)
    tokens = torch.tensor(sequences((9, 9), prefix=5))
    whole = seen(model, [END, "blocks.1.hook_resid_pre"], lambda: run(model, tokens))
    with torch.no_grad():
        past = prefix_cache(model, tokens[:1, :5].tolist())
    after = seen(model, [END], lambda: run(model, tokens[:, 5:], copies(past, 2)))[END]
    torch.testing.assert_close(after, whole[END][:, 5:], rtol=0, atol=2e-7)
    resid = whole["blocks.1.hook_resid_pre"][:, 5:]
    later = seen(model, [END], lambda: run_from(model, 1, resid, tokens[:, 5:], copies(past, 2)))[END]
    torch.testing.assert_close(later, whole[END][:, 5:], rtol=0, atol=2e-7)
    again = seen(model, [END], lambda: run(model, tokens[:, 5:], copies(past, 2)))[END]
    assert torch.equal(again, after), "the cache was used up"


@pytest.mark.parametrize("family", [*TEN, "cohere", "gemma3"])
def test_right_padding_equals_singles(family):
    model, alone = bridge(family), sequences((9, 4, 7))
    tokens, last = pad(alone, "cpu")
    together = seen(model, [END], lambda: run(model, tokens))[END]
    assert last.tolist() == [8, 3, 6]
    for row, sequence in zip(together, alone, strict=True):
        torch.testing.assert_close(row[: len(sequence)], end_of(model, [sequence])[0], rtol=0, atol=1e-12)


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 96), min_size=1, max_size=9), min_size=1, max_size=5))
def test_padding_keeps_every_token_and_knows_the_last(rows):
    tokens, last = pad(rows, "cpu")
    assert tokens.shape == (len(rows), max(map(len, rows)))
    for row, padded, end in zip(rows, tokens.tolist(), last.tolist(), strict=True):
        assert padded[: len(row)] == row and end == len(row) - 1
        assert set(padded[len(row) :]) <= {row[-1]}


@settings(max_examples=15)
@given(st.lists(st.lists(st.integers(0, 96), min_size=1, max_size=9), min_size=1, max_size=4))
def test_any_batch_equals_singles(rows):
    model = bridge("mistral")
    tokens, last = pad(rows, "cpu")
    together = seen(model, [END], lambda: run(model, tokens))[END]
    for i, row in enumerate(rows):
        torch.testing.assert_close(together[i, last[i]], end_of(model, [row])[0, -1], rtol=0, atol=1e-12)


def test_unknown_hooks_are_refused_before_anything_runs():
    model = bridge("llama")
    wanted = r"No hook point 'blocks\.0\.attn\.hook_zz' in this model: did you mean 'blocks\.0\.attn\.hook_z'"
    with pytest.raises(InputError, match=wanted), hooked(model, {"blocks.0.attn.hook_zz": lambda t: None}):
        pytest.fail("the block was entered")


def test_a_hook_that_does_not_fire_is_an_error():
    model = bridge("llama")
    with (
        pytest.raises(InputError, match=r"'hook_pos_embed' fired 0 times instead of 1: this architecture"),
        hooked(model, {"hook_pos_embed": lambda t: None}),
    ):
        run(model, torch.tensor([[5, 6]]))


def test_a_hook_that_fires_too_often_is_an_error():
    model = bridge("llama")
    with pytest.raises(InputError, match="fired 2 times instead of 1"), hooked(model, {END: lambda t: None}):
        run(model, torch.tensor([[5, 6]]))
        run(model, torch.tensor([[5, 6]]))
    with hooked(model, {END: lambda t: None}, times=2):
        run(model, torch.tensor([[5, 6]]))
        run(model, torch.tensor([[5, 6]]))


def test_what_a_hook_returns_is_used_and_none_leaves_it():
    model = bridge("llama")
    plain = end_of(model, [[5, 6, 7]])
    with hooked(model, {"blocks.1.attn.hook_z": torch.zeros_like}):
        assert not torch.equal(end_of(model, [[5, 6, 7]]), plain)
    with hooked(model, {"blocks.1.attn.hook_z": lambda t: None}):
        assert torch.equal(end_of(model, [[5, 6, 7]]), plain)


@pytest.mark.parametrize("where", ["in the block", "in a hook", "in a run from a layer"])
def test_an_exception_leaves_no_trace(where):
    model = bridge("llama")
    plain = end_of(model, [[5, 6, 7]])

    def boom(_activation):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), torch.no_grad():
        if where == "in the block":
            with hooked(model, {END: torch.zeros_like}):
                raise ZeroDivisionError
        with hooked(model, {"blocks.2.attn.hook_z": boom}):
            if where == "in a hook":
                run(model, torch.tensor([[5, 6]]))
            run_from(model, 1, torch.zeros(1, 3, 32).double(), torch.tensor([[5, 6, 7]]))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert not any("forward" in block.__dict__ for block in model.blocks)
    assert not any(block._forward_pre_hooks for block in model.blocks)
    assert torch.equal(end_of(model, [[5, 6, 7]]), plain)


def test_half_precision_runs_without_a_cache():
    model, tokens = bridge("olmo2", torch.bfloat16), sequences((6,))
    with torch.no_grad():
        wanted = model(torch.tensor(tokens))
        found = anatomy(model).unembed(end_of(model, tokens))
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=0.02)


@pytest.mark.parametrize("family", ["gpt2", "gptj"])
@pytest.mark.parametrize("measure", [wb.extreme_tokens, wb.head_scores])
def test_a_model_without_positions_for_a_sequence_says_so(family, measure):
    with pytest.raises(wb.InputError, match="has 129 tokens, but the model's context has 128"):
        measure(bridge(family), sequences((129,)), progress=False)


def test_what_stands_before_counts_as_well():
    model = bridge("gpt2")
    with pytest.raises(wb.InputError, match="has 129 tokens"):
        capture(model, sequences((3,)), {}, prefix_cache(model, sequences((126,))))


def test_rotary_positions_beyond_training_are_warned_of():
    with pytest.warns(wb.WorkbenchWarning, match="has 129 tokens, and the model's context has 128"):
        wb.extreme_tokens(bridge("llama"), sequences((129,)), progress=False)


@pytest.mark.skipif(not RECENT, reason="GLM-DSA is another model in this version of transformers")
def test_sequences_of_which_attention_would_choose_keys_are_refused():
    model = load(specimen("GlmMoeDsaForCausalLM", index_topk=4))
    run(model, torch.tensor(sequences((4,))))
    with pytest.raises(InputError, match=r"has 5 tokens, and attention of this model chooses 4 keys.*max_tokens=4"):
        wb.extreme_tokens(model, sequences((5, 4)), progress=False)
