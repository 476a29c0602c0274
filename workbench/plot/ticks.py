"""Labels of axes in the room that there is: as they are, in several lines, upright, or fewer of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.plot.text import BROKEN, LINE, text_height, text_width, wrap
from workbench.plot.theme import SMALL

NUMBER = re.compile(r"[−+-]?\d[\d,.]*[kM%]?|10<sup>.*</sup>|")
BETWEEN = 4
"""Pixels between two labels."""
PITCH = 12.5
"""Pixels from one upright label to the next."""
MOST_LINES, MOST_NAMES = 5, 36
"""Lines of a name, and names of which none is left out."""
APART = 52
"""Pixels from one number to the next on an axis that chooses them itself."""


@dataclass(frozen=True)
class Labels:
    """The labels of an axis.

    Attributes:
        places: where they stand, in the axis's coordinates.
        values: the same as the axis takes them: names of categories, numbers also on a logarithmic axis.
        texts: what they say; empty where nothing is shown.
        chosen: whether the figure names them; otherwise Plotly chooses numbers, and these are alike.
    """

    places: np.ndarray
    values: list[Any]
    texts: list[str]
    chosen: bool

    @property
    def numbers(self) -> bool:
        """Whether all of them are numbers, of which some may be left out."""
        return all(NUMBER.fullmatch(text) for text in self.texts)

    def width(self, most: float | int) -> float:
        """Pixels of the widest label, in lines of at most so many."""
        return max((text_width(wrap(text, most, SMALL), SMALL) for text in self.texts), default=0.0)


def labels_of(axis: Any, values: Sequence[Any]) -> Labels:
    """What an axis writes, from its settings and the values that its traces have along it.

    Args:
        axis: A Plotly axis.
        values: One sequence per trace.
    """
    if axis.tickvals is not None:
        given = list(axis.tickvals)
        texts = [str(text) for text in (axis.ticktext if axis.ticktext is not None else map(_short, given))]
        names = {name: i for i, name in enumerate(_names(values))}
        at = np.array([names[place] if isinstance(place, str) else float(place) for place in given])
        return Labels(np.log10(at) if axis.type == "log" else at, given, texts, True)
    if axis.type == "category" or any(isinstance(v, str) for some in values for v in some):
        names = _names(values)
        return Labels(np.arange(len(names), dtype=float), names, names, True)
    low, high = extent(axis, values)
    if axis.dtick and axis.type != "log":
        start = float(axis.tick0 or 0)
        at = start + axis.dtick * np.arange(np.ceil((low - start) / axis.dtick), (high - start) // axis.dtick + 1)
        return Labels(at, at.tolist(), [_short(place) for place in at.tolist()], True)
    if axis.type == "log":
        return Labels(np.arange(np.floor(low), np.ceil(high) + 1), [], ["1000"], False)
    step = 10 ** np.floor(np.log10((high - low) / 4 or 1))
    worst = max((_short(round(v / step) * step) for v in (low, high, low + step)), key=len)
    return Labels(np.linspace(low, high, 5), [], [worst], False)


def extent(axis: Any, values: Sequence[Any]) -> tuple[float, float]:
    """The ends of an axis in its own coordinates: those that are set, or those of the values, widened a little."""
    if axis.range is not None:
        low, high = sorted(float(end) for end in axis.range)
        return low, high
    if axis.type == "category" or any(isinstance(v, str) for some in values for v in some):
        return -0.5, len(_names(values)) - 0.5
    known = np.concatenate([np.asarray(some, dtype=float).ravel() for some in values] or [np.zeros(1)])
    known = known[np.isfinite(known)]
    if axis.type == "log":
        known = np.log10(known[known > 0])
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def across(axis: Any, labels: Labels, ends: tuple[float, float], pixels: float | int) -> tuple[dict[str, Any], float]:
    """Settings of a horizontal axis of so many pixels, and the height of its labels.

    Names are broken into lines, or stand upright; numbers that have no room are left out.
    """
    if not labels.chosen:
        log = {"dtick": max(1, round(len(labels.places) * APART / pixels))} if axis.type == "log" else {}
        return {"nticks": max(3, int(pixels / APART)), "tickangle": 0} | log, SMALL * LINE
    at = (labels.places - ends[0]) / (ends[1] - ends[0]) * pixels
    texts, angle = labels.texts, 0
    if _crowded(at, texts):
        flowing = [wrap(text.replace("<br>", " "), _gap(at, texts) - 2 * BETWEEN, SMALL) for text in texts]
        if labels.numbers:
            texts = _thinned(at, texts, _widths(texts))
        elif not _crowded(at, flowing) and max(len(BROKEN.split(text)) for text in flowing) <= MOST_LINES:
            texts = flowing
        else:
            angle, texts = -90, [text.replace("<br>", " ").strip() for text in texts]
            texts = _thinned(at, texts, [PITCH - BETWEEN for _ in texts])
    kept = [(place, text) for place, text in zip(labels.values, texts, strict=True) if text]
    height = max(
        (text_width(text, SMALL) if angle else text_height(text, SMALL) for _, text in kept),
        default=0.0,
    )
    settings = {"tickvals": [place for place, _ in kept], "ticktext": [text for _, text in kept]}
    return {"tickmode": "array", "tickangle": angle} | settings, height


def down(
    axis: Any, labels: Labels, ends: tuple[float, float], pixels: float | int, most: float | int
) -> dict[str, Any]:
    """Settings of a vertical axis of so many pixels, whose labels have lines of at most `most` pixels."""
    if not labels.chosen:
        log = {"dtick": max(1, -(-len(labels.places) * 20 // int(pixels)))} if axis.type == "log" else {}
        return {"nticks": max(3, int(pixels / 32))} | log
    at = (labels.places - ends[0]) / (ends[1] - ends[0]) * pixels
    texts = [wrap(text, most, SMALL) for text in labels.texts]
    texts = _thinned(at, texts, [text_height(text, SMALL) - BETWEEN for text in texts])
    kept = [(place, text) for place, text in zip(labels.values, texts, strict=True) if text]
    return {"tickmode": "array", "tickvals": [place for place, _ in kept], "ticktext": [text for _, text in kept]}


def height_for(labels: Labels, ends: tuple[float, float], most: float | int) -> float:
    """Pixels that a vertical axis needs so that all its names can stand; numbers, and some of many, may be left out."""
    if not labels.chosen or labels.numbers or not 1 < len(labels.texts) <= MOST_NAMES:
        return 0.0
    tallest = max(text_height(wrap(text, most, SMALL), SMALL) for text in labels.texts)
    return (tallest + 2) * (ends[1] - ends[0]) / float(np.diff(np.sort(labels.places)).min())


def _gap(at: np.ndarray, texts: Sequence[str]) -> float:
    shown = np.sort(at[[bool(text) for text in texts]])
    return float(np.diff(shown).min()) if len(shown) > 1 else np.inf


def _crowded(at: np.ndarray, texts: Sequence[str]) -> bool:
    return _thinned(at, texts, _widths(texts)) != list(texts)


def _widths(texts: Sequence[str]) -> list[float]:
    """Pixels of texts, of numbers with more space between them."""
    return [text_width(text, SMALL) + BETWEEN * bool(NUMBER.fullmatch(text)) for text in texts]


def _thinned(at: np.ndarray, texts: Sequence[str], sizes: Sequence[float]) -> list[str]:
    """The texts, without those that would touch others: names come first, then numbers from the left."""
    kept = [""] * len(texts)
    for i in sorted(range(len(texts)), key=lambda i: (bool(NUMBER.fullmatch(texts[i])), at[i])):
        near = (abs(at[i] - at[k]) < (sizes[i] + sizes[k]) / 2 + BETWEEN for k, text in enumerate(kept) if text)
        kept[i] = "" if any(near) else texts[i]
    return kept


def _names(values: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(str(v) for some in values for v in some if v is not None))


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,.6g}"
