"""The teacher's next-token distributions at the scored positions, computed in the loop or read from disk.

1. In the loop, the teacher reads every batch without gradients.
2. From disk, it has read every lesson once before the first update. Of each scored position the k likeliest tokens with
   their log-probabilities, and the log-probability of all others together, lie in one safetensors file that is read by
   memory-mapping, so it may be larger than memory. The file is named after the teacher, the lessons, k and the
   temperature: the next run, a resumed run and runs of other students find it again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.leaf.divergence import TopK, divergence, top_k, top_k_divergence
from workbench.leaf.examples import Example, digest
from workbench.leaf.passes import target_rows
from workbench.models.original import half_precision
from workbench.runs.files import check_writable, write_atomic
from workbench.runs.progress import hidden


def observed(
    hf: Any, examples: Sequence[Example], vocabulary: int, attention: bool = False
) -> tuple[Float[Tensor, "scored d_vocab"], tuple[Float[Tensor, "batch head query key"], ...]]:
    """Logits that predict the target tokens of some examples, one example after the other, and attention if wanted.

    The logits at a position predict the token after it: the first row of an example stands at the last token of its
    context, and nothing is read after the last target token. The examples run in one pass of a Hugging Face model, of
    which the logits of the first `vocabulary` tokens are kept; for attention its implementation must be eager.
    """
    parameter = next(hf.parameters())
    rows = target_rows(examples, parameter.device)
    first = int(rows.position.min())
    keywords: dict[str, Any] = {"use_cache": False, "logits_to_keep": rows.tokens.shape[1] - first}
    if attention:
        keywords["output_attentions"] = True
    with half_precision(parameter):
        out = hf(input_ids=rows.tokens, **keywords)
    row, place = rows.row.to(out.logits.device), (rows.position - first).to(out.logits.device)
    return out.logits[row, place, :vocabulary], tuple(out.attentions) if attention else ()


@dataclass(frozen=True)
class InTheLoop:
    """A teacher, a Hugging Face model, that reads every batch."""

    hf: Any
    vocabulary: int
    temperature: float | int

    def divergence(
        self, examples: Sequence[Example], student: Float[Tensor, "scored d_vocab"]
    ) -> Float[Tensor, " scored"]:
        """KL of the student's logits at every scored position."""
        with torch.no_grad():
            logits, _ = observed(self.hf, examples, self.vocabulary)
        return divergence(logits.to(student.device), student, self.temperature)


class FromDisk:
    """A teacher that has read everything: its top-k log-probabilities in the file of `cached`, memory-mapped."""

    def __init__(self, file: Path, temperature: float | int):
        self.path, self.temperature = file, temperature
        self._file = safe_open(str(file), "pt")
        offsets = json.loads((self._file.metadata() or {})["offsets"])
        self._span = {name: (start, stop) for name, start, stop in offsets}
        self._slices = {name: self._file.get_slice(name) for name in ("index", "log_p", "rest")}

    def read(self, examples: Sequence[Example]) -> TopK:
        """The teacher's top-k distributions at the scored positions of some examples."""
        spans = [self._span[_key(e)] for e in examples]
        parts = {name: torch.cat([view[a:b] for a, b in spans]) for name, view in self._slices.items()}
        return TopK(parts["index"].long(), parts["log_p"], parts["rest"])

    def divergence(
        self, examples: Sequence[Example], student: Float[Tensor, "scored d_vocab"]
    ) -> Float[Tensor, " scored"]:
        """KL of the student's logits at every scored position."""
        said = TopK(*[part.to(student.device, non_blocking=True) for part in self.read(examples)])
        return top_k_divergence(said, student, self.temperature)


def cached(
    hf: Any,
    examples: Sequence[Example],
    folder: str | Path,
    *,
    identity: str,
    k: int,
    vocabulary: int,
    temperature: float | int = 1.0,
    micro_batch: int = 8,
    progress: bool = True,
) -> FromDisk:
    """Let the teacher, of which `identity` tells the weights, read every example once, or find what it said."""
    if not 1 <= k <= vocabulary:
        raise InputError(f"top_k={k} must be between 1 and the vocabulary's {vocabulary} tokens.")
    distinct = sorted({_key(e): e for e in examples}.values(), key=lambda e: len(e.tokens))
    facts = [identity, digest(distinct), k, vocabulary, temperature]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = check_writable(folder) / f"teacher-{name}.safetensors"
    if path.exists():
        return FromDisk(path, temperature)
    pieces = []
    starts = range(0, len(distinct), micro_batch)
    for start in tqdm(starts, desc="the teacher reads", disable=hidden(progress), leave=False):
        with torch.no_grad():
            logits, _ = observed(hf, distinct[start : start + micro_batch], vocabulary)
            found = top_k(logits, k, temperature)
        pieces.append(TopK(found.index.int().cpu(), found.log_p.cpu(), found.rest.cpu()))
    tensors = {name: torch.cat([getattr(p, name) for p in pieces]) for name in TopK._fields}
    ends = accumulate((len(e.target) for e in distinct), initial=0)
    offsets = [[_key(e), *span] for e, span in zip(distinct, pairwise(ends), strict=True)]
    write_atomic(path, lambda file: save_file(tensors, file, {"offsets": json.dumps(offsets)}))
    return FromDisk(path, temperature)


def _key(example: Example) -> str:
    return hashlib.sha256(json.dumps([example.tokens, len(example.context)]).encode()).hexdigest()[:24]
