"""Measured data of the inactive-heads figures, cached: accuracy curves, scores, and dormancy over training.

Questions are the request's, or an embedded model's own; texts are the request's, or samples, cut into windows of one
length.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench import evaluation
from workbench.errors import InputError
from workbench.evaluation.embedded_questions import OWN
from workbench.inactive_heads import ablation_curve, by_domain, choices, head_scores, over_training, recording
from workbench.inactive_heads.tasks import as_asked
from workbench.models.checkpoints import hub_checkpoints, local_checkpoints
from workbench.models.embedded import embedded
from workbench.names import ScoreAnswers
from workbench.papers.cache import Source, digest, kept
from workbench.papers.inactive_heads.sentences import SCORE
from workbench.papers.recipes import FigureRequest
from workbench.prompts.facts import default_facts, with_choices
from workbench.prompts.questions import first, read_choices
from workbench.prompts.samples import SAMPLES
from workbench.prompts.texts import token_sequences
from workbench.protocol import HookedModel
from workbench.runs.results import open_result

SHARE = 0.1
"""The share of heads that thresholds are fitted to select."""
WINDOW = 64
"""Tokens of a text that are looked at at a time, so that every kind of text gives windows of one length."""
WINDOWS = 64
"""Windows per kind of text, at most."""
LETTERS_PER_TOKEN = 16
"""More than the tokens of running text have; what lies beyond is not tokenized."""
HELD_OUT_SCORES = (SCORE, "LTHON_LN", "AWFT")
"""Scores whose thresholds are fitted on one half of the questions and applied to the other."""
OFTEN = 0.25
"""A head counts as dormant at a checkpoint if it is inactive on more than this share of the texts."""
CHECKPOINTS = 24
"""Of a training with more checkpoints so many are measured, each a fixed factor of steps after the one before."""
RECORD = "dormancy.nc"
"""An embedded model's dormancy over training, measured while its checkpoints existed."""


def questions_of(
    source: Source, questions: Any, n: int, seed: int, score_answers: ScoreAnswers | None = None
) -> list[evaluation.Question]:
    """The first of the given questions with choices, an embedded model's own, or the default facts.

    Without `score_answers` they are asked by letter, as the paper does, and the default facts by text.
    """
    if questions is None and source.embedded is not None:
        return as_asked(evaluation.own_questions(source.model, n, seed), score_answers)
    if questions is not None:
        return as_asked(first(read_choices(questions), n), score_answers)
    facts = default_facts()
    drawn = random.Random(seed).sample(facts, min(n, len(facts)))
    return as_asked([with_choices(fact) for fact in first(drawn, n)], score_answers or "text")


def curves_of(source: Source, request: FigureRequest) -> xr.Dataset:
    """The accuracy curves of all scores; a run that was stopped goes on."""
    request.step(f"{source.name}: accuracy curves")
    questions = questions_of(source, request.questions, request.n, request.seed, request.score_answers)
    made_from = digest((sorted(source.identity.items()), questions))
    path = request.folder / source.name / f"inactive_curves_{made_from}.nc"
    found = ablation_curve(source.model, questions, seed=request.seed, resume=path, progress=False)
    return found.assign_attrs(n_requested=request.n, asked=_asked(source, request))


def _asked(source: Source, request: FigureRequest) -> str:
    """What the questions are, in a caption's words."""
    if request.questions is not None:
        return "given questions"
    return "easy facts" if source.embedded is None else "held-out questions of the kinds in training"


def windows_of(model: HookedModel, texts: Sequence[Any]) -> list[list[int]]:
    """Windows of one length, as many from each text, each with the BOS that the tokenizer puts before a text."""
    some = list(texts)[:WINDOWS]
    each = -(-WINDOWS // max(len(some), 1))
    enough = LETTERS_PER_TOKEN * WINDOW * each
    whole = token_sequences(model, [text[:enough] if isinstance(text, str) else text for text in some])
    begin = getattr(getattr(model, "tokenizer", None), "bos_token_id", None)
    found = []
    for ids in whole:
        head = ids[:1] if ids[0] == begin else []
        body = ids[len(head) :]
        size = WINDOW - len(head)
        found += [head + body[i : i + size] for i in range(0, len(body) - size + 1, size)][:each]
    return found[:WINDOWS]


def domains_of(source: Source, request: FigureRequest) -> dict[str, list[list[int]]]:
    """Windows of the request's texts by kind, or of the package's samples; for embedded models of dialogues too."""
    texts: dict[str, Sequence[Any]] = dict(request.texts or SAMPLES)
    provider = embedded(source.model)
    if provider is not None:
        texts.setdefault("dialogue", provider.sample_texts(WINDOWS))
    found = {name: windows_of(source.model, some) for name, some in texts.items()}
    short = [f"{name} ({len(some)})" for name, some in found.items() if len(some) < 4]
    if short:
        raise InputError(
            f"Each kind of text must give four windows of {WINDOW} tokens or more; too few from {', '.join(short)}. "
            "Give more or longer texts."
        )
    return found


def scores_of(source: Source, request: FigureRequest) -> xr.DataArray:
    """All scores on all windows, with each window's kind of text."""
    request.step(f"{source.name}: head scores")
    domains = domains_of(source, request)
    windows = [ids for some in domains.values() for ids in some]
    kinds = [name for name, some in domains.items() for _ in some]

    def measure() -> xr.Dataset:
        scores = head_scores(source.model, windows, progress=False).assign_coords(domain=("sequence", kinds))
        return scores.to_dataset().assign_attrs(scores.attrs)

    found = kept(request.folder / source.name / "head_scores.nc", source, {"texts": digest(windows)}, measure)
    return found["value"].assign_attrs(found.attrs)


def domain_frequencies(source: Source, request: FigureRequest) -> xr.Dataset:
    """How often each head is inactive on each kind of text."""
    request.step(f"{source.name}: kinds of text")
    domains = domains_of(source, request)
    return kept(
        request.folder / source.name / "inactive_domains.nc",
        source,
        {"texts": digest(domains), "score": SCORE, "share": SHARE, "seed": request.seed},
        lambda: by_domain(source.model, domains, SCORE, share=SHARE, seed=request.seed, progress=False),
    )


def question_scores(source: Source, request: FigureRequest) -> xr.DataArray:
    """All scores of every sequence that the request's questions run, with each one's task."""
    request.step(f"{source.name}: head scores on questions")
    questions = questions_of(source, request.questions, request.n, request.seed, request.score_answers)

    def measure() -> xr.Dataset:
        rows, names = [], []
        for task in dict.fromkeys(question.task for question in questions):
            some = choices([question for question in questions if question.task == task])
            with recording(source.model) as recorded:
                some(source.model)
            rows.append(recorded.scores)
            names += [task.removeprefix(f"{OWN}: ") or "questions"] * rows[-1].sizes["sequence"]
        return xr.concat(rows, "sequence").assign_coords(task=("sequence", names)).to_dataset()

    path = request.folder / source.name / "question_scores.nc"
    return kept(path, source, {"questions": digest(questions)}, measure)["value"]


def held_out_curves(source: Source, request: FigureRequest) -> tuple[xr.Dataset, xr.Dataset]:
    """Accuracy on every second question, with thresholds fitted on these questions, and on the others."""
    request.step(f"{source.name}: thresholds of other questions")
    questions = questions_of(source, request.questions, request.n, request.seed, request.score_answers)
    fitted, tested = questions[::2], questions[1::2]
    if not tested:
        raise InputError("Thresholds are fitted on one half of the questions and tested on the other; give 2 or more.")
    folder, made_from = request.folder / source.name, digest((sorted(source.identity.items()), questions))

    def curve(name: str, fit: list[evaluation.Question] | None) -> xr.Dataset:
        path = folder / f"inactive_{name}_{made_from}.nc"
        return ablation_curve(
            source.model, tested, HELD_OUT_SCORES, fit=fit, seed=request.seed, resume=path, progress=False
        )

    return curve("own_thresholds", None), curve("held_out_thresholds", fitted)


def checkpoints_of(source: Source) -> dict[int, str]:
    """The checkpoints in a folder or those that a model on the Hub keeps as revisions, `CHECKPOINTS` at most."""
    if source.embedded is not None:
        kv_heads = source.embedded.card()["recipe"]["kv_heads"]
        raise InputError(
            f"{source.source} comes without its checkpoints. Train it again with `workbench organism train --kv-heads "
            f"{kv_heads} --keep {CHECKPOINTS} --out RUN`, and name the folder RUN-checkpoints."
        )
    if not source.named:
        raise InputError("A model in memory has no checkpoints; name a folder of checkpoints or a model on the Hub.")
    name = str(source.source)
    found = local_checkpoints(name) if Path(name).is_dir() else hub_checkpoints(name)
    steps = np.array(list(found))
    if len(steps) <= CHECKPOINTS:
        return found
    wanted = np.geomspace(steps[steps > 0][0], steps[-1], CHECKPOINTS - 1)
    chosen = {int(steps[abs(steps - step).argmin()]) for step in wanted} | {int(steps[0])}
    return {step: found[step] for step in sorted(chosen)}


def lives_of(source: Source, request: FigureRequest) -> xr.Dataset:
    """When heads become dormant or active in training: an embedded model's record, or measured at every checkpoint."""
    request.step(f"{source.name}: checkpoints")
    record = source.record(RECORD)
    if record:
        return open_result(record)
    checkpoints = checkpoints_of(source)
    last = Source(checkpoints[max(checkpoints)])
    texts = [ids for some in domains_of(last, request).values() for ids in some]
    made_from = digest((texts, checkpoints, sorted(last.identity.items())))
    path = request.folder / source.name / f"inactive_training_{made_from}.nc"
    return over_training(
        checkpoints, texts, SCORE, share=SHARE, usually=OFTEN, seed=request.seed, resume=path, progress=False
    )
