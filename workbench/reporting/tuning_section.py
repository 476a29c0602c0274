"""The report's section on tuning: what the experiments that come with the package found; nothing is tuned for it."""

from collections.abc import Sequence

from workbench.papers.kv_groups import tuning_figures as pinpoint
from workbench.papers.kv_groups.tradeoff import records as shelf
from workbench.papers.kv_groups.tradeoff import summaries as words
from workbench.papers.measured import Measured
from workbench.reporting import page
from workbench.reporting.background import heading

HEIGHT = 340
"""Pixels of a figure, with room for a legend of two rows."""


def section(measured: Sequence[Measured]) -> str:
    """Truthfulness and its price over the budget, a figure per model; nothing where no experiment is known."""
    figures = []
    for i, one in enumerate(measured):
        if not shelf.has(one.name):
            continue
        record = shelf.measured(one.name)
        said = words.upper(words.group_against_head(record))
        more = page.folded("What the experiment says", page.text(*words.sayings(record)))
        picture = pinpoint.panel(record, "balance", "kept and mended")
        picture.update_layout(height=HEIGHT)
        figures.append(
            page.plot(
                picture,
                f"tuning-{i}",
                f"Mean of right answers kept and wrong answers mended over the tuned heads of {one.name}. {said}",
                caption=said,
                heading=heading(one, f"{record.sizes['cell']} models"),
                more=more + page.folded("All kinds of tuning", page.table(pinpoint.table_columns(record))),
            )
        )
    if not figures:
        return ""
    intro = (
        "Copies of the model were tuned to stand by right answers and to revise wrong ones: in the strongest groups, "
        "in as many single heads, in random ones, in all of attention and in all parameters. A model that always "
        "insists, always gives in or tosses a coin keeps and mends a half on average. These experiments come "
        "measured with the package; what they hold was not computed for this page."
    )
    return page.section("tuning", "Tuning the heads", page.text(intro), page.row(figures))
