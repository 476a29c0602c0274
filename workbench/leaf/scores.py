"""The scores of how confounding each token is, and how to add one of your own.

A score is one number per prunable token, and says whether "low" or "high" values are the confounding ones. With l the
student's (S) or teacher's (T) mean loss on the gold response, e_i the embedding of token i and [·] the min-max over the
prunable tokens of one example (0 where all are equal):

    gradient_difference      [ [|dl_T/de_i|] - [|dl_S/de_i|] ]        low: the student looks, the teacher does not
    raw_gradient_difference  |dl_T/de_i| - |dl_S/de_i|                low
    student_gradient         |dl_S/de_i|                              high
    teacher_gradient         |dl_T/de_i|                              low, the other half of the difference alone
    gradient_x_input         e_i · dl_S/de_i                          high: the token raises the loss, to first order
    integrated_gradients     the same along the way from e_i = 0      high
    occlusion                l_S - l_S without token i                high: the loss falls when the token goes
    attention_difference     share of the student's attention minus the teacher's    high
    student_attention        share of the student's attention         high
    perplexity               -log p_S(token i | those before it)      high
    random                   uniform, from the seed and the example   high

The first is that of LeaF (arXiv 2506.07851, released code); random and perplexity are the baselines of its ablation.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import InputError
from workbench.leaf.examples import Example, digest
from workbench.leaf.thresholds import unit_range
from workbench.leaf.views import View
from workbench.names import Confounding
from workbench.registry import named


@dataclass(frozen=True)
class Batch:
    """What a score is computed from.

    Attributes:
        examples: the batch, in the student's tokens.
        student: what the student shows of it.
        teacher: what the teacher shows of it, for the same tokens.
        prunable: which tokens count.
        seed: of scores that draw.
        steps: points of `integrated_gradients`.
    """

    examples: Sequence[Example]
    student: View
    teacher: View
    prunable: Bool[Tensor, "example pos"]
    seed: int = 0
    steps: int = 16

    def unit(self, values: Float[Tensor, "example pos"]) -> Float[Tensor, "example pos"]:
        """Min-max over the prunable tokens of each example; 0 where they are all equal, NaN elsewhere."""
        kept = torch.where(self.prunable, values, torch.nan)
        return torch.from_numpy(unit_range(kept.numpy()))


Compute = Callable[[Batch], Float[Tensor, "example pos"]]


@dataclass(frozen=True)
class TokenScore:
    """A number per token, and which end of it is confounding.

    Attributes:
        name: its name.
        confounding: "low" or "high".
        compute: the values of a batch; what is not prunable is ignored.
        title: its name in words.
    """

    name: str
    confounding: Confounding
    compute: Compute
    title: str = ""


def _random(batch: Batch) -> Float[Tensor, "example pos"]:
    found = np.zeros(batch.prunable.shape)
    for row, example in enumerate(batch.examples):
        own = hashlib.sha256(f"{batch.seed} {digest([example])}".encode()).digest()
        found[row] = np.random.default_rng(int.from_bytes(own[:8])).random(found.shape[1])
    return torch.from_numpy(found)


_OURS: tuple[tuple[str, Confounding, Compute], ...] = (
    (
        "gradient_difference",
        "low",
        lambda batch: batch.unit(batch.unit(batch.teacher.gradient) - batch.unit(batch.student.gradient)),
    ),
    ("raw_gradient_difference", "low", lambda batch: batch.teacher.gradient - batch.student.gradient),
    ("student_gradient", "high", lambda batch: batch.student.gradient),
    ("teacher_gradient", "low", lambda batch: batch.teacher.gradient),
    ("gradient_x_input", "high", lambda batch: batch.student.gradient_x_input),
    ("integrated_gradients", "high", lambda batch: batch.student.integrated_gradients(batch.steps)),
    ("occlusion", "high", lambda batch: batch.student.occlusion),
    ("attention_difference", "high", lambda batch: batch.student.attention - batch.teacher.attention),
    ("student_attention", "high", lambda batch: batch.student.attention),
    ("perplexity", "high", lambda batch: batch.student.surprise),
    ("random", "high", _random),
)
_TITLES = {
    "raw_gradient_difference": "gradient difference, not normalised",
    "student_gradient": "student's gradient",
    "teacher_gradient": "teacher's gradient",
    "gradient_x_input": "gradient × input",
    "student_attention": "student's attention",
}
SCORES: dict[str, TokenScore] = {
    name: TokenScore(name, side, compute, _TITLES.get(name, name.replace("_", " "))) for name, side, compute in _OURS
}
"""The scores that come with workbench, by name."""
ADDED: dict[str, TokenScore] = {}


def score(name: str, *, confounding: Confounding, title: str = "") -> Callable[[Compute], TokenScore]:
    """Make and register a score of your own; it, or its name, can be used wherever ours can.

        @wb.leaf.score("gradient_ratio", confounding="high")
        def ratio(batch):
            return batch.student.gradient / batch.teacher.gradient

    Args:
        name: its name, none of ours; registered again, it replaces itself.
        confounding: "low" or "high": which values mark a confounding token.
        title: its name in words.

    Raises:
        InputError: a name of ours, or an unknown side.
    """
    if name in SCORES:
        raise InputError(f"{name!r} is a score of workbench and cannot be replaced; give yours another name.")
    if confounding not in ("low", "high"):
        raise InputError(f"confounding={confounding!r}: a score's confounding values are 'low' or 'high'.")

    def register(compute: Compute) -> TokenScore:
        ADDED[name] = TokenScore(name, "low" if confounding == "low" else "high", compute, title or name)
        return ADDED[name]

    return register


def scores_named(names: Iterable[str | TokenScore] | str | TokenScore) -> list[TokenScore]:
    """The scores of these names, each once; "all" gives those that come with workbench."""
    if names == "all":
        return list(SCORES.values())
    return named(names, SCORES | ADDED, TokenScore)
