import math

import pytest
import torch

import workbench as wb
from workbench.bigram_backcopy import STRUCTURES, Task, Toy, architecture, measure, published, stacked
from workbench.bigram_backcopy.structures import Architecture
from workbench.errors import InputError
from workbench.models.capture import capture

TASK = Task()
SHAPES = [{}, {"attention": "relu"}, {"n_heads": 4}, {"norm": False}]


def slow_logits(model, tokens):
    """The model from its weights, one sequence, head and query at a time."""
    a = model.architecture

    def norm(x, ln):
        if not a.norm:
            return x
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * ln.w + ln.b

    rows = []
    for row in tokens:
        x = model.embed.W_E[row] + model.pos_embed.W_pos[: len(row)]
        for layer, block in enumerate(model.blocks):
            if a.has(layer, "attn"):
                y, out = norm(x, block.ln1), torch.zeros_like(x)
                for head in range(a.n_heads):
                    q, k, v = (y @ w[head] for w in (block.attn.W_Q, block.attn.W_K, block.attn.W_V))
                    for n in range(len(row)):
                        score = k[: n + 1] @ q[n] / math.sqrt(a.d_head)
                        weight = score.softmax(0) if a.attention == "softmax" else score.relu() / (n + 1)
                        out[n] += weight @ v[: n + 1] @ block.attn.W_O[head]
                x = x + out
            if a.has(layer, "mlp"):
                x = x + (norm(x, block.ln2) @ block.mlp.W_in).relu() @ block.mlp.W_out
        rows.append(norm(x, model.ln_final) @ model.unembed.W_U)
    return torch.stack(rows)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("changes", SHAPES)
@torch.no_grad()
def test_hooked_stacked_and_slow_models_agree(name, changes):
    shape = architecture(name, d_model=16, n_ctx=12, **changes)
    models = [Toy(shape, TASK.d_vocab, seed).double() for seed in range(2)]
    tokens = TASK.sample(6, 12).view(2, 3, 12)
    expected = torch.stack([slow_logits(model, part) for model, part in zip(models, tokens, strict=True)])
    hooked = torch.stack([model(part) for model, part in zip(models, tokens, strict=True)])
    weights = stacked.stack(models)
    fast = stacked.logits(weights, tokens, shape, torch.float64).view_as(expected)
    assert torch.allclose(hooked, expected, atol=1e-10)
    assert torch.allclose(fast.double(), expected, atol=1e-5)
    again = stacked.unstack(weights, 1, Toy(shape, TASK.d_vocab, 9).double())
    assert torch.equal(again(tokens[1]), hooked[1])


@torch.no_grad()
def test_attention_scores_are_those_in_front_of_the_softmax():
    model = Toy(architecture(d_model=16, n_ctx=12), TASK.d_vocab)
    tokens = TASK.sample(2, 12)
    seen = capture(
        model, tokens.tolist(), {f"blocks.0.attn.hook_{n}": lambda t: t for n in ("q", "k", "attn_scores", "pattern")}
    )
    q, k = seen["blocks.0.attn.hook_q"], seen["blocks.0.attn.hook_k"]
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 4
    causal = torch.ones(12, 12, dtype=torch.bool).tril()
    assert torch.allclose(seen["blocks.0.attn.hook_attn_scores"][..., causal], scores[..., causal], atol=1e-5)
    assert (seen["blocks.0.attn.hook_attn_scores"][..., ~causal] == -torch.inf).all()
    assert torch.allclose(seen["blocks.0.attn.hook_pattern"].sum(-1), torch.ones(2, 1, 12))


def test_the_initial_weights_are_the_papers():
    model = Toy(architecture(d_model=256, n_ctx=256), TASK.d_vocab)
    assert abs(model.embed.W_E.std() - 1) < 0.02
    assert abs((model.embed(torch.arange(60)[None]) + model.pos_embed.W_pos[:60]).norm(dim=-1).mean() - 22.6) < 0.5
    for weight, fan_in in ((model.blocks[0].attn.W_Q, 256), (model.blocks[0].mlp.W_out, 1024)):
        assert 0.99 < weight.abs().max() * math.sqrt(fan_in) <= 1
        assert abs(weight.std() * math.sqrt(3 * fan_in) - 1) < 0.02
    small = Toy(architecture(embedding_std=0.1), TASK.d_vocab)
    assert abs(small.embed.W_E.std() - 0.1) < 0.01


def test_absent_parts_fire_their_hooks_and_add_nothing():
    model = Toy(architecture("MLP+TF+MLP", d_model=16, n_ctx=12), TASK.d_vocab)
    names = [f"blocks.{layer}.hook_attn_out" for layer in range(3)]
    seen = capture(model, TASK.sample(2, 12).tolist(), {name: lambda t: t.detach() for name in names})
    assert [bool(seen[name].any()) for name in names] == [False, True, False]
    assert not any(name.startswith("blocks.0.attn") for name, _ in model.named_parameters())


@torch.no_grad()
def test_a_run_can_be_cut_in_two():
    model = Toy(architecture("2xTF", d_model=16, n_ctx=12), TASK.d_vocab)
    tokens = TASK.sample(2, 12)
    middle = model(tokens, stop_at_layer=1)
    assert torch.allclose(model(middle, start_at_layer=1), model(tokens))
    assert model(tokens, return_type=None) is None


@torch.no_grad()
def test_the_workbench_takes_it_for_a_hooked_transformer():
    model = Toy(architecture("2xTF", d_model=16, n_ctx=12, n_heads=2), TASK.d_vocab).double()
    shape = wb.anatomy(model)
    assert (shape.kind, shape.n_layers, shape.n_heads, shape.d_vocab) == ("hooked", 2, 2, TASK.d_vocab)
    tokens = TASK.sample(3, 12)
    resid = model(tokens, stop_at_layer=2)
    assert torch.allclose(shape.unembed(resid, None), model(tokens), atol=1e-6)


@torch.no_grad()
def test_path_patching_runs_on_it():
    model = Toy(architecture("2xTF", d_model=16, n_ctx=12, n_heads=2), TASK.d_vocab)
    base, source = TASK.sample(4, 10, seed=1).tolist(), TASK.sample(4, 10, seed=2).tolist()
    pairs = wb.PromptPairs(base, source, [(3, 4)] * 4)
    found = wb.path_patch(model, pairs, unit="head", metrics=("logit_diff",), progress=False)
    assert found["contribution"].sel(metric="logit_diff").shape == (2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: architecture("4xTF"), "There is no structure '4xTF'"),
        (lambda: architecture("1xTF", width=3), "An architecture has no 'width'"),
        (lambda: architecture(attention="relo"), "did you mean 'relu'"),
        (lambda: architecture(n_heads=3), "cannot be shared by 3 heads"),
        (lambda: Architecture(blocks=()), "a model is a list of blocks"),
        (
            lambda: Toy(architecture(n_ctx=8), TASK.d_vocab)(TASK.sample(1, 12)),
            "12 tokens are more than the 8 positions",
        ),
        (
            lambda: Toy(architecture(), TASK.d_vocab)(TASK.sample(1, 3), attention_mask=torch.tensor([[0, 1, 1]])),
            "pad on the right",
        ),
    ],
)
def test_shapes_that_cannot_be_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_authors_seed_gives_the_weights_of_torchs_default_layers():
    """Their model is torch's default layers in this order, drawn after `manual_seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        tables = [torch.nn.Embedding(67, 16), torch.nn.Embedding(12, 16)]
        maps = [
            torch.nn.Linear(*sizes, bias=False) for _ in range(2) for sizes in [(16, 16)] * 4 + [(16, 64), (64, 16)]
        ]
        out = torch.nn.Linear(16, 67, bias=False)
    model = Toy(architecture("2xTF", d_model=16, n_ctx=12, start="authors"), 67, published.SEED)
    assert torch.equal(model.embed.W_E, tables[0].weight)
    assert torch.equal(model.pos_embed.W_pos, tables[1].weight)
    assert torch.equal(model.unembed.W_U, out.weight.T)
    for block, mine in zip(model.blocks, (maps[:6], maps[6:]), strict=True):
        ours = [
            block.attn.W_Q[0],
            block.attn.W_K[0],
            block.attn.W_V[0],
            block.attn.W_O[0],
            block.mlp.W_in,
            block.mlp.W_out,
        ]
        assert all(torch.equal(a, b.weight.T) for a, b in zip(ours, mine, strict=True))


@pytest.mark.parametrize(
    ("structure", "attention", "name"), [("3xTF", "softmax", "three-layer"), ("3xTF", "relu", "three-layer-relu")]
)
def test_the_published_runs_begin_with_these_weights(structure, attention, name):
    """Numbers at step 0 hang on every weight of layer 0; they agree to the published digits."""
    task = Task(delimiters=1)
    model = Toy(
        architecture(structure, attention=attention, d_model=256, n_ctx=256, start="authors"), 67, published.SEED
    )
    found = measure(model, task, task.sample(16, 256, seed=5))
    assert round(float(found["residual_bos"][0]), 1) == pytest.approx(published.RESIDUAL[name][0], abs=0.051)
    if attention == "softmax":
        assert float(found["value_bos"][0, 0]) == pytest.approx(published.ONE_LAYER["value_bos"][0], abs=0.005)
        assert float(found["sink_logit"][0, 0]) == pytest.approx(published.ONE_LAYER["sink_logit"][0], abs=0.02)
