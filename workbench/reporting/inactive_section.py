"""The report's section on inactive heads: what is left of the accuracy when they are switched off."""

from collections.abc import Sequence

from workbench.papers.inactive_heads.figures import curve_line
from workbench.papers.measured import Measured
from workbench.plot import inactive
from workbench.reporting import page
from workbench.reporting.background import heading


def section(measured: Sequence[Measured]) -> str:
    """Accuracy curves of two scores and of random choice, a figure per model."""
    figures = []
    for i, one in enumerate(measured):
        line = curve_line(one.inactive)
        figures.append(
            page.plot(
                inactive.accuracy_curves(one.inactive),
                f"inactive-{i}",
                f"Accuracy against the share of zeroed heads for {one.name}. {line}",
                caption=line[0].upper() + line[1:],
                heading=heading(one, f"{one.inactive.sizes['example']} questions"),
            )
        )
    intro = (
        "While the model answers questions, heads whose output is small beside the other heads of their layer (AHON, "
        "LN), or that attend mostly to the first token (AWFT), are zeroed, text by text. Where the accuracy stays, "
        "they were doing nothing for these questions."
    )
    return page.section("inactive-heads", "Inactive heads", page.text(intro), page.row(figures))
