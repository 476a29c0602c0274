"""Heads switched off online, against each sequence alone and layer by layer by hand."""

import numpy as np
import pytest
import torch
import xarray as xr

import workbench as wb
from tests.inactive_heads import slow
from tests.tiny import bridge, sequences, tiny
from workbench.errors import InputError
from workbench.inactive_heads import FIFTEEN, head_scores, zero_heads, zero_heads_cached
from workbench.models.anatomy import anatomy
from workbench.models.forward import hooked, pad

FAMILIES = ["llama", "qwen2", "gemma2", "olmo2", "gpt2", "gpt_neox", "mistral"]


def logits_of(model, tokens, mask=None):
    with torch.no_grad():
        return model.original_model(input_ids=tokens, attention_mask=mask, use_cache=False).logits


def between(values):
    """A threshold in the widest gap of the middle half of the values, so that rounding decides nothing."""
    ordered = np.sort(np.unique(np.asarray(values)))
    low, high = len(ordered) // 4, max(len(ordered) // 4 + 2, 3 * len(ordered) // 4)
    gaps = np.diff(ordered[low:high])
    at = low + int(gaps.argmax())
    return float((ordered[at] + ordered[at + 1]) / 2)


def zeroing(mask):
    return lambda z: z.masked_fill(mask[None, None, :, None], 0)


def by_hand(model, ids, name, tau):
    """Masks and last logits of one sequence alone: every layer judged with the layers below already zeroed."""
    parts = anatomy(model)
    hooks, masks = {}, []
    for layer in range(parts.n_layers):
        seen = {}
        names = [f"blocks.{layer}.attn.{w}" for w in ("hook_pattern", "hook_v", "hook_z")]
        with (
            hooked(model, hooks),
            hooked(model, {n: lambda t, n=n, s=seen: s.__setitem__(n, t[0].clone()) for n in names}),
        ):
            logits_of(model, torch.tensor([ids]))
        scores = torch.tensor(slow.layer_scores(*(seen[n] for n in names), parts.blocks[layer].w_o())[name])
        masks.append(scores > tau if name in slow.ABOVE else scores < tau)
        hooks[names[2]] = zeroing(masks[-1])
    with hooked(model, hooks):
        return torch.stack(masks), logits_of(model, torch.tensor([ids]))[0, -1]


@pytest.mark.parametrize("name", FIFTEEN)
def test_every_score_zeroes_as_by_hand(name):
    model, texts = bridge("llama"), sequences((9, 5, 7))
    tau = between(head_scores(model, texts, name))
    tokens, last = pad(texts, "cpu")
    with zero_heads(model, score=name, tau=tau) as zeroed:
        found = logits_of(model, tokens)
    assert 0 < zeroed.share < 1
    total = 0
    for i, ids in enumerate(texts):
        masks, wanted = by_hand(model, ids, name, tau)
        assert torch.equal(torch.stack([zeroed.last[layer][i] for layer in range(3)]), masks)
        torch.testing.assert_close(found[i, last[i]], wanted, rtol=0, atol=1e-6)
        total = total + masks.double()
    np.testing.assert_allclose(zeroed.frequency, total / 3)
    assert zeroed.share == pytest.approx(float(total.mean()) / 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_zeroes_as_by_hand(family):
    model, texts = bridge(family), sequences((8, 6))
    for name in ("AHON_LN", "AEQD_LN"):
        tau = between(head_scores(model, texts, name))
        tokens, last = pad(texts, "cpu")
        with zero_heads(model, score=name, tau=tau):
            found = logits_of(model, tokens)
        for i, ids in enumerate(texts):
            torch.testing.assert_close(found[i, last[i]], by_hand(model, ids, name, tau)[1], rtol=0, atol=1e-6)


def test_padding_is_known_from_a_mask_or_a_padding_token():
    model, texts = wb.load(tiny("llama", torch.float32)), sequences((8, 4))
    tau = between(head_scores(model, texts, "AWFT"))
    wanted = [by_hand(model, ids, "AWFT", tau)[1] for ids in texts]
    right, zeros = torch.tensor([texts[0], texts[1] + [0] * 4]), torch.zeros(4, dtype=torch.long)
    mask = torch.tensor([[1] * 8, [1] * 4 + [0] * 4])
    left, left_mask = torch.stack([right[0], torch.cat([zeros, right[1, :4]])]), mask.flip(-1)
    left_mask[0] = 1
    with zero_heads(model, score="AWFT", tau=tau):
        by_mask = logits_of(model, right, mask)
        on_the_left = logits_of(model, left, left_mask)
        unknown = logits_of(model, right)
    with zero_heads(model, score="AWFT", tau=tau, padding=0):
        by_token = logits_of(model, right)
    for found in (by_mask[1, 3], by_token[1, 3]):
        torch.testing.assert_close(found, wanted[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(by_mask[0, 7], wanted[0], rtol=0, atol=1e-4)
    assert float((unknown[1, 3] - wanted[1]).abs().max()) > 1e-2
    assert torch.isfinite(on_the_left[:, -1]).all()


def test_left_padding_decides_like_no_padding():
    model = wb.load(tiny("gpt_neox", torch.float32))
    texts = sequences((8, 4))
    for name in ("AWFT", "FTVVN_LN", "LTHON_LN", "AHON"):
        tau = between(head_scores(model, texts, name))
        mask = torch.tensor([[0] * 4 + [1] * 4])
        tokens = torch.tensor([[0] * 4 + texts[1]])
        with zero_heads(model, score=name, tau=tau) as zeroed, torch.no_grad():
            model.original_model(input_ids=tokens, attention_mask=mask, use_cache=False)
        masks, _ = by_hand(model, texts[1], name, tau)
        assert torch.equal(torch.stack([zeroed.last[layer][0] for layer in range(3)]), masks), name


def test_fixed_heads_equal_taking_their_weights_away():
    model, texts = bridge("llama"), sequences((7,))
    heads = [(0, 1), (2, 3), (2, 0)]
    other = wb.load(tiny("llama"))
    for layer, head in heads:
        other.original_model.model.layers[layer].self_attn.o.original_component.weight.data[
            :, head * 8 : head * 8 + 8
        ] = 0
    tokens = torch.tensor(texts)
    mask = torch.zeros(3, 4, dtype=torch.bool)
    for layer, head in heads:
        mask[layer, head] = True
    found = []
    for given in (heads, mask, mask.numpy(), mask[None], xr.DataArray(mask.numpy(), dims=("layer", "head"))):
        with zero_heads(model, heads=given) as zeroed:
            found.append(logits_of(model, tokens))
        assert zeroed.share == pytest.approx(3 / 12)
    for logits in found:
        torch.testing.assert_close(logits, logits_of(other, tokens), rtol=0, atol=1e-10)


def test_masks_per_sequence_belong_to_their_sequences():
    model, texts = bridge("gpt2"), sequences((6, 6))
    masks = torch.rand(2, 3, 4) < 0.4
    tokens = torch.tensor(texts)
    with zero_heads(model, heads=masks):
        both = logits_of(model, tokens)
    for i in range(2):
        with zero_heads(model, heads=masks[i]):
            torch.testing.assert_close(logits_of(model, tokens[i : i + 1])[0], both[i], rtol=0, atol=1e-10)
    with (
        pytest.raises(InputError, match="The mask holds 2 sequences, but this pass runs 1"),
        zero_heads(model, heads=masks),
    ):
        logits_of(model, tokens[:1])


def test_nothing_and_everything_can_be_zeroed():
    model, tokens = bridge("gpt2"), torch.tensor(sequences((6,)))
    scores = head_scores(model, tokens, "AHON_LN")
    with zero_heads(model, score="AHON_LN", tau=float(scores.isel(layer=0).min())):
        first = logits_of(model, tokens)
    assert first.shape == logits_of(model, tokens).shape
    with zero_heads(model, score="AHON", tau=torch.inf) as zeroed:
        none_left = logits_of(model, tokens)
    assert zeroed.share == 1
    kept = {
        f"blocks.{i}.hook_attn_out": lambda t, i=i: (
            anatomy(model).blocks[i].attn_out(torch.zeros(*t.shape[:2], 4, 8, dtype=t.dtype))
        )
        for i in range(3)
    }
    with hooked(model, kept):
        torch.testing.assert_close(none_left, logits_of(model, tokens), rtol=0, atol=1e-10)


def test_random_heads_match_the_share_and_repeat_with_the_seed():
    model, tokens = bridge("llama"), torch.tensor(sequences((5,) * 8))

    def masks(**options):
        with zero_heads(model, **options) as zeroed:
            for _ in range(40):
                logits_of(model, tokens[:, :2])
        return zeroed

    once, again, other = masks(random=0.25), masks(random=0.25), masks(random=0.25, seed=1)
    assert torch.equal(once.counts, again.counts) and not torch.equal(once.counts, other.counts)
    assert once.share == pytest.approx(0.25, abs=0.03)
    by_layer = masks(random=[0.0, 1.0, 0.5])
    assert by_layer.frequency.mean(1).tolist() == pytest.approx([0, 1, 0.5], abs=0.04)


def test_blocks_nest_and_an_exception_leaves_nothing_behind():
    model, tokens = bridge("llama"), torch.tensor(sequences((6,)))
    before = logits_of(model, tokens)
    with zero_heads(model, heads=[(0, 0)]), zero_heads(model, heads=[(1, 2)]):
        nested = logits_of(model, tokens)
    with zero_heads(model, heads=[(0, 0), (1, 2)]):
        torch.testing.assert_close(logits_of(model, tokens), nested, rtol=0, atol=0)
    with pytest.raises(ZeroDivisionError), zero_heads(model, heads=[(0, 0)]):
        logits_of(model, tokens)
        raise ZeroDivisionError
    assert torch.equal(logits_of(model, tokens), before)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert not model.original_model.base_model._forward_pre_hooks


def test_a_layer_without_output_has_scores_of_one_and_keeps_its_heads():
    model, tokens = bridge("llama"), torch.tensor(sequences((6,)))
    whole = [(1, h) for h in range(4)]
    with zero_heads(model, heads=whole):
        found = head_scores(model, tokens, ["AHON_LN", "LTHON_LN", "LTHON_HN", "FHON_LN", "AHON"])
        with zero_heads(model, score="AHON_LN", tau=0.5) as zeroed:
            logits_of(model, tokens)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sel(layer=1, score=["AHON_LN", "LTHON_LN", "LTHON_HN", "FHON_LN"]), 1)
    np.testing.assert_allclose(found.sel(layer=1, score="AHON"), 0)
    assert zeroed.frequency[1].sum() == 0


def generated(model, tokens, n, **options):
    with torch.no_grad():
        return model.original_model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=n, do_sample=False, pad_token_id=0, **options
        )


def test_generation_without_a_cache_is_exact():
    model, ids = wb.load(tiny("llama", torch.float32)), sequences((6,))[0]
    tau = between(head_scores(model, [ids], "AHON_LN"))
    wanted = list(ids)
    for _ in range(6):
        wanted.append(int(by_hand(model, wanted, "AHON_LN", tau)[1].argmax()))
    with zero_heads(model, score="AHON_LN", tau=tau):
        found = generated(model, torch.tensor([ids]), 6, use_cache=False, eos_token_id=None)
        by_bridge = model.generate(
            torch.tensor([ids]),
            max_new_tokens=6,
            do_sample=False,
            use_past_kv_cache=False,
            verbose=False,
            stop_at_eos=False,
        )
    assert found[0].tolist() == wanted
    assert by_bridge[0].tolist() == wanted


def test_generation_with_a_cache_needs_the_other_method():
    model, ids = wb.load(tiny("llama", torch.float32)), sequences((6,))[0]
    tau = between(head_scores(model, [ids], "AHON_LN"))
    with (
        pytest.raises(InputError, match=r"goes on from 6 cached positions.*use_cache=False.*zero_heads_cached"),
        zero_heads(model, score="AHON_LN", tau=tau),
    ):
        generated(model, torch.tensor([ids]), 3)
    masks, _ = by_hand(model, ids, "AHON_LN", tau)
    with zero_heads(model, heads=masks):
        wanted = generated(model, torch.tensor([ids]), 6, eos_token_id=None)
    with zero_heads_cached(model, score="AHON_LN", tau=tau) as zeroed:
        found = generated(model, torch.tensor([ids]), 6, eos_token_id=None)
    assert torch.equal(found, wanted)
    np.testing.assert_allclose(zeroed.frequency, masks.double())


def test_scores_of_attention_come_too_late_where_the_model_hides_them():
    model = bridge("gptj")
    with (
        pytest.raises(InputError, match="shows its attention only after z"),
        zero_heads(model, score="AWFT", tau=0.5),
    ):
        logits_of(model, torch.tensor([[5, 6]]))
    with zero_heads(model, score="AHON_LN", tau=1.0) as zeroed:
        logits_of(model, torch.tensor([[5, 6]]))
    assert 0 < zeroed.share < 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "Say in one way which heads to zero"),
        ({"score": "AHON"}, "Say in one way which heads to zero"),
        ({"score": "AHON", "tau": 0.1, "random": 0.1}, "Say in one way which heads to zero"),
        ({"score": "AHON", "tau": float("nan")}, "tau=nan is no threshold for AHON"),
        ({"score": "AHO", "tau": 0.5}, "There is no score 'AHO'"),
        ({"heads": [(3, 0)]}, r"There is no head \(3, 0\): this model has layers 0 to 2 and heads 0 to 3"),
        ({"heads": [0, 1]}, r"heads= takes pairs \(layer, head\)"),
        ({"heads": np.zeros((2, 4), bool)}, r"The mask has shape \[2, 4\]; this model needs"),
        ({"random": 1.5}, "random=1.5 must be a share from 0 to 1"),
        ({"random": [0.1, 0.2]}, "one for each of the 3 layers"),
    ],
)
def test_bad_input_is_named(options, text):
    with pytest.raises(InputError, match=text), zero_heads(bridge("llama"), **options):
        pass


def test_a_row_of_padding_cannot_be_judged():
    model = wb.load(tiny("llama", torch.float32))
    tokens, mask = torch.tensor([[5, 6], [7, 8]]), torch.tensor([[1, 1], [0, 0]])
    with pytest.raises(InputError, match="Row 1 of this pass is all padding"), zero_heads(model, score="AHON", tau=1.0):
        logits_of(model, tokens, mask)
