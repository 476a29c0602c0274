"""Exact path patching where branches cannot be recomputed one by one: the model runs again for every sender.

The definition is that of `path.py`, taken literally. What every mixer puts out is frozen at its value in base
(`models.frozen`), except that the sender takes source's at the read positions; embeddings, norms and MLPs are
computed by the model itself. A sender is a set of heads, by their z, or a whole layer: z of all its heads, and the
output of mixers without heads (linear attention, state-space, convolution). The senders of an example share a batch.
The cost is a forward pass over the prompt for each sender and example.
"""

import time
import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import WorkbenchWarning
from workbench.models.anatomy import Anatomy
from workbench.models.frozen import Sent, mixed, refrozen
from workbench.patching.answers import Reads, reads
from workbench.patching.units import Senders
from workbench.prompts.pairs import PromptPairs
from workbench.protocol import HookedModel
from workbench.runs.batching import Batches

LONG = 60.0
"""Seconds from which a run is announced beforehand."""


@torch.no_grad()
def rerun(
    model: HookedModel, parts: Anatomy, read: Reads, sent: Senders, batches: Batches
) -> Float[Tensor, "cell row d_model"]:
    """The stream in front of the final norm at each read position: of base, with each sender patched, and of source."""
    return torch.cat([_one(model, parts, read, number, sent, batches) for number in range(len(read.base))], dim=1)


def _one(
    model: HookedModel, parts: Anatomy, read: Reads, number: int, sent: Senders, batches: Batches
) -> Float[Tensor, "cell row d_model"]:
    """The same for one token sequence of the reads."""
    base, source = read.base[number], read.source[number]
    own, other = mixed(model, parts, base), mixed(model, parts, source)
    at, at_source = read.ends(number, len(base)), read.ends(number, len(source))

    def work(cells: list[int]) -> Tensor:
        heads, whole = (torch.from_numpy(mask[cells]) for mask in (sent.mask, sent.whole))
        return refrozen(model, parts, base, own, Sent(other, heads, whole, at, at_source))[:, at]

    patched = [stream for _, stream in batches.over(sent.sending.tolist(), work)]
    return torch.cat([own.last[at][None], *patched, other.last[at_source][None]])


@torch.no_grad()
def unsent(model: HookedModel, parts: Anatomy, read: Reads) -> list[Float[Tensor, "row d_model"]]:
    """The stream in front of the final norm at each read position, of base and of source."""
    return [
        torch.cat([mixed(model, parts, s).last[read.ends(number, len(s))] for number, s in enumerate(side)])
        for side in (read.base, read.source)
    ]


def announce(model: HookedModel, parts: Anatomy, pairs: PromptPairs, sent: Senders) -> None:
    """Warn of a run that will take long, from the time that one forward pass takes.

    The first of two is not counted: it may load kernels.
    """
    read = reads(pairs[:1])
    for _ in range(2):
        start = time.perf_counter()
        with torch.no_grad():
            mixed(model, parts, read.base[0])
        one = time.perf_counter() - start
    runs = sum(len(s) for s in reads(pairs).base) / len(read.base[0])
    seconds = one * runs * len(sent.sending)
    if seconds > LONG:
        warnings.warn(
            f"The parts of {parts.architecture} cannot be recomputed one by one, so path patching runs the model again "
            f"for each of {len(sent.sending)} senders and {len(pairs)} examples: about {seconds / 60:.0f} min here. "
            "Fewer examples, units= or unit='layer' take less; resume= keeps what is done.",
            WorkbenchWarning,
            stacklevel=3,
        )
