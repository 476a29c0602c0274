"""The simplified one-layer model of the theory, trained on the real task.

Embeddings are one-hot. A query v that is no trigger gives `<s>` the logit alpha_v and every other visible key 0; a
trigger t gives the token before it lambda_t and the others 0. The value of a token k is xi_k on its own logit, that of
`<s>` is O beta, a free vector after a trained map; an MLP on the current token adds its logits. The map O is needed
for the value to drain: Adam leaves a bare vector as large as it was.
"""

from typing import Any

import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.bigram_backcopy.task import Task
from workbench.bigram_backcopy.training import EVALUATION_SEED, log_spaced
from workbench.errors import InputError
from workbench.runs.results import provenance


class Simplified(nn.Module):
    """Logits from one head with hand-made attention and an MLP, for a language with one BOS token."""

    def __init__(self, task: Task, hidden: int = 128, seed: int = 0):
        super().__init__()
        if len(task.bos_ids) != 1:
            raise InputError(f"The simplified model needs one BOS token; {task!r} has {len(task.bos_ids)}.")
        generator = torch.Generator().manual_seed(seed)
        n = task.d_vocab

        def drawn(*shape: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) * scale)

        self.alpha, self.lam, self.xi, self.beta = drawn(n), drawn(n), drawn(n), drawn(n)
        self.O = drawn(n, n)
        self.W_in, self.W_out = drawn(n, hidden, scale=n**-0.5), drawn(hidden, n, scale=hidden**-0.5)
        trigger = torch.zeros(n, dtype=torch.bool)
        trigger[list(task.trigger_ids)] = True
        self.trigger = nn.Buffer(trigger)

    @property
    def value_bos(self) -> Float[Tensor, " d_vocab"]:
        """The value of `<s>`."""
        return self.O @ self.beta

    def attention(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch query key"]:
        """The attention pattern."""
        n = tokens.shape[1]
        scores = torch.zeros(*tokens.shape, n)
        at_trigger = self.trigger[tokens]
        first = torch.zeros(n)
        first[0] = 1.0
        scores = scores + torch.where(at_trigger, 0.0, self.alpha[tokens])[..., None] * first
        before = torch.diag(torch.ones(n - 1), -1)
        scores = scores + torch.where(at_trigger, self.lam[tokens], 0.0)[..., None] * before
        return scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of the next token."""
        pattern = self.attention(tokens)
        moved = pattern[..., 1:] @ (F.one_hot(tokens[:, 1:], self.xi.shape[0]).float() * self.xi)
        mlp = self.W_in[tokens].relu() @ self.W_out
        return moved + pattern[..., :1] * self.value_bos + mlp


def train_simplified(
    task: Task, *, steps: int = 4000, lr: float = 0.03, batch: int = 64, length: int = 64, seed: int = 0
) -> tuple[Simplified, xr.Dataset]:
    """Train the simplified model with AdamW on fresh sequences.

    Returns:
        The model, and a Dataset with `backcopy`, `bigram_excess`, `sink`, `value_bos`, and the mean and 10th and 90th
        percentile of alpha over characters that are no trigger, per step.
    """
    model = Simplified(task, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    fixed = task.sample(64, length, seed=EVALUATION_SEED)
    looks = log_spaced(steps)
    rows: list[dict[str, Any]] = []
    tokens = fixed
    for step in range(steps + 1):
        if step in looks:
            rows.append({"step": step} | _look(model, task, fixed))
        if step % 64 == 0:
            tokens = task.sample(64 * batch, length + 1, seed=(seed << 32) + step)
        part = tokens[step % 64 * batch :][:batch]
        loss = F.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    columns = {name: ("step", [row[name] for row in rows]) for name in rows[0] if name != "step"}
    attrs = provenance(task=task.settings, lr=lr, batch=batch, length=length, seed=seed)
    return model, xr.Dataset(columns, coords={"step": [row["step"] for row in rows]}, attrs=attrs)


@torch.no_grad()
def _look(model: Simplified, task: Task, tokens: Tensor) -> dict[str, float]:
    losses = task.losses(model(tokens), tokens)
    free = ~model.trigger[tokens] & task.scored(tokens)
    usual = torch.tensor([i for i in tokens.unique().tolist() if i not in (*task.trigger_ids, *task.bos_ids)])
    alpha = model.alpha[usual]
    return {
        "backcopy": losses["backcopy"],
        "bigram_excess": losses["bigram_excess"],
        "sink": float(model.attention(tokens)[..., 0][free].mean()),
        "value_bos": float(model.value_bos.norm()),
        "alpha": float(alpha.mean()),
        "alpha_low": float(alpha.quantile(0.1)),
        "alpha_high": float(alpha.quantile(0.9)),
    }
