"""The gradient per token against finite differences, other ways of taking it, and padding in every form."""

import pytest
import torch

from tests.leaf.made import examples, pair
from tests.tiny import TEN, bridge, tiny
from workbench.errors import InputError
from workbench.leaf import passes
from workbench.leaf.examples import Example
from workbench.leaf.passes import gradient, losses, rows_of, target_rows, token_losses
from workbench.models.anatomy import anatomy
from workbench.models.forward import hooked, run
from workbench.models.load import load

LAYER_NORM = ("gpt2", "gpt_neox")
"""Families that are float64 throughout; the others' RMSNorm goes through float32, whatever the model's dtype."""
CLOSE = {"atol": 1e-6, "rtol": 1e-5}


def taken(model, some, **more):
    return gradient(model, anatomy(model), target_rows(some, "cpu"), **more)


def norms(model, some):
    return torch.linalg.vector_norm(taken(model, some)[1], dim=-1)


def through_hooks(model, some):
    """The same with a hook on the model, which sends the run through TransformerLens."""
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: x)]):
        return taken(model, some)


@pytest.mark.parametrize("family", TEN)
def test_loss_is_the_mean_over_the_response_under_teacher_forcing(family):
    model, some = bridge(family), examples()
    for example, loss in zip(some, taken(model, some)[0], strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([example.tokens]))[0].double().log_softmax(-1)
        start = len(example.context)
        by_hand = -sum(logits[p - 1, example.tokens[p]] for p in range(start, len(example.tokens)))
        assert float(loss) == pytest.approx(float(by_hand) / len(example.target), abs=1e-6)


@pytest.mark.parametrize("family", TEN)
def test_the_norm_is_the_steepest_finite_difference(family):
    model, some = bridge(family), examples()[:2]
    parts, rows = anatomy(model), target_rows(some, "cpu")
    _, slope, _ = taken(model, some)
    for position in (0, 3):
        direction = slope[:, position] / slope[:, position].norm(dim=-1, keepdim=True)

        def moved(step, position=position, direction=direction):
            def turn(embedded):
                embedded = embedded.clone()
                embedded[:, position] += step * direction
                return embedded

            with torch.no_grad():
                return losses(model, parts, rows, turn)

        step, tolerance = (1e-5, 1e-7) if family in LAYER_NORM else (1e-3, 1e-3)
        found = (moved(step) - moved(-step)) / (2 * step)
        torch.testing.assert_close(found, slope[:, position].norm(dim=-1), rtol=tolerance, atol=1e-9)


@pytest.mark.parametrize("family", TEN)
def test_a_batch_gives_what_its_examples_give_alone(family):
    model, some = bridge(family), examples()
    together = norms(model, some)
    for row, example in enumerate(some):
        alone = norms(model, [example])
        n = len(example.tokens)
        torch.testing.assert_close(together[row, :n], alone[0], **CLOSE)
        assert not together[row, n:].any()


@pytest.mark.parametrize("family", TEN)
def test_the_bare_modules_and_transformer_lens_agree(family):
    model, some = bridge(family), examples()
    bare, hooks = taken(model, some), through_hooks(model, some)
    for a, b in zip(bare, hooks, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    assert model.original_model.config._attn_implementation == "eager"


def test_no_gradient_behind_the_last_scored_token():
    model, some = bridge("llama"), examples()
    slope = norms(model, some)
    for row, example in enumerate(some):
        last = len(example.tokens) - 1
        assert slope[row, :last].gt(0).all()
        assert not slope[row, last:].any()


def backward_hook(model, some):
    """The gradient at `hook_embed` by a backward hook, from a whole loss over whole logits."""
    kept = []
    tokens = torch.tensor([e.tokens for e in some])
    leaf = ("hook_embed", lambda x, hook: x.detach().requires_grad_(True))
    watch = ("hook_embed", lambda x, hook: kept.append(x.detach().clone()))
    with model.hooks(fwd_hooks=[leaf], bwd_hooks=[watch]):
        logits = model(tokens).log_softmax(-1)
        start = len(some[0].context)
        picked = logits[:, start - 1 : -1].gather(-1, tokens[:, start:, None])
        (-picked.mean(1).sum()).backward()
    return kept[0]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("family", ["llama", "qwen3", "olmo2"])
def test_backward_hook_forward_leaf_and_first_stream_agree_for_rotary_models(family):
    model, some = bridge(family), examples(((9, 4), (9, 4)))
    rows, parts = target_rows(some, "cpu"), anatomy(model)
    slope = taken(model, some)[1]
    torch.testing.assert_close(backward_hook(model, some), slope, **CLOSE)
    stream = []

    def leaf(x):
        stream.append(x.detach().requires_grad_(True))
        return stream[0]

    end, final = f"blocks.{parts.n_layers - 1}.hook_resid_post", []
    with hooked(model, {"blocks.0.hook_resid_pre": leaf, end: final.append}):
        run(model, rows.tokens)
    logits = parts.unembed(final[0][rows.row, rows.position], None)
    loss = torch.nn.functional.cross_entropy(logits, rows.label, reduction="none") / rows.count[rows.row]
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), stream)[0], slope, **CLOSE)


def left_padded(hf, example, n, masked):
    """The gradient at the real tokens behind n padding tokens on the left, with or without telling the model."""
    tokens = torch.tensor([[0] * n + list(example.tokens)])
    leaf = hf.get_input_embeddings()(tokens).detach().requires_grad_(True)
    keywords = {}
    if masked:
        mask = torch.tensor([[0] * n + [1] * len(example.tokens)])
        keywords = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    logits = hf(inputs_embeds=leaf, **keywords).logits.log_softmax(-1)
    start = n + len(example.context)
    picked = logits[0, start - 1 : -1].gather(-1, tokens[0, start:, None])
    return torch.autograd.grad(-picked.mean(), leaf)[0][0, n:].norm(dim=-1)


def test_left_padding_needs_mask_and_positions_and_then_agrees():
    example, hf = examples()[0], tiny("llama", torch.float32).requires_grad_(False)
    wanted = norms(bridge("llama", torch.float32), [example])[0]
    torch.testing.assert_close(left_padded(hf, example, 5, masked=True), wanted, atol=1e-5, rtol=1e-4)
    without = left_padded(hf, example, 5, masked=False)
    assert float((without - wanted).norm() / wanted.norm()) > 0.1


def test_parameters_get_no_gradient_and_ask_for_it_again_afterwards():
    model = load(tiny("llama"))
    some = next(model.original_model.parameters())
    some.requires_grad_(True)
    taken(model, examples())
    assert some.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_float16_gradients_do_not_round_to_zero(monkeypatch):
    """A confident teacher: gradients below float16's smallest number, which scaling brings back."""
    exact, half = (load(tiny("llama", dtype)) for dtype in (torch.float64, torch.float16))
    example = examples()[0]
    for model in (exact, half):
        model.original_model.lm_head.weight.mul_(1e-3)
        model.original_model.model.norm.weight.mul_(1e-4)
    wanted, found = norms(exact, [example])[0, :-1], norms(half, [example])[0, :-1]
    assert float(wanted.max()) < 6e-7
    torch.testing.assert_close(found.double(), wanted, rtol=0.05, atol=0)
    monkeypatch.setattr(passes, "HALF_SCALES", (1.0,))
    assert float(norms(half, [example]).max()) == 0


def test_a_scale_that_overflows_is_left_for_a_smaller_one(monkeypatch):
    model, some = load(tiny("llama", torch.float16)), examples()
    monkeypatch.setattr(passes, "HALF_SCALES", (1.0,))
    wanted = norms(model, some)
    monkeypatch.setattr(passes, "HALF_SCALES", (2.0**20, 1.0))
    torch.testing.assert_close(norms(model, some), wanted)


def test_bfloat16_ranks_like_float32():
    model, some = load(tiny("llama", torch.bfloat16)), examples()
    found, wanted = norms(model, some), norms(load(tiny("llama", torch.float32)), some)
    together = torch.stack([found.flatten(), wanted.flatten()])
    assert float(torch.corrcoef(together)[0, 1]) > 0.95


def test_a_gradient_that_is_nan_is_refused_by_the_models_name():
    model = load(tiny("llama"))
    model.original_model.model.norm.weight.data[0] = torch.nan
    with pytest.raises(InputError, match="The gradient of LlamaForCausalLM is NaN or infinite in row 0"):
        taken(model, examples())


def test_hooks_on_the_model_are_active():
    model, some = pair()[0], examples()
    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda x, hook: x * 0)]):
        changed = norms(model, some)
    assert not torch.allclose(changed, norms(model, some), atol=1e-3)


def test_rows_may_be_scored_from_any_token_on():
    model = bridge("llama")
    example = Example((5, 6, 7, 8), (9, 2), (True,) * 4)
    rows = rows_of([example.tokens], [1], "cpu")
    with torch.no_grad():
        found = token_losses(model, anatomy(model), rows)
        logits = model(torch.tensor([example.tokens]))[0].log_softmax(-1)
    by_hand = [-logits[p - 1, example.tokens[p]] for p in range(1, 6)]
    torch.testing.assert_close(found, torch.stack(by_hand), **CLOSE)
