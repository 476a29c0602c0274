"""The report's section on confounding tokens: prompts of two models, from a result of stage 1 of LeaF."""

import xarray as xr

from workbench.plot.confounders import confounders, summary
from workbench.reporting import page


def section(found: xr.Dataset | None) -> str:
    """The confounder view of a student and its teacher; nothing without a result.

    Args:
        found: from `workbench.leaf.confounders`.
    """
    if found is None:
        return ""
    intro = (
        f"Which words keep {found.attrs['student']} from an answer that {found.attrs['teacher']} finds? Every token is "
        f"scored by {found.attrs['score'].replace('_', ' ')}; a candidate span is proved where both models answer "
        f"rightly without it. {summary(found)}"
    )
    return page.section("confounders", "Confounding tokens", page.text(intro), str(confounders(found)))
