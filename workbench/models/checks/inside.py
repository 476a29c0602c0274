"""Checks inside the model: weights, recomputed blocks, attention patterns, the KV map, and writes at hooks."""

from collections.abc import Callable
from typing import Literal

import torch
from einops import einsum, repeat
from jaxtyping import Float
from torch import Tensor

from workbench.models import exact
from workbench.models.anatomy import kind_of
from workbench.models.checks.context import CheckContext, NotApplicable, Outcome, worst
from workbench.models.exact import relative_error
from workbench.models.forward import hooked, run
from workbench.models.frozen import frozen_error
from workbench.models.original import original_logits
from workbench.models.state import left_hooks

WRITTEN = ("q", "k", "v", "z", "pattern", "attn_out", "mlp_out")


# The weights, and the model as a whole.


def finite_weights(context: CheckContext) -> Outcome:
    """Parameters with NaN or infinity."""
    parameters = [p for p in context.model.parameters() if p.is_floating_point()]
    bad = sum(1 for p in parameters if not p.is_meta and not torch.isfinite(p).all())
    words = f"Parameters with NaN or infinity, of {len(parameters)}."
    return Outcome(bad, 0, words, "The file is damaged or training diverged.")


def hooks_left(context: CheckContext) -> Outcome:
    """Hooks that were added outside a `with` block."""
    left = left_hooks(context.model)
    words = f"Hook points and modules with a hook of no `with` block ({', '.join(left[:3]) or 'none'})."
    return Outcome(len(left), 0, words, "They act on all that is measured; model.reset_hooks() removes them.")


def hugging_face_logits(context: CheckContext) -> Outcome:
    """The model's logits against the Hugging Face model's own modules."""
    if context.reference is not None:
        wanted = context.reference(input_ids=context.tokens.to(context.reference.device)).logits
    else:
        wanted = original_logits(context.model, context.tokens)
    if wanted is None:
        raise NotApplicable("A HookedTransformer keeps no Hugging Face model to compare with; pass one as reference=.")
    return Outcome(
        relative_error(context.logits, wanted.to(context.logits.device)),
        context.tolerance,
        "Logits against the Hugging Face model called directly, relative error.",
        "TransformerLens computes something else than the original here, or the model was changed after it "
        "was wrapped; its numbers are not those of the model on disk.",
    )


def recomputed(what: Literal["attention", "stream"], words: str) -> Callable[[CheckContext], Outcome]:
    """The check of one number of `exact.Agreement`."""
    return lambda context: Outcome(
        getattr(context.agreement, what),
        context.tolerance,
        f"{words}, relative error.",
        "The architecture holds something that the known block layouts do not, so patching by recomputation "
        "would be wrong.",
    )


def recomputed_logits(context: CheckContext) -> Outcome:
    """Logits from the stream after the last block."""
    return Outcome(
        exact.recomputed_logits(context.model),
        context.tolerance,
        "Logits, recomputed from the stream after the last block, relative error.",
        "Something between the last block and the logits is not known, so scores of answers would be wrong.",
    )


def frozen_mixers(context: CheckContext) -> Outcome:
    """With the outputs of all mixers frozen, the last token is computed without the others, and so are its logits."""
    if kind_of(context.model) == "hooked":
        raise NotApplicable("A HookedTransformer keeps no Hugging Face model, which this way of patching runs.")
    return Outcome(
        frozen_error(context.model),
        context.tolerance,
        "The stream and the logits at the last of a few tokens, with the outputs of attention and of other mixers "
        "frozen and other tokens before it, relative error; this is how path patching runs a model again.",
        "Something else moves information between tokens, or its output cannot be frozen.",
    )


def residual_identity(context: CheckContext) -> Outcome:
    """Stream before plus attention plus MLP equals the stream after, as the hooks show them."""
    if context.parts.whole_mixers:
        raise NotApplicable("Layers hold other mixers than attention, which also add to the stream.")
    words = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    layers = [[layer[word] for word in words] for layer in context.seen(*words)]
    return Outcome(
        worst(relative_error(before + attn + mlp, after) for before, attn, mlp, after in layers),
        context.tolerance,
        "resid_pre + attn_out + mlp_out against resid_post, relative error of the worst layer.",
        "The blocks add something else to the stream, or scale it, and attributing it to heads and MLPs misses that.",
    )


# Attention.


def attention_rows(context: CheckContext) -> Outcome:
    """Every row of the attention pattern sums to 1."""
    layers = context.seen("attn.hook_pattern")
    sums = [layer["attn.hook_pattern"].double().sum(-1) for layer in layers]
    return Outcome(
        worst(float((s - 1).abs().max()) for s in sums),
        context.tolerance,
        "Rows of attention: largest distance of their sum from 1.",
        "The model has a learned sink, or no softmax, so weights on tokens are not shares of attention.",
    )


def kv_map_read(context: CheckContext) -> Outcome:
    """Query head h's z is its pattern times the values of KV head h // group_size."""
    words = ("attn.hook_pattern", "attn.hook_v", "attn.hook_z")
    size = context.parts.group_size
    errors = []
    for layer in context.seen(*words):
        pattern, v, z = (layer[word].double() for word in words)
        v = repeat(v, "batch key kv_head d_head -> batch key (kv_head group_head) d_head", group_head=size)
        mixed = einsum(pattern, v, "batch head query key, batch key head d_head -> batch query head d_head")
        errors.append(relative_error(mixed, z))
    return Outcome(
        worst(errors),
        context.tolerance,
        f"z of query head h against its pattern times v of KV head h // {size}, relative error of the worst layer.",
        "Heads are not grouped in this order, or z holds more than attention, so KV groups name the wrong heads.",
    )


def kv_map_write(context: CheckContext) -> Outcome:
    """Zeroing the values of KV head g zeroes z of its group and of no other head, in every layer."""
    parts, errors = context.parts, []
    owners = torch.eye(parts.n_kv_heads, dtype=torch.bool)

    def without_group(v: Float[Tensor, "batch pos kv_head d_head"]) -> Tensor:
        keep = torch.cat([torch.ones_like(owners[:1]), ~owners]).to(v.device)
        return v * keep[:, None, :, None]

    def compare(z: Float[Tensor, "batch pos head d_head"]) -> Tensor:
        keep = ~repeat(owners.to(z.device), "batch kv_head -> batch (kv_head group_head)", group_head=parts.group_size)
        missed = z[1:] - z[:1] * keep[:, None, :, None]
        errors.append(float(missed.double().norm() / z[:1].double().norm()))
        return repeat(z[0], "pos head d_head -> batch pos head d_head", batch=len(z)).contiguous()

    layers = context.head_layers
    hooks: dict[str, Callable[[Tensor], Tensor]] = {f"blocks.{i}.attn.hook_v": without_group for i in layers}
    with hooked(context.model, hooks | {f"blocks.{i}.attn.hook_z": compare for i in layers}):
        run(context.model, repeat(context.tokens, "1 pos -> batch pos", batch=parts.n_kv_heads + 1))
    return Outcome(
        worst(errors),
        context.tolerance,
        f"z with v of KV head g zeroed, against z with query heads {parts.group_size} g to "
        f"{parts.group_size} g + {parts.group_size - 1} zeroed, relative error of the worst layer.",
        "Writing values does not act on exactly the group's heads, so KV groups cannot be intervened on.",
    )


def writes(hook: str) -> Callable[[CheckContext], Outcome]:
    """The check that what is written at a hook reaches the output, in every layer."""

    def reaches(context: CheckContext) -> Outcome:
        layers, n = context.head_layers, context.parts.n_layers
        inside = "" if hook.endswith("_out") else "attn."
        ends: list[Tensor] = []

        def disturb(row: int) -> Callable[[Tensor], Tensor]:
            def write(activation: Tensor) -> Tensor:
                changed = activation.clone()
                changed[row] = 1.5 * activation[row].roll(1, dims=0) + 0.5
                return changed

            return write

        hooks: dict[str, Callable[[Tensor], Tensor | None]] = {
            f"blocks.{i}.{inside}hook_{hook}": disturb(row) for row, i in enumerate(layers)
        }
        end = {f"blocks.{n - 1}.hook_resid_post": lambda t: ends.append(t.clone())}
        with hooked(context.model, hooks), hooked(context.model, end):
            run(context.model, repeat(context.tokens, "1 pos -> batch pos", batch=len(layers) + 1))
        ignored = sum(1 for row in ends[0][:-1] if torch.equal(row, ends[0][-1]))
        return Outcome(
            ignored,
            0,
            f"Layers, of {len(layers)}, in which a disturbance written at hook_{hook} changes nothing behind the last.",
            "TransformerLens shows a copy there that the model does not read; patching it would report 0 "
            "for everything.",
        )

    return reaches
