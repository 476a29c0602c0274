"""LeaF on language: word problems with a sentence that does not matter, one organism the student of another.

`leaf/word-problems`: for every score, how many wrong answers turn right when the span that it ranks first is taken out.
The first model is the student, the second the teacher.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from workbench import leaf
from workbench.errors import InputError
from workbench.papers.cache import Source, kept
from workbench.papers.recipes import Drawn, FigureRecipe, FigureRequest
from workbench.plot.causal import causal_check

PER_N = 4
"""Problems per `n` of the request; about one in six misleads one organism and not the other."""
NEW_TOKENS = 48


def measure(student: Source, teacher: Source, request: FigureRequest) -> xr.Dataset:
    """`causal_check` of all scores, with the share of first spans that touch the planted sentence in `touched`."""

    def check() -> xr.Dataset:
        problems = leaf.word_problems(student.model, PER_N * request.n, request.seed)
        options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "seed": request.seed, "progress": False}
        checked = leaf.check_scores(student.model, teacher.model, problems, **options)
        truth = np.zeros(checked["removed"].shape[1:], dtype=bool)
        for row, index in enumerate(checked["example"].values):
            mask = leaf.planted(problems[index]).numpy()
            truth[row, : len(mask)] = mask
        touched = (checked["removed"].values & truth).any(-1).mean(-1)
        return checked.assign(touched=("score", touched)).assign_attrs(student=student.name, teacher=teacher.name)

    return kept(
        request.folder / student.name / f"word-problems-{teacher.name}.nc",
        student,
        {"teacher": teacher.identity, "n": request.n, "seed": request.seed},
        check,
    )


def line(checked: xr.Dataset) -> str:
    """The result of the check in one sentence."""
    share = {str(s): float(checked["accepted_share"].sel(score=s)) for s in checked["score"].values}
    touched = {str(s): float(checked["touched"].sel(score=s)) for s in checked["score"].values}
    best = max(share, key=lambda name: share[name])
    ends = [float(checked[f"accepted_gain_{end}"].sel(score="gradient_difference")) for end in ("low", "high")]
    held = "clear of" if ends[0] > 0 else "not clear of"
    return (
        f"On {checked.sizes['example']} word problems that mislead {checked.attrs['student']} and not "
        f"{checked.attrs['teacher']}, taking out the span that the paper's gradient difference ranks first turns "
        f"{share['gradient_difference']:.0%} of the answers right for both, {held} the {share['random']:.0%} of a "
        f"random choice (difference {ends[0]:+.0%} to {ends[1]:+.0%}); {best.replace('_', ' ')} turns "
        f"{share[best]:.0%}. Perplexity ranks the planted sentence first in {touched['perplexity']:.0%} and turns "
        f"{share['perplexity']:.0%}."
    )


def measure_pair(sources: Sequence[Source], request: FigureRequest) -> xr.Dataset:
    """The check for two models, a student and a teacher, in this request."""
    if len(sources) != 2:
        raise InputError(
            f"leaf/word-problems needs two embedded models, a student and a teacher; got {len(sources)} models."
        )
    for source in sources:
        request.step(f"{source.name}: word problems")
    return measure(*sources, request)


def draw(checked: xr.Dataset) -> Drawn:
    """The check of every score for a student and a teacher."""
    title = f"{checked.attrs['student']} misled, {checked.attrs['teacher']} not: what each score finds"
    return Drawn(causal_check(checked, title=title), line(checked))


RECIPES = (FigureRecipe("leaf/word-problems", draw, measure_pair, ("organism-mqa", "organism-gqa")),)
