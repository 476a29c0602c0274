"""The report's section on extreme tokens."""

from collections.abc import Sequence

from workbench.extreme import peak_verdict
from workbench.papers.active_dormant.sentences import extremes_line, peak_line, sink_line
from workbench.papers.measured import Measured
from workbench.plot import extreme as plots
from workbench.reporting import page
from workbench.reporting.background import heading


def section(measured: Sequence[Measured]) -> str:
    """Sinks, drains and peaks of each model on its own dialogues, and where the peak comes from."""
    rows = []
    for i, one in enumerate(measured):
        found, sources = one.extreme, one.sources
        sink = sink_line(found)
        rows.append(
            heading(one, f"{found.sizes['sequence']} dialogues")
            + page.row(
                [
                    page.plot(
                        plots.sink_heatmap(found, position=0),
                        f"sinks-{i}",
                        f"Attention received by the first token for {one.name}. {sink}",
                        caption=sink,
                    ),
                    page.plot(
                        plots.residual_norms(found),
                        f"stream-{i}",
                        f"Norm of the residual stream by layer for {one.name}.",
                        caption=f"Mean over dialogues, with their range. In the first of them {extremes_line(found)}",
                    ),
                ]
            )
            + page.text(f"{one.name}: {peak_line(found)} {peak_verdict(sources)}")
        )
    intro = (
        "A token is extreme when heads rest their attention on it (a sink), can take little from it (its value is "
        "drained) and the residual stream is long at it (a peak). Heads that rest there do nothing at that moment."
    )
    return page.section("extreme-tokens", "Extreme tokens", page.text(intro), *rows)
