"""Stage 1 of LeaF as a whole: the spans that mislead a student, each verified by removing it.

1. Keep the examples that the student gets wrong and the teacher right (`selection.py`).
2. Score every prunable token on the gold response (`scoring.py`).
3. Read the threshold: the candidates (`thresholds.py`).
4. Prune, span by span or collectively (`pruning.py`).
5. Let both models answer without the span; it is confounding where both are right (`verification.py`).
6. Let them answer without random spans of the same lengths: how many examples are rescued by chance (`control.py`).
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.leaf.asking import Match
from workbench.leaf.control import against_chance, check_draws, random_counterfactuals
from workbench.leaf.examples import Example, check_examples, digest
from workbench.leaf.pruning import Pruned, prune, pruned
from workbench.leaf.scores import TokenScore, scores_named
from workbench.leaf.scoring import sensitivity
from workbench.leaf.selection import ExampleSelection, select_examples
from workbench.leaf.thresholds import candidates
from workbench.leaf.verification import verify
from workbench.leaf.vocabularies import identities
from workbench.models.state import measures
from workbench.names import Alignment, PruneBy, Reading, TokenScoreName
from workbench.protocol import HookedModel, TextTokenizer
from workbench.runs.batching import BatchSize
from workbench.runs.results import text_array
from workbench.runs.run import Run


@measures
def confounders(
    student: HookedModel,
    teacher: HookedModel,
    examples: Sequence[Example],
    *,
    score: TokenScoreName | TokenScore = "gradient_difference",
    threshold: float | Sequence[float] = 0.10,
    reading: Reading = "quantile",
    how: PruneBy = "span",
    match: Match = "number",
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    selection: ExampleSelection | None = None,
    align: Alignment = "ids",
    retokenize: bool = False,
    steps: int = 16,
    draws: int = 5,
    seed: int = 0,
    batch_size: BatchSize = "auto",
    resume: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """The confounding spans of the examples that mislead the student.

    Args:
        student: a model from `workbench.load`; hooks on it are active, also for `teacher`.
        teacher: another, which reads the same token ids.
        examples: in the student's tokens, from `workbench.leaf.read_examples`, `workbench.leaf.example` or your own.
        score: the name of a score, or a `TokenScore`.
        threshold: a fraction, or several, such as (0.05, 0.10, 0.15).
        reading: "quantile" (the released code) or "absolute" (the paper's text).
        how: "span" or "collective".
        match: how a reply is judged, see `workbench.leaf.ask`.
        max_new_tokens: tokens a reply may have; one that is cut counts neither as right nor as wrong.
        stop: strings that end a reply, beside what ends one of a model without a chat template.
        selection: the misled examples, where they are known from `select_examples`; `examples` are then not asked.
        align: "ids", or "characters" for models with different tokenizers.
        retokenize: tokenize the shorter text anew instead of deleting ids.
        steps: points of the integrated gradients.
        draws: random spans per found one, as the control.
        seed: of the random score and the random spans.
        batch_size: examples or prompts at a time.
        resume: the netCDF file of the result: finished batches are kept beside it, and a stopped run goes on from them.
        progress: show bars.

    Returns:
        What `sensitivity` gives for the misled examples (`example` is the index among those given), with `candidate`
        (threshold, example, position) and `gold`, the right answer; `reply_before`, `answer_before` (what was read in
        it), `ending_before` and `correct_before` (model, example); what `verify` gives per span, with its
        `span_threshold`; the same of the random spans, `control_removed` (draw, span, position), `control_reply`,
        `control_answer`, `control_ending` and `control_correct` (model, draw, span), `control_accepted` (draw, span);
        what `workbench.leaf.control.against_chance` makes of both; the number of examples at every stage, and of
        different spans, in the attributes that begin with n_; in `guess`, of questions that are answered by letter, how
        often a guess among their options is right.

    Raises:
        InputError: what the steps refuse: no misled example (with the counts), vocabularies that differ, an answer
            that no matcher reads, a prompt that fills the context, a gradient that is NaN, everything pruned, no draw.
    """
    check_draws(draws)
    examples = check_examples(examples)
    wanted = scores_named(score)[0]
    thresholds = [float(t) for t in np.atleast_1d(threshold)]
    facts = {
        "method": "leaf confounders",
        **identities(student, teacher),
        "examples": digest(examples),
        **({} if selection is None else {"selected": digest(selection.examples)}),
        "score": wanted.name,
        "threshold": thresholds,
        "reading": reading,
        "how": how,
        "retokenize": retokenize,
        "match": match if isinstance(match, str) else getattr(match, "__qualname__", "a function"),
        "max_new_tokens": max_new_tokens or "default",
        "stop": list(stop),
        "align": align,
        "steps": steps,
        "draws": draws,
        "seed": seed,
    }
    common: dict[str, Any] = dict(align=align, batch_size=batch_size, progress=progress)
    asking: dict[str, Any] = dict(match=match, max_new_tokens=max_new_tokens, stop=stop, **common)
    with Run(resume, **facts) as run:
        if run.finished is not None:
            return run.finished
        if selection is None:
            selection = select_examples(student, teacher, examples, resume=run.beside("before"), **asking)
        kept = run.beside("sensitivity.nc")
        found = sensitivity(
            student, teacher, selection.examples, scores=[wanted], steps=steps, seed=seed, resume=kept, **common
        )
        chosen = candidates(found, threshold=thresholds, reading=reading)
        anew = student if retokenize else None
        shorter = [prune(selection.examples, one, how=how, retokenize=anew) for one in chosen]
        spans = list(chain.from_iterable(shorter))
        drawn = random_counterfactuals(selection.examples, spans, draws, seed, anew)
        proved = verify(student, teacher, [*spans, *chain.from_iterable(drawn)], resume=run.beside("after"), **asking)
        thresholds = np.repeat(chosen["threshold"].values, [len(one) for one in shorter])
        result = _assembled(found, chosen, selection, thresholds, proved, draws)
        return run.finish(result, **_counts(result, selection), **_guess(examples, match))


def counterfactuals(
    examples: Sequence[Example],
    found: xr.Dataset,
    *,
    accepted: bool = True,
    threshold: float | None = None,
    retokenize: HookedModel | TextTokenizer | None = None,
) -> list[Pruned]:
    """The counterfactual examples of a result, once each.

    Args:
        examples: those that `confounders` was given.
        found: its result.
        accepted: only spans without which both models are right.
        threshold: only those of one threshold.
        retokenize: the model or tokenizer, where `confounders` tokenized the shorter texts anew.

    Raises:
        InputError: examples that the result does not belong to, or a tokenizer missing.
    """
    if found.attrs.get("retokenize") and retokenize is None:
        raise InputError("The shorter texts of this result were tokenized again; pass retokenize= the student.")
    wanted = found["accepted"].values.astype(bool) if accepted else np.ones(found.sizes["span"], dtype=bool)
    if threshold is not None:
        wanted = wanted & (abs(found["span_threshold"].values - threshold) <= 1e-9)
    made: dict[tuple[int, tuple[int, ...]], Pruned] = {}
    for row in np.flatnonzero(wanted):
        origin, removed = int(found["origin"][row]), tuple(np.flatnonzero(found["removed"][row]).tolist())
        if origin >= len(examples) or len(examples[origin].context) <= removed[-1]:
            raise InputError(
                f"The result removes position {removed[-1]} of example {origin}, which these {len(examples)} examples "
                "do not have. Give the examples that workbench.leaf.confounders was given."
            )
        if (origin, removed) not in made:
            made[origin, removed] = pruned(examples[origin], origin, removed, retokenize)
    return list(made.values())


ANSWERED = ("reply", "answer", "ending", "correct")
"""What is known of every answer, before and after pruning."""


def _gold(one: Example) -> str:
    """The right answer as text: the whole response where the example names none; token ids where it has no text."""
    if one.answer is not None:
        return one.answer
    return " ".join(map(str, one.target)) if one.wording is None else one.wording.response[one.wording.shown :].strip()


def _assembled(
    found: xr.Dataset,
    chosen: xr.DataArray,
    selection: ExampleSelection,
    thresholds: np.ndarray,
    proved: xr.Dataset,
    draws: int,
) -> xr.Dataset:
    """One Dataset of what was found, and what was verified: the spans first, then the random ones of every draw."""
    index = np.array(selection.index)
    before = selection.answers.isel(example=index)
    width = found.sizes["position"]
    proved = proved.pad(position=(0, width - proved.sizes["position"]), constant_values=False)
    n = len(thresholds)
    spans, control = proved.isel(span=slice(n)), proved.isel(span=slice(n, None))
    shape = {"draw": draws, "span": n}
    drawn: dict[str, Any] = {
        "control_removed": (("draw", "span", "position"), control["removed"].values.reshape(draws, n, width)),
        **{
            f"control_{name}": (("model", *shape), control[f"{name}_after"].values.reshape(2, draws, n))
            for name in ANSWERED
        },
        "control_accepted": (tuple(shape), control["accepted"].values.reshape(draws, n)),
    }
    whole = (
        found.assign_coords(example=index)
        .assign({name: spans[name] for name in spans.data_vars if name != "origin"})
        .assign(drawn)
        .assign({f"{name}_before": (("model", "example"), before[name].values) for name in ANSWERED})
        .assign(
            candidate=(("threshold", "example", "position"), chosen.values),
            gold=("example", text_array([_gold(one) for one in selection.examples])),
            origin=("span", index[spans["origin"].values]),
            span_threshold=("span", thresholds),
        )
        .assign_coords(threshold=chosen["threshold"].values)
    )
    return whole.merge(against_chance(whole))


def _guess(examples: Sequence[Example], match: Match) -> dict[str, float]:
    """How often a guess among lettered options is right; nothing where an example has none."""
    sizes = [len(one.options) for one in examples]
    return {"guess": float(np.mean([1 / n for n in sizes]))} if match == "letter" and all(sizes) else {}


def _counts(result: xr.Dataset, selection: ExampleSelection) -> dict[str, int]:
    together = result.isel(tried=-1)
    return {
        **{f"n_{name}": count for name, count in selection.counts.items()},
        "n_spans": int(together["n_spans"]),
        "n_accepted": int(together["n_accepted"]),
        "n_rescued": int(together["rescued"].sum()),
    }
