"""The toy transformer with TransformerLens's hook names, interface and weight layout.

Every detector, patch and plot runs on it as on a `HookedTransformer`: `blocks.0.attn.hook_pattern`,
`blocks.0.attn.W_O`, `model(tokens, stop_at_layer=...)`. `hook_attn_scores` holds the scores in front of the softmax,
masked with -inf. A layer without attention (or without MLP) has one of zero weights that are not trained: its hooks
fire, it adds nothing.
"""

import math
from types import SimpleNamespace
from typing import Any, Literal

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from workbench.bigram_backcopy.structures import Architecture
from workbench.errors import InputError

EPS = 1e-5


class Toy(HookedRootModule):
    """A toy transformer, whose seed draws embeddings N(0, 1) and linear maps U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    kind = "hooked"
    tokenizer = None

    def __init__(self, architecture: Architecture, d_vocab: int, seed: int = 0):
        super().__init__()
        a = architecture
        self.architecture = a
        # The part of a HookedTransformer's configuration that others read.
        self.cfg: Any = SimpleNamespace(
            n_layers=a.n_layers,
            n_heads=a.n_heads,
            d_head=a.d_head,
            d_model=a.d_model,
            d_mlp=a.d_mlp,
            d_vocab=d_vocab,
            n_ctx=a.n_ctx,
            model_name=f"{a.name} ({a.attention}, d_model {a.d_model})",
            normalization_type="LN" if a.norm else None,
            act_fn="relu",
            n_key_value_heads=None,
            attn_only=False,
            parallel_attn_mlp=False,
            use_normalization_before_and_after=False,
            positional_embedding_type="standard",
            default_prepend_bos=False,
            original_architecture="BigramBackcopyToy",
            device="cpu",
            dtype=torch.float32,
        )
        generator = torch.Generator().manual_seed(seed)
        self.embed = Embed(d_vocab, a, generator)
        self.hook_embed = HookPoint()
        self.pos_embed = PosEmbed(a, generator)
        self.hook_pos_embed = HookPoint()
        self.blocks = nn.ModuleList(Block(a, layer, generator) for layer in range(a.n_layers))
        self.ln_final = Norm(a)
        self.unembed = Unembed(d_vocab, a, generator)
        if a.start == "authors":
            self._draw_as_the_authors(torch.Generator().manual_seed(seed))
        self.setup()

    @torch.no_grad()
    def _draw_as_the_authors(self, generator: torch.Generator) -> None:
        """The same laws in the order of torch's defaults: embeddings, each layer's maps (output by input), unembedding.

        A layer without attention draws its four maps all the same, one without MLP does not draw any.
        """
        a = self.architecture
        for table in (self.embed.W_E, self.pos_embed.W_pos):
            table.normal_(generator=generator).mul_(a.embedding_std)

        def drawn(rows: int, columns: int) -> Tensor:
            bound = 1 / math.sqrt(columns)
            return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator).T

        blocks: Any = self.blocks
        for layer, block in enumerate(blocks):
            heads = [drawn(a.d_model, a.d_model) for _ in range(4)]
            if a.has(layer, "attn"):
                for weight, value in zip((block.attn.W_Q, block.attn.W_K, block.attn.W_V), heads, strict=False):
                    weight.copy_(rearrange(value, "d_model (head d_head) -> head d_model d_head", head=a.n_heads))
                block.attn.W_O.copy_(
                    rearrange(heads[3], "(head d_head) d_model -> head d_head d_model", head=a.n_heads)
                )
            if a.has(layer, "mlp"):
                block.mlp.W_in.copy_(drawn(a.d_mlp, a.d_model))
                block.mlp.W_out.copy_(drawn(a.d_model, a.d_mlp))
        self.unembed.W_U.copy_(drawn(self.cfg.d_vocab, a.d_model))

    def forward(
        self,
        input: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        return_type: Literal["logits"] | None = "logits",
        *,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        **_ignored: Any,
    ) -> Any:
        """Logits of the next token, or the residual stream in front of `stop_at_layer`.

        With `start_at_layer` the input is the stream in front of it. Padding is allowed on the right only, where no
        mask is needed.
        """
        if attention_mask is not None and bool((attention_mask.diff(dim=1) > 0).any()):
            raise InputError("The toy models count positions from the first token: pad on the right, not on the left.")
        if start_at_layer is None:
            stream = self.hook_embed(self.embed(input)) + self.hook_pos_embed(self.pos_embed(input))
        else:
            stream = input
        for block in self.blocks[start_at_layer or 0 : stop_at_layer]:
            stream = block(stream)
        if stop_at_layer is not None:
            return stream
        return None if return_type is None else self.unembed(self.ln_final(stream))


class Embed(nn.Module):
    """Token embeddings `W_E [d_vocab, d_model]`."""

    def __init__(self, d_vocab: int, a: Architecture, generator: torch.Generator):
        super().__init__()
        self.W_E = nn.Parameter(torch.randn(d_vocab, a.d_model, generator=generator) * a.embedding_std)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Rows of `W_E`."""
        return self.W_E[tokens]


class PosEmbed(nn.Module):
    """Learned positions `W_pos [n_ctx, d_model]`."""

    def __init__(self, a: Architecture, generator: torch.Generator):
        super().__init__()
        self.W_pos = nn.Parameter(torch.randn(a.n_ctx, a.d_model, generator=generator) * a.embedding_std)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The first rows of `W_pos`, for each sequence."""
        if tokens.shape[1] > self.W_pos.shape[0]:
            raise InputError(
                f"{tokens.shape[1]} tokens are more than the {self.W_pos.shape[0]} positions of this model."
            )
        return repeat(self.W_pos[: tokens.shape[1]], "pos d_model -> batch pos d_model", batch=tokens.shape[0])


class Norm(nn.Module):
    """Layer norm with gain and bias, or nothing but its hooks where the architecture has no norms."""

    w: Tensor
    b: Tensor

    def __init__(self, a: Architecture):
        super().__init__()
        self.active = a.norm
        for name, start in (("w", torch.ones(a.d_model)), ("b", torch.zeros(a.d_model))):
            setattr(self, name, nn.Parameter(start) if a.norm else nn.Buffer(start, persistent=False))
        self.hook_scale, self.hook_normalized = HookPoint(), HookPoint()

    def forward(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """The normed stream."""
        if not self.active:
            self.hook_scale(torch.ones_like(x[..., :1]))
            return self.hook_normalized(x)
        x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.pow(2).mean(-1, keepdim=True) + EPS).sqrt())
        return self.hook_normalized(x / scale) * self.w + self.b


class Attention(nn.Module):
    """Causal attention with weights per head, softmax or ReLU."""

    mask: Tensor

    def __init__(self, a: Architecture, present: bool, generator: torch.Generator):
        super().__init__()
        self.relu = a.attention == "relu"
        shape, back = (a.n_heads, a.d_model, a.d_head), (a.n_heads, a.d_head, a.d_model)
        self.W_Q = _linear(shape, a.d_model, present, generator)
        self.W_K = _linear(shape, a.d_model, present, generator)
        self.W_V = _linear(shape, a.d_model, present, generator)
        self.W_O = _linear(back, a.d_model, present, generator)
        for name in ("b_Q", "b_K", "b_V"):
            self.register_buffer(name, torch.zeros(a.n_heads, a.d_head), persistent=False)
        self.register_buffer("b_O", torch.zeros(a.d_model), persistent=False)
        self.register_buffer("mask", torch.ones(a.n_ctx, a.n_ctx, dtype=torch.bool).triu(1), persistent=False)
        self.hook_q, self.hook_k, self.hook_v, self.hook_z = (HookPoint() for _ in range(4))
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What the heads add to the stream."""
        q, k, v = (
            hook(einsum(x, weight, "batch pos d_model, head d_model d_head -> batch pos head d_head"))
            for hook, weight in ((self.hook_q, self.W_Q), (self.hook_k, self.W_K), (self.hook_v, self.W_V))
        )
        n = x.shape[1]
        scores = einsum(q, k, "batch query head d_head, batch key head d_head -> batch head query key")
        scores = scores / math.sqrt(q.shape[-1])
        scores = self.hook_attn_scores(scores.masked_fill(self.mask[:n, :n], -torch.inf))
        visible = torch.arange(1, n + 1, device=x.device)[:, None]
        pattern = scores.relu() / visible if self.relu else scores.softmax(-1)
        pattern = self.hook_pattern(pattern)
        z = self.hook_z(einsum(pattern, v, "batch head query key, batch key head d_head -> batch query head d_head"))
        # Not einops.einsum, which sums head and d_head in the other order and so changes the last bits.
        return torch.einsum("bphd,hdm->bpm", z, self.W_O)


class MLP(nn.Module):
    """Two linear maps with a ReLU between them."""

    def __init__(self, a: Architecture, present: bool, generator: torch.Generator):
        super().__init__()
        self.W_in = _linear((a.d_model, a.d_mlp), a.d_model, present, generator)
        self.W_out = _linear((a.d_mlp, a.d_model), a.d_mlp, present, generator)
        self.register_buffer("b_in", torch.zeros(a.d_mlp), persistent=False)
        self.register_buffer("b_out", torch.zeros(a.d_model), persistent=False)
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    def forward(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """What the MLP adds to the stream."""
        return self.hook_post(self.hook_pre(x @ self.W_in).relu()) @ self.W_out


class Block(nn.Module):
    """Attention, then an MLP, each read from the normed stream and added to it."""

    def __init__(self, a: Architecture, layer: int, generator: torch.Generator):
        super().__init__()
        self.ln1, self.ln2 = Norm(a), Norm(a)
        self.attn = Attention(a, a.has(layer, "attn"), generator)
        self.mlp = MLP(a, a.has(layer, "mlp"), generator)
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_mid = HookPoint(), HookPoint(), HookPoint()
        self.hook_mlp_out, self.hook_resid_post = HookPoint(), HookPoint()

    def forward(self, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the block."""
        stream = self.hook_resid_pre(stream)
        stream = self.hook_resid_mid(stream + self.hook_attn_out(self.attn(self.ln1(stream))))
        return self.hook_resid_post(stream + self.hook_mlp_out(self.mlp(self.ln2(stream))))


class Unembed(nn.Module):
    """The untied map to logits `W_U [d_model, d_vocab]`."""

    def __init__(self, d_vocab: int, a: Architecture, generator: torch.Generator):
        super().__init__()
        self.W_U = _linear((a.d_model, d_vocab), a.d_model, True, generator)
        self.register_buffer("b_U", torch.zeros(d_vocab), persistent=False)

    def forward(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_vocab"]:
        """Logits."""
        return x @ self.W_U


def _linear(shape: tuple[int, ...], fan_in: int, present: bool, generator: torch.Generator) -> Tensor:
    """Weights drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), or zeros that are no parameter."""
    if not present:
        return nn.Buffer(torch.zeros(shape), persistent=False)
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.rand(shape, generator=generator) * 2 * bound - bound)
