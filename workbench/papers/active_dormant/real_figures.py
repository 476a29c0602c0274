"""Waking heads and 8-bit rounding of a real model, drawn from the records that come with the package.

1. `screen` holds the verdict on every head on 96 texts each of prose and code, `confirm` the measurements of those
   that wake or nearly do on as many other texts.
2. `rounding` holds what 8-bit rounding adds to the loss with different scales, beside remedies at inference time.

`benchmarks/real_heads.py` makes them.
"""

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from workbench.extreme import phases, waking_sentences, waking_table
from workbench.papers.active_dormant.sentences import attention_line, domains_line, head_line, misleading_head
from workbench.papers.recipes import Drawn, FigureRecipe
from workbench.plot import compose
from workbench.plot.marks import ZERO, add_dots, error_bars
from workbench.plot.theme import SERIES, house
from workbench.plot.waking import waking_heatmap, waking_scatter
from workbench.runs.results import open_result

FOLDER = Path(__file__).parent / "assets"
MODEL = "smollm2-135m-instruct"
PAIR = ("prose", "code")
HEIGHTS = 620, 300
"""Pixels of the heat map and of a scatter, so that all fit on a page."""
NAMED = (18, 6)
"""A head that was seen to be dormant in prose and active in code on fewer texts."""


ALONE = {
    "no attention to the sink": "the sink",
    "values of the sink zero": "what the drain leaves of its values",
    "peak not made": "the peak",
}
"""Remedies that take away one of the three, and which."""

SCALES = {
    "weights": {"per channel": "W8A16 per token", "per tensor": "W8 per tensor, A16 per token"},
    "activations": {
        "per token": "W16A8 per token",
        "per channel": "W16A8 per channel",
        "per tensor": "W16A8 per tensor",
    },
    "weights per channel, activations": {"per token": "W8A8 per token", "per tensor": "W8A8 per tensor"},
}
"""Of what is rounded to 8 bits, the roundings by what shares a scale."""
COLOURS = dict(zip(("per channel", "per tensor", "per token"), SERIES, strict=False))


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


def rounding() -> Drawn:
    """What each rounding adds to the loss, by remedy."""
    found = record("rounding")
    key = "Means over the kinds of text; bars: the mean of their 95 % intervals over texts."
    figure = rounding_costs(found, title=f"8-bit rounding of {MODEL}")
    return Drawn(figure, f"{MODEL}: {rounding_line(found)} {key}")


def rounding_costs(found: xr.Dataset, *, title: str | None = None) -> go.Figure:
    """What each rounding adds to the loss under each remedy: means over domains, with the mean of their intervals."""
    names = [str(name) for name in found["remedy"].values]
    figure = make_subplots(1, len(SCALES), shared_yaxes=True, subplot_titles=list(SCALES), horizontal_spacing=0.04)
    inner, top = 30 * len(names) + 10, 118
    house(figure, title=title, height=inner + top + 60)
    mean = found[["quantized_loss_change", "quantized_loss_change_low", "quantized_loss_change_high"]].mean("domain")
    shown: list[str] = []
    for column, scales in enumerate(SCALES.values(), 1):
        for label, scheme in scales.items():
            value, low, high = (mean[name].sel(scheme=scheme).values for name in mean.data_vars)
            hover = f"<b>%{{y}}</b><br>{label}: %{{x:.4f}}<extra></extra>"
            place = {"row": 1, "col": column, "legendgroup": label, "showlegend": label not in shown}
            shown.append(label)
            add_dots(figure, value, names, label, COLOURS[label], hover, error_x=error_bars(value, low, high), **place)
    for note in figure.layout.annotations:
        note.update(font={"size": 13}, yshift=6)
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=names)
    figure.update_xaxes(**ZERO)
    figure.update_xaxes(title_text="loss that rounding adds (nats)")
    return figure.update_layout(margin={"l": 190, "t": top, "b": 60}, legend_y=1 + 34 / inner)


def rounding_line(found: xr.Dataset) -> str:
    """Which of sink, drain and peak makes rounding expensive, in words."""
    added, price = (found[name].mean("domain") for name in ("quantized_loss_change", "loss_change"))
    plain = added.sel(remedy="none")
    costs = [
        f"{what} {', '.join(f'{label} {float(plain.sel(scheme=scheme)):+.3f}' for label, scheme in scales.items())}"
        for what, scales in SCALES.items()
    ]
    worst = added.sel(scheme=SCALES["activations"]["per tensor"])
    told = [
        f"{float(worst.sel(remedy=remedy)):+.3f} without {thing} (\u201c{remedy}\u201d, which itself costs "
        f"{float(price.sel(remedy=remedy)):+.3f})"
        for remedy, thing in ALONE.items()
    ]
    best = min(ALONE, key=lambda remedy: float(worst.sel(remedy=remedy)))
    share = 1 - float(worst.sel(remedy=best)) / float(worst.sel(remedy="none"))
    control = next(str(name) for name in found["remedy"].values if str(name).endswith("heads zero, least loss"))
    stretch = found["stretch"].sel(remedy=["none", best])
    where = [str(name) for name in stretch["stretched_layer"].values]
    return (
        f"8-bit rounding adds to the loss, in nats: {'; '.join(costs)}. Activations with one scale per tensor cost "
        f"{', '.join(told)}; so taking away {ALONE[best]} saves {share:.0%} of it, which is the most of the three. A "
        f"model damaged otherwise (\u201c{control}\u201d, {float(price.sel(remedy=control)):+.3f}) has "
        f"{float(worst.sel(remedy=control)):+.3f}. The "
        f"largest token has {float(stretch[0]):.0f} times the range of the median one in front of {where[0]}, and "
        f"without {ALONE[best]} {float(stretch[1]):.0f} times, in front of {where[1]}."
    )


RECIPES = (
    FigureRecipe("active-dormant/real-heads", real_heads),
    FigureRecipe("active-dormant/real-rounding", rounding),
)
