"""Waking heads of a real model, drawn from the records that come with the package.

`screen` holds the verdict on every head on 96 texts each of prose and code, `confirm` the measurements of those
that wake or nearly do on as many other texts. `benchmarks/real_heads.py` makes them.
"""

from pathlib import Path

import numpy as np
import xarray as xr

from workbench.extreme import phases, waking_sentences, waking_table
from workbench.papers.active_dormant.sentences import attention_line, domains_line, head_line, misleading_head
from workbench.papers.recipes import Drawn, FigureRecipe
from workbench.plot import compose
from workbench.plot.waking import waking_heatmap, waking_scatter
from workbench.runs.results import open_result

FOLDER = Path(__file__).parent / "assets"
MODEL = "smollm2-135m-instruct"
PAIR = ("prose", "code")
HEIGHTS = 620, 300
"""Pixels of the heat map and of a scatter, so that all fit on a page."""
NAMED = (18, 6)
"""A head that was seen to be dormant in prose and active in code on fewer texts."""


def record(name: str) -> xr.Dataset:
    """A record of `MODEL`: "screen", "confirm" or "rounding"."""
    return open_result(FOLDER / f"{MODEL}-{name}.nc")


def confirmed() -> xr.Dataset:
    """The measurements of `confirm` on prose and code, judged as one comparison of the heads in it."""
    found = record("confirm")
    measured = found[["loss", "loss_change", "sink_weight"]].sel(domain=list(PAIR))
    return phases(measured.assign_attrs(found.attrs))


def real_heads() -> Drawn:
    """All heads, and on other texts one that wakes in code, one in prose, and one that attention alone would name."""
    screen, other = record("screen"), confirmed()
    shown = _shown(screen, other)
    cells = [
        (f"effect of zeroing, {screen['pair'].values[0]}", waking_heatmap(screen).update_layout(height=HEIGHTS[0]))
    ]
    for layer, head in shown:
        sentence = waking_sentences(other.sel(layer=layer, head=head)).item()
        cells.append(
            (
                f"layer {layer}, head {head}: {sentence}",
                waking_scatter(other, layer, head).update_layout(height=HEIGHTS[1]),
            )
        )
    rows = [cells[i : i + 2] for i in range(0, len(cells), 2)]
    drawn, names = [[cell for _, cell in row] for row in rows], [[name for name, _ in row] for row in rows]
    figure = compose.grid(drawn, names, title=f"Heads of {MODEL} that wake", gap=0.2)
    found = [
        set(zip(*(t[name].values.tolist() for name in _WAKING), strict=True))
        for t in map(waking_table, (screen, other))
    ]
    lines = [
        f"{MODEL}: {domains_line(screen)}",
        f"{len(found[0] & found[1])} of them wake again on as many other texts, tested with the near misses alone.",
        f"On the first texts, {head_line(screen, *NAMED)}",
        f"On the others, {head_line(other, *NAMED)}",
        attention_line(screen),
    ]
    return Drawn(figure, " ".join(line[0].upper() + line[1:] if i else line for i, line in enumerate(lines)))


_WAKING = ("layer", "head", "dormant_in", "active_in")


def _shown(screen: xr.Dataset, other: xr.Dataset) -> list[tuple[int, int]]:
    """The named head, the surest that wakes the other way, and the one that attention alone would name."""
    table = waking_table(other)
    reverse = np.flatnonzero((table["dormant_in"] == PAIR[1]).values)[:1]
    heads = [NAMED, *((int(table["layer"][i]), int(table["head"][i])) for i in reverse)]
    return [*heads, at] if (at := misleading_head(screen)) else heads


RECIPES = (FigureRecipe("active-dormant/real-heads", real_heads),)
