import pytest
import torch
import torch.nn.functional as F

from workbench.bigram_backcopy import Task, Toy, architecture
from workbench.bigram_backcopy.gradients import gradients
from workbench.bigram_backcopy.stacked import stack, used

TASK = Task()


def by_autograd(models, tokens):
    """Losses and gradients of the hooked models, one after the other."""
    losses = []
    for model, own in zip(models, tokens, strict=True):
        loss = F.cross_entropy(model(own[:, :-1]).flatten(0, 1), own[:, 1:].flatten())
        loss.backward()
        losses.append(loss.detach())
    for model in models:
        for parameter in model.parameters():
            parameter.data = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
    return torch.stack(losses), stack(models)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"attention": "relu"}, {"n_heads": 2}, {"norm": False}])
@pytest.mark.parametrize("structure", ["1xTF", "Attn+TF+MLP"])
def test_gradients_by_hand_are_those_of_autograd(structure, changes, seeds):
    shape = architecture(structure, d_model=16, n_ctx=12, **changes)
    models = [Toy(shape, TASK.d_vocab, seed).double() for seed in range(seeds)]
    tokens = TASK.sample(4 * seeds, 10, seed=1).view(seeds, 4, 10)
    found_losses, found = gradients(stack(models), tokens, shape, torch.float64)
    losses, expected = by_autograd(models, tokens)
    assert torch.allclose(found_losses, losses, atol=1e-12)
    assert set(found) == {name for name in expected if used(name, shape)}
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], atol=1e-12), name


def test_low_precision_rounds_products_only():
    shape = architecture("2xTF+MLP", d_model=32, n_ctx=16)
    weights = stack([Toy(shape, TASK.d_vocab, seed) for seed in (0, 1)])
    tokens = TASK.sample(16, 17, seed=2).view(2, 8, 17)
    exact_losses, exact = gradients(weights, tokens, shape, torch.float32)
    rounded_losses, rounded = gradients(weights, tokens, shape, torch.bfloat16)
    assert torch.allclose(exact_losses, rounded_losses, rtol=5e-3)
    for name, gradient in rounded.items():
        assert gradient.dtype == torch.float32
        assert F.cosine_similarity(gradient.flatten(), exact[name].flatten(), dim=0) > 0.999, name
    # A common shift of all logits changes nothing, so nothing may push it; rounded gradients of logits would.
    assert rounded["unembed.W_U"].sum(-1).abs().max() < 1e-6
