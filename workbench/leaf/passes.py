"""Running a model on padded examples: the loss of each on its gold response, and that loss's gradient per token.

1. Rows are padded on the right, where causal attention lets nothing see the padding, so a batch gives what its examples
   give alone. No logits are computed but those that predict a scored token.
2. The output of the embedding is cut off from the graph and made the leaf of a new one; parameters are frozen. The
   backward pass then reaches activations only, and costs about one more forward pass.
3. In float16 the loss is multiplied by a power of two before the backward pass and the gradient divided by it in
   float32, with a smaller power where something overflowed: small gradients would round to zero otherwise. (bfloat16
   has float32's range and needs none.)
4. While no hooks are on a bridge, the Hugging Face modules run by themselves with fused attention; hooks (an
   intervention) send the run through TransformerLens, so that their effect is measured.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from workbench.errors import InputError
from workbench.leaf.examples import Example
from workbench.models.anatomy import Anatomy, kind_of
from workbench.models.attention import has_hooks
from workbench.models.forward import hooked, pad, run
from workbench.models.original import fused_attention, inner_module, unwrapped
from workbench.models.state import frozen
from workbench.models.weights import require_gradients
from workbench.protocol import HookedModel

Turn = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_model"]]
"""What happens to the embeddings before the first layer reads them."""
HALF_SCALES = tuple(2.0**k for k in (16, 12, 8, 4, 0))
"""What a float16 loss is multiplied by, the first of them that does not overflow."""


@dataclass(frozen=True)
class Rows:
    """Sequences, padded on the right, with the row and id of each scored token and the position that predicts it.

    `count` is the number of scored tokens of each row.
    """

    tokens: Int[Tensor, "batch pos"]
    row: Int[Tensor, " scored"]
    position: Int[Tensor, " scored"]
    label: Int[Tensor, " scored"]
    count: Int[Tensor, " batch"]


def rows_of(sequences: Sequence[Sequence[int]], starts: Sequence[int], device: Any) -> Rows:
    """Rows in which all tokens from a start on, 1 or later, are scored."""
    tokens, _ = pad([list(s) for s in sequences], device)
    row = [i for i, (s, start) in enumerate(zip(sequences, starts, strict=True)) for _ in s[start:]]
    scored = [p for s, start in zip(sequences, starts, strict=True) for p in range(start, len(s))]
    count = [len(s) - start for s, start in zip(sequences, starts, strict=True)]
    where, at = torch.tensor(row, device=device), torch.tensor(scored, device=device, dtype=torch.long)
    return Rows(tokens, where, at - 1, tokens[where, at], torch.tensor(count, device=device))


def target_rows(examples: Sequence[Example], device: Any) -> Rows:
    """Rows of examples, scored on their targets."""
    return rows_of([e.tokens for e in examples], [len(e.context) for e in examples], device)


def token_losses(model: HookedModel, parts: Anatomy, rows: Rows, turn: Turn | None = None) -> Float[Tensor, " scored"]:
    """-log p of each scored token, in float32 at least."""
    final = _last_stream(model, parts, rows.tokens, turn)
    read = final[rows.row.to(final.device), rows.position.to(final.device)]
    logits = parts.unembed(read, None)
    return cross_entropy(logits, rows.label.to(logits.device), reduction="none")


def losses(model: HookedModel, parts: Anatomy, rows: Rows, turn: Turn | None = None) -> Float[Tensor, " batch"]:
    """The mean of -log p over each row's scored tokens."""
    each = token_losses(model, parts, rows, turn)
    total = each.new_zeros(len(rows.count)).index_add(0, rows.row.to(each.device), each)
    return total / rows.count.to(each.device)


def gradient(
    model: HookedModel, parts: Anatomy, rows: Rows, turn: Turn | None = None
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]]:
    """Losses, their gradients with respect to the embeddings, and the embeddings at which they were taken."""
    require_gradients(model)
    scales = HALF_SCALES if parts.dtype == "float16" else (1.0,)
    with frozen(model), torch.enable_grad():
        for scale in scales:
            leaves: list[Tensor] = []

            def leaf(embedded: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
                moved = embedded.detach() if turn is None else turn(embedded.detach())
                leaves.append(moved.requires_grad_(True))
                return leaves[0]

            each = losses(model, parts, rows, leaf)
            (slope,) = torch.autograd.grad(each.sum() * scale, leaves)
            wide = slope.to(torch.promote_types(slope.dtype, torch.float32)) / scale
            if bool(torch.isfinite(wide).all()):
                return each.detach(), wide, leaves[0].detach()
    bad = int((~torch.isfinite(wide).flatten(1).all(1)).nonzero()[0])
    if parts.dtype == "float16":
        cause = "float16 overflows; load the model with dtype='bfloat16' or 'float32'"
    else:
        cause = "a model that diverged in training, or a hook on it that overflows"
    raise InputError(
        f"The gradient of {parts.name} is NaN or infinite in row {bad} of a batch (its loss is "
        f"{each.detach()[bad].item():.3g}), so no token of it can be scored. The usual cause: {cause}."
    )


def _last_stream(
    model: HookedModel, parts: Anatomy, tokens: Tensor, turn: Turn | None
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last block."""
    kept: list[Tensor] = []
    if kind_of(model) == "hooked" or has_hooks(model):
        end = f"blocks.{parts.n_layers - 1}.hook_resid_post"
        with _turning(model, turn), hooked(model, {end: kept.append}):
            run(model, tokens)
        return kept[0]
    last = inner_module(model.blocks[-1])
    with unwrapped(model) as hf, _turning(model, turn), fused_attention(hf):
        handle = last.register_forward_hook(
            lambda _module, _args, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        try:
            hf.base_model(input_ids=tokens, use_cache=False)
        finally:
            handle.remove()
    return kept[0]


@contextmanager
def _turning(model: HookedModel, turn: Turn | None) -> Generator[None]:
    """Replace the output of the embedding matrix, before any multiplier or position."""
    if turn is None:
        yield
    elif kind_of(model) == "hooked":
        with hooked(model, {"hook_embed": turn}):
            yield
    else:
        embedding = inner_module(model.original_model.get_input_embeddings())
        handle = embedding.register_forward_hook(lambda _module, _args, out: turn(out))
        try:
            yield
        finally:
            handle.remove()
