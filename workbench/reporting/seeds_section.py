"""The report's section on training seeds."""

from collections.abc import Sequence

from workbench.papers.kv_groups.seeds import seed_runs, seeds_line
from workbench.plot import strips
from workbench.reporting import page


def section(names: Sequence[str]) -> str:
    """The section of a report about training seeds, or nothing where no card tells of them."""
    runs = seed_runs(names)
    if runs is None:
        return ""
    measures = [str(m) for m in runs.data_vars]
    intro = (
        "A shipped model was chosen because it shows its phenomenon clearly. These are all seeds of the same "
        "recipe, one dot each, with the median; a dark ring marks the shipped ones. Only the spread of the dots "
        "says whether kinds of attention differ."
    )
    figures = []
    for i, measure in enumerate(measures):
        line = seeds_line(runs, measure)
        figure = strips.distribution(runs, measure)
        figures.append(page.plot(figure, f"seeds-{i}", f"{measure} of every training seed. {line}", caption=line))
    return page.section("seeds", "Over training seeds", page.text(intro), page.row(figures))
