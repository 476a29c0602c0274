"""Beyond the paper: lessons in which the student meets the confounder and the teacher does not.

A pruned prompt cannot teach a student to ignore what is no longer there, and both models solve it already. So the
confounding spans that stage 1 finds are put to another use:

crossed        the student reads the original, the teacher the pruned prompt
exchanged      the student reads a pruned prompt with the confounding span of another example in the gap, the teacher
               the pruned prompt: as many new conflicts as there are pairs of examples
transplanted   the student reads any example with a confounding span put in at a random place, the teacher the example
               as it was
repaired       the originals whose pruned prompts were accepted, once each
attention_penalised
               originals, unpruned, whose confounding spans the student should stop attending to: with `distill`'s
               `attention` the loss has the attention that later tokens pay to them
               (`candidate_spans` finds spans in all examples, without labels, also where the student answers rightly)
shifted        the originals, each weighted by how much pruning moves the student: KL(S(x) || S(x without the span))

All are lists of `Lesson`s, to be given to `workbench.leaf.distill` as counterfactuals.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from workbench.errors import InputError
from workbench.leaf.asking import ask
from workbench.leaf.distillation_pairs import Lesson
from workbench.leaf.examples import Example
from workbench.leaf.pruning import Pruned, prune
from workbench.leaf.scoring import sensitivity
from workbench.leaf.teacher_student_gap import gaps
from workbench.leaf.thresholds import candidates
from workbench.names import TokenScoreName
from workbench.protocol import HookedModel
from workbench.runs.batching import BatchSize


def crossed(examples: Sequence[Example], pruned: Sequence[Pruned]) -> list[Lesson]:
    """The student reads the original, the teacher the pruned prompt.

    Args:
        examples: the originals.
        pruned: their counterfactuals, from `workbench.leaf.counterfactuals`.
    """
    return [Lesson(_original(examples, one), one.example) for one in pruned]


def repaired(examples: Sequence[Example], pruned: Sequence[Pruned]) -> list[Lesson]:
    """The originals of the counterfactuals, once each, read by both models.

    Args:
        examples: the originals.
        pruned: their counterfactuals.
    """
    return [Lesson(examples[i], examples[i]) for i in sorted({one.origin for one in pruned})]


def attention_penalised(
    examples: Sequence[Example], pruned: Sequence[Pruned], which: Sequence[int] | None = None
) -> list[Lesson]:
    """Originals, read by both models, with what pruning found as ignored positions.

    Args:
        examples: the originals.
        pruned: their counterfactuals; several spans of one original are ignored together.
        which: indices of the originals to take, also of some for which nothing was found; None takes those of `pruned`.
    """
    found: dict[int, set[int]] = {}
    for one in pruned:
        found.setdefault(one.origin, set()).update(one.removed)
    chosen = sorted(found) if which is None else list(which)
    return [Lesson(examples[i], examples[i], ignored=tuple(sorted(found.get(i, ())))) for i in chosen]


def candidate_spans(
    student: HookedModel,
    teacher: HookedModel,
    examples: Sequence[Example],
    *,
    score: TokenScoreName = "gradient_difference",
    threshold: float = 0.10,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = True,
) -> list[Pruned]:
    """Spans that the student heeds and the teacher can do without, in all examples.

    The student is not asked, so that a shortcut is found where it gives the right answer away, too.

    Args:
        student: a bridge from `workbench.load`.
        teacher: another, whose answer must stay right without the span.
        examples: the originals.
        score: the name of a score.
        threshold: a fraction.
        batch_size: examples at a time.
        seed: of the random score.
        progress: show bars.
    """
    found = sensitivity(student, teacher, examples, scores=[score], batch_size=batch_size, seed=seed, progress=progress)
    pruned = prune(examples, candidates(found, threshold=threshold))
    proved = ask(teacher, [one.example for one in pruned], batch_size=batch_size, progress=progress)
    return [one for one, right in zip(pruned, proved["correct"].values, strict=True) if right]


def exchanged(examples: Sequence[Example], pruned: Sequence[Pruned], n: int, seed: int = 0) -> list[Lesson]:
    """Pruned prompts with the confounding span of another example in the gap; the teacher reads them without.

    Args:
        examples: the originals.
        pruned: their counterfactuals, of at least two originals.
        n: lessons, drawn with replacement.
        seed: of the draw.

    Raises:
        InputError: counterfactuals of a single original.
    """
    _refuse_few(pruned)
    rng, made = np.random.default_rng(seed), []
    while len(made) < n:
        host, giver = (pruned[int(i)] for i in rng.integers(0, len(pruned), 2))
        if host.origin != giver.origin:
            span = [_original(examples, giver).tokens[p] for p in giver.removed]
            made.append(Lesson(inserted(host.example, host.removed[0], span), host.example))
    return made


def transplanted(examples: Sequence[Example], pruned: Sequence[Pruned], n: int, seed: int = 0) -> list[Lesson]:
    """Any examples with a confounding span of another put in before a random prunable token, or behind the last.

    Args:
        examples: the originals; those of the same kind (with or without a prefix) take spans of one another.
        pruned: their counterfactuals, of at least two originals.
        n: lessons, drawn with replacement.
        seed: of the draw.

    Raises:
        InputError: counterfactuals of a single original.
    """
    _refuse_few(pruned)
    rng, made = np.random.default_rng(seed), []
    while len(made) < n:
        giver, at = pruned[int(rng.integers(len(pruned)))], int(rng.integers(len(examples)))
        host, original = examples[at], _original(examples, giver)
        if at == giver.origin or not host.positions or (host.prefix > 0) != (original.prefix > 0):
            continue
        places = [*host.positions, host.positions[-1] + 1]
        span = [original.tokens[p] for p in giver.removed]
        made.append(Lesson(inserted(host, places[rng.integers(len(places))], span), host))
    return made


def shifted(
    student: HookedModel, examples: Sequence[Example], pruned: Sequence[Pruned], *, micro_batch: int = 8
) -> list[Lesson]:
    """Originals weighted by the shift that pruning causes in the student, averaged over the target tokens.

    Args:
        student: a bridge from `workbench.load`.
        examples: the originals.
        pruned: their counterfactuals; of several spans of one original the largest shift counts.
        micro_batch: examples per pass.
    """
    moved = [Lesson(one.example, _original(examples, one)) for one in pruned]
    largest = dict.fromkeys((one.origin for one in pruned), 0.0)
    for one, shift in zip(pruned, gaps(student, student, moved, micro_batch=micro_batch), strict=True):
        largest[one.origin] = max(largest[one.origin], float(shift))
    return [Lesson(examples[i], examples[i], shift) for i, shift in sorted(largest.items())]


def inserted(example: Example, at: int, tokens: Sequence[int]) -> Example:
    """The example with tokens put in before a position of its context, prunable as those beside them; without its text.

    Args:
        example: the host.
        at: a position of the context, or its length.
        tokens: what is put in.
    """
    if not 0 <= at <= len(example.context):
        raise InputError(f"at={at} is no position of a context of {len(example.context)} tokens.")
    prunable = (*example.prunable[:at], *[True] * len(tokens), *example.prunable[at:])
    n = len(example.prompt)
    if at <= n and not (at == n and example.prefix):
        prompt = (*example.prompt[:at], *tokens, *example.prompt[at:])
        return replace(example, prompt=prompt, prunable=prunable, wording=None)
    response = (*example.response[: at - n], *tokens, *example.response[at - n :])
    return replace(example, response=response, prunable=prunable, prefix=example.prefix + len(tokens), wording=None)


def _original(examples: Sequence[Example], one: Pruned) -> Example:
    if one.origin >= len(examples):
        raise InputError(
            f"A counterfactual comes from example {one.origin}, and there are {len(examples)}. Give the examples that "
            "workbench.leaf.counterfactuals was given."
        )
    return examples[one.origin]


def _refuse_few(pruned: Sequence[Pruned]) -> None:
    if len({one.origin for one in pruned}) < 2:
        raise InputError(
            f"{len(pruned)} counterfactuals of fewer than two originals: there is no other example to take a span from."
        )
