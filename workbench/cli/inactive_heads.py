"""`workbench dormant`: accuracy without the heads that a score calls inactive."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

import workbench as wb
from workbench.cli.options import Model, Prompts, Resumable, Scored, finish, writable
from workbench.names import HeadScoreName, Normalise

Shares = Annotated[tuple[float, ...], arg(metavar="[SHARE ...]", help="Shares of the heads to zero, from 0 to 1.")]


def dormant(
    model: Model,
    scores: tuple[HeadScoreName, ...] = ("AHON_LN", "AWFT"),
    shares: Shares = (0.05, 0.1, 0.2, 0.3),
    draws: int = 1,
    score_answers: Scored = None,
    normalise: Normalise = "none",
    prompts: Prompts = Prompts(n=200),
    output: Resumable = Resumable(Path("dormant.nc")),
) -> None:
    """How many heads can be zeroed, the most inactive by a score first, before accuracy falls?

    Example: workbench dormant organism-gqa --scores AHON_LN --n 50

    The questions are answered once unchanged, and once for every share of the heads by every score and both random
    controls. The defaults, 17 times 200 questions, take an embedded model about 2 minutes on one core, and a model of
    135 million parameters about 20.

    Args:
        scores: Scores that call heads inactive, beside random choice; without a name all fifteen of the paper.
        draws: How often heads are chosen at random, as a control.
        normalise: What the log-likelihood of an answer is divided by.
    """
    from workbench.papers.cache import Source
    from workbench.papers.inactive_heads.measures import questions_of
    from workbench.papers.inactive_heads.sentences import claim_line, curve_line, curve_table, paper_line

    writable(output.out)
    source = Source(model)
    asked = questions_of(source, prompts.questions, prompts.n, prompts.seed, score_answers)
    found = wb.ablation_curve(
        source.model,
        wb.inactive_heads.choices(asked, normalise=normalise),
        scores or None,
        shares,
        draws=draws,
        seed=prompts.seed,
        resume=output.journal,
        progress=output.progress,
    )
    lines = (line[0].upper() + line[1:] for line in (curve_line(found), claim_line(found), paper_line()))
    finish(found, output.out, curve_table(found), *lines)
