"""`workbench dormant`: accuracy without the heads that a score calls inactive."""

from pathlib import Path

import workbench as wb
from workbench.cli.options import NEEDS_QUESTIONS, Model, Prompts, Resumable, finish, writable
from workbench.names import HeadScoreName


def dormant(
    model: Model,
    scores: tuple[HeadScoreName, ...] = (),
    prompts: Prompts = Prompts(),
    output: Resumable = Resumable(Path("dormant.nc")),
) -> None:
    """How many heads can be zeroed, the most inactive by a score first, before accuracy falls?

    Example: workbench dormant organism-gqa --scores AHON_LN AWFT --n 50

    Args:
        scores: Such as AHON_LN; by default all fifteen of the paper, and random choice.
    """
    from workbench.papers.cache import Source
    from workbench.papers.inactive_heads.measures import questions_of
    from workbench.papers.inactive_heads.sentences import free_heads_table

    writable(output.out)
    source = Source(model)
    if prompts.questions is None:
        source.require_own_questions(NEEDS_QUESTIONS)
    asked = questions_of(source, prompts.questions, prompts.n, prompts.seed)
    found = wb.ablation_curve(source.model, asked, scores or None, resume=output.journal, progress=output.progress)
    finish(found, output.out, free_heads_table(found))
