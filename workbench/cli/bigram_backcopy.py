"""`workbench backcopy`: toy models in whose training sinks, drains and peaks appear."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from workbench.cli.options import Output, Width, say, writable


def backcopy(
    names: Positional[
        Annotated[
            tuple[str, ...],
            arg(metavar="[NAME ...]", help="Training runs, such as one-layer, three-layer-sgd; `all` for every one."),
        ]
    ] = ("one-layer",),
    scale: Literal["small", "paper"] = "small",
    seeds: tuple[int, ...] = (),
    width: Width = "page",
    output: Output = Output(Path("backcopy.nc")),
) -> None:
    """When do sinks, drains and peaks appear while a toy model learns? Train it and record every measure.

    Runs that the file holds are not trained again, and a run that was stopped goes on.

    Example: workbench backcopy one-layer --seeds 0 1 --out toy.nc

    Args:
        scale: small: under a minute per seed on a CPU core. paper: for a GPU.
        seeds: A model each; by default those of the run.
    """
    from workbench.bigram_backcopy import records
    from workbench.papers.active_dormant.sentences import events_line
    from workbench.papers.active_dormant.toy_figures import normalised
    from workbench.plot.export import save_figure

    writable(output.out)
    chosen = () if names == ("all",) else names
    changes = {"progress": output.progress} | ({"seeds": seeds} if seeds else {})
    found = records.collect(output.out, scale, chosen, **changes)
    for name, one in found.items():
        page = output.out.with_name(f"{output.out.stem}-{name}")
        save_figure(normalised(one.record), page, ("html",), width=width)
        say(f"{name}: {events_line(one.record)}")
    say(f"The result is {output.out}, and a page per training run lies beside it.")
