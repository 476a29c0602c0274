"""The teacher's next-token distributions at the scored positions, computed in the loop or read from disk.

1. In the loop, the teacher reads every batch without gradients.
2. From disk, it has read every lesson once before the first update. Of each scored position the k likeliest tokens with
   their log-probabilities, and the log-probability of all others together, lie in one safetensors file that is read by
   memory-mapping, so it may be larger than memory. The file is named after the teacher, the lessons, k and the
   temperature: the next run, a resumed run and runs of other students find it again.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from workbench.errors import InputError
from workbench.leaf.divergence import TopK, divergence, top_k, top_k_divergence
from workbench.leaf.examples import Example, digest
from workbench.models.original import half_precision
from workbench.runs.files import check_writable, write_atomic


def scored_logits(hf: Any, examples: Sequence[Example], vocabulary: int) -> Float[Tensor, "scored d_vocab"]:
    """Logits that predict the target tokens of some examples, one example after the other.

    The logits at a position predict the token after it: the first row of an example stands at the last token of its
    context, and nothing is read after the last target token.

    Args:
        hf: a Hugging Face model.
        examples: run in one pass, padded on the right.
        vocabulary: logits of so many tokens are kept.
    """
    return observed(hf, examples, vocabulary)[0]


def observed(
    hf: Any, examples: Sequence[Example], vocabulary: int, attention: bool = False
) -> tuple[Float[Tensor, "scored d_vocab"], tuple[Float[Tensor, "batch head query key"], ...]]:
    """The same, with the attention of every layer.

    Args:
        hf: a Hugging Face model; for attention its implementation must be eager.
        examples: run in one pass, padded on the right.
        vocabulary: logits of so many tokens are kept.
        attention: whether attention is wanted; else there is none.
    """
    width = max(len(e.tokens) for e in examples)
    keep = width - min(len(e.context) for e in examples) + 1
    tokens = torch.tensor([[*e.tokens, *[e.tokens[-1]] * (width - len(e.tokens))] for e in examples])
    parameter = next(hf.parameters())
    keywords: dict[str, Any] = {"use_cache": False, "logits_to_keep": keep}
    if attention:
        keywords["output_attentions"] = True
    with half_precision(parameter):
        out = hf(input_ids=tokens.to(parameter.device), **keywords)
    row, place = scored_places(examples)
    place = place - (width - keep)
    logits = out.logits[row.to(out.logits.device), place.to(out.logits.device), :vocabulary]
    return logits, tuple(out.attentions) if attention else ()


def scored_places(examples: Sequence[Example]) -> tuple[Int[Tensor, " scored"], Int[Tensor, " scored"]]:
    """Row and position of the logits that predict each target token.

    Args:
        examples: the rows.
    """
    row = torch.tensor([i for i, e in enumerate(examples) for _ in e.target])
    place = torch.tensor([p - 1 for e in examples for p in range(len(e.context), len(e.tokens))])
    return row, place


class InTheLoop:
    """A teacher that reads every batch.

    Args:
        hf: its Hugging Face model.
        vocabulary: tokens that both models know.
        temperature: T.
    """

    def __init__(self, hf: Any, vocabulary: int, temperature: float | int):
        self.hf, self.vocabulary, self.temperature = hf, vocabulary, temperature

    def divergence(
        self, examples: Sequence[Example], student: Float[Tensor, "scored d_vocab"]
    ) -> Float[Tensor, " scored"]:
        """KL of the student at every scored position.

        Args:
            examples: what the teacher reads.
            student: the student's logits there.
        """
        with torch.no_grad():
            logits = scored_logits(self.hf, examples, self.vocabulary)
        return divergence(logits.to(student.device), student, self.temperature)


class FromDisk:
    """A teacher that has read everything: its top-k log-probabilities, memory-mapped.

    Args:
        file: written by `cached`.
        temperature: T that it was written at.
    """

    def __init__(self, file: Path, temperature: float | int):
        self.path, self.temperature = file, temperature
        self._file = safe_open(str(file), "pt")
        offsets = json.loads((self._file.metadata() or {})["offsets"])
        self._span = {name: (start, stop) for name, start, stop in offsets}
        self._slices = {name: self._file.get_slice(name) for name in ("index", "log_p", "rest")}

    def read(self, examples: Sequence[Example]) -> TopK:
        """The teacher's top-k distributions at the scored positions of some examples.

        Args:
            examples: what the teacher has read.
        """
        spans = [self._span[_key(e)] for e in examples]
        parts = {name: torch.cat([view[a:b] for a, b in spans]) for name, view in self._slices.items()}
        return TopK(parts["index"].long(), parts["log_p"], parts["rest"])

    def divergence(
        self, examples: Sequence[Example], student: Float[Tensor, "scored d_vocab"]
    ) -> Float[Tensor, " scored"]:
        """KL of the student at every scored position.

        Args:
            examples: what the teacher has read.
            student: the student's logits there.
        """
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
    """Let the teacher read every example once, or find its stored distributions.

    Args:
        hf: the teacher's Hugging Face model.
        examples: what it reads.
        folder: where the file lies.
        identity: of the teacher's weights.
        k: tokens kept per position, at most the vocabulary.
        vocabulary: tokens that both models know.
        temperature: T.
        micro_batch: examples per pass.
        progress: show a bar.

    Raises:
        InputError: k outside 1 to the vocabulary, or a folder that cannot be written.
    """
    if not 1 <= k <= vocabulary:
        raise InputError(f"top_k={k} must be between 1 and the vocabulary's {vocabulary} tokens.")
    distinct = sorted({_key(e): e for e in examples}.values(), key=lambda e: len(e.tokens))
    facts = [identity, digest(distinct), k, vocabulary, temperature]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = check_writable(folder) / f"teacher-{name}.safetensors"
    if not path.exists():
        _write(path, distinct, _said(hf, distinct, k, vocabulary, temperature, micro_batch, progress))
    return FromDisk(path, temperature)


def _said(
    hf: Any,
    examples: list[Example],
    k: int,
    vocabulary: int,
    temperature: float | int,
    micro_batch: int,
    progress: bool,
) -> Iterator[TopK]:
    starts = tqdm(range(0, len(examples), micro_batch), desc="the teacher reads", disable=not progress, leave=False)
    for start in starts:
        with torch.no_grad():
            logits = scored_logits(hf, examples[start : start + micro_batch], vocabulary)
            found = top_k(logits, k, temperature)
        yield TopK(found.index.int().cpu(), found.log_p.cpu(), found.rest.cpu())


def _write(path: Path, examples: list[Example], said: Iterator[TopK]) -> None:
    pieces = list(said)
    tensors = {name: torch.cat([getattr(p, name) for p in pieces]) for name in TopK._fields}
    offsets, stop = [], 0
    for e in examples:
        offsets.append([_key(e), stop, stop + len(e.target)])
        stop += len(e.target)
    write_atomic(path, lambda file: save_file(tensors, file, {"offsets": json.dumps(offsets)}))


def _key(example: Example) -> str:
    return hashlib.sha256(json.dumps([example.tokens, len(example.context)]).encode()).hexdigest()[:24]
