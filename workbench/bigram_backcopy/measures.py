"""Measures recorded while a toy model learns: losses, sinks, drains, peaks, and the attention of the copying head.

For one model and fixed evaluation sequences, per layer and head (`<s>` is position 0):

1. Losses against the oracle at trigger positions (`backcopy`) and elsewhere (`bigram`).
2. Sink: mean attention on `<s>` of queries that are no trigger (`sink`), of triggers (`sink_at_trigger`), and of
   triggers on the token before them (`previous`).
3. Drain: norm of W_O v of `<s>` (`value_bos`) and mean norm of the others (`value_others`).
4. Peak: norm of the residual stream after each block at `<s>` and elsewhere.
5. Sink logit: l[n, 0] minus the mean of l[n, j] over 1 <= j < n, averaged per token; its mean and 10th and 90th
   percentile over tokens that are no trigger.

The query at position 0, which sees only itself, and further BOS tokens are left out.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from workbench.bigram_backcopy.model import Toy
from workbench.bigram_backcopy.task import Task
from workbench.models.forward import hooked

LOSSES = ("backcopy", "backcopy_excess", "bigram", "bigram_excess", "accuracy")
PER_HEAD = (
    *("sink", "sink_at_trigger", "previous", "value_bos", "value_others"),
    *("sink_logit", "sink_logit_low", "sink_logit_high"),
)
PER_LAYER = ("residual_bos", "residual_others")
DIMS: Mapping[str, tuple[str, ...]] = (
    dict.fromkeys(LOSSES, ()) | dict.fromkeys(PER_HEAD, ("layer", "head")) | dict.fromkeys(PER_LAYER, ("layer",))
)
"""The dims of each measure of one model."""
PER_TOKEN = ("attention_to", "value_norm", "sink_logit_of")
"""Per layer, head and token: attention that it gets from non-trigger queries, its value norm, its sink logit."""


def measure(model: Toy, task: Task, tokens: Int[Tensor, "batch pos"], by_token: bool = False) -> dict[str, Tensor]:
    """All measures of one model on sequences of a task; hooks on the model (an intervention) count.

    `by_token` also splits attention, value norms and sink logits by token.

    Returns:
        Tensors by name: scalars for losses, `[layer, head]`, `[layer]` or `[layer, head, vocab]`.
    """
    groups = _Groups(task, tokens)
    found: dict[str, list[Tensor]] = {name: [] for name in (*PER_HEAD, *PER_LAYER, *(PER_TOKEN if by_token else ()))}

    def keep(values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            if name in found:
                found[name].append(value)

    hooks: dict[str, Callable[[Tensor], None]] = {}
    blocks: Any = model.blocks
    for layer, block in enumerate(blocks):
        name = f"blocks.{layer}"
        hooks[f"{name}.attn.hook_pattern"] = lambda pattern: keep(groups.attention(pattern))
        hooks[f"{name}.attn.hook_attn_scores"] = lambda scores: keep(groups.logits(scores))
        hooks[f"{name}.attn.hook_v"] = lambda v, out=block.attn.W_O: keep(groups.values(v, out))
        hooks[f"{name}.hook_resid_post"] = lambda resid: keep(groups.residual(resid))
    with torch.no_grad(), hooked(model, hooks):
        logits = model(tokens)
    losses = {name: torch.tensor(value) for name, value in task.losses(logits, tokens).items()}
    return losses | {name: torch.stack(values).cpu() for name, values in found.items()}


class _Groups:
    """Which queries and keys are averaged together, for one set of sequences."""

    def __init__(self, task: Task, tokens: Tensor):
        self.tokens, self.d_vocab = tokens, task.d_vocab
        self.trigger = torch.zeros(task.d_vocab, dtype=torch.bool, device=tokens.device)
        self.trigger[list(task.trigger_ids)] = True
        self.place = torch.arange(tokens.shape[1], device=tokens.device)
        self.late = self.place >= max(1, len(task.bos_ids))
        at_trigger = self.trigger[tokens]
        self.ruled, self.free = at_trigger & self.late, ~at_trigger & self.late

    def attention(self, pattern: Float[Tensor, "batch head query key"]) -> dict[str, Tensor]:
        """Attention on `<s>`, on the previous token, and by token."""
        on_bos = pattern[..., 0]
        before = pattern.diagonal(-1, -2, -1)
        before = torch.cat([torch.zeros_like(before[..., :1]), before], -1)
        received = einsum(pattern.float(), self.free.float(), "batch head query key, batch query -> batch head key")
        total = self._by_token(rearrange(received, "batch head key -> (batch key) head"), self.tokens)
        return {
            "sink": _mean(on_bos, self.free),
            "sink_at_trigger": _mean(on_bos, self.ruled),
            "previous": _mean(before, self.ruled),
            "attention_to": (total / self.free.sum()).T,
        }

    def logits(self, scores: Float[Tensor, "batch head query key"]) -> dict[str, Tensor]:
        """The sink logit, averaged over each token's occurrences, then over tokens."""
        length = scores.shape[-1]
        inner = torch.ones(length, length, dtype=torch.bool, device=scores.device).tril(-1)
        inner[:, 0] = False
        rest = scores.float().masked_fill(~inner, 0.0).sum(-1) / (self.place - 1)
        late = self.late & (self.place > 1)
        gap = rearrange((scores[..., 0].float() - rest)[..., late], "batch head query -> (batch query) head")
        which = self.tokens[:, late]
        per_token = self._by_token(gap, which) / self._count(which)
        usual = per_token[~self.trigger]
        usual = usual[~usual[:, 0].isnan()]
        return {
            "sink_logit": usual.mean(0),
            "sink_logit_low": usual.quantile(0.1, 0),
            "sink_logit_high": usual.quantile(0.9, 0),
            "sink_logit_of": per_token.T,
        }

    def values(self, v: Float[Tensor, "batch pos head d_head"], out: Float[Tensor, "head d_head d_model"]) -> dict:
        """Norms of values after the output projection."""
        norms = (
            einsum(v, out, "batch pos head d_head, head d_head d_model -> batch pos head d_model").norm(dim=-1).float()
        )
        total = self._by_token(norms.flatten(0, 1), self.tokens)
        return {
            "value_bos": norms[:, 0].mean(0),
            "value_others": norms[:, 1:].flatten(0, 1).mean(0),
            "value_norm": (total / self._count(self.tokens)).T,
        }

    def residual(self, resid: Float[Tensor, "batch pos d_model"]) -> dict[str, Tensor]:
        """Norms of the stream after a block."""
        norms = resid.float().norm(dim=-1)
        return {"residual_bos": norms[:, 0].mean(), "residual_others": norms[:, 1:].mean()}

    def _by_token(self, values: Tensor, which: Tensor) -> Tensor:
        """Sums of rows `[row, head]` over the occurrences of each token, `[vocab, head]`."""
        total = torch.zeros(self.d_vocab, values.shape[1], device=values.device)
        return total.index_add_(0, which.flatten(), values)

    def _count(self, which: Tensor) -> Tensor:
        return torch.bincount(which.flatten(), minlength=self.d_vocab)[:, None]


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean over chosen positions of `[batch, head, pos]`, NaN where there are none."""
    return (values.float() * where[:, None]).sum((0, 2)) / where.sum()
