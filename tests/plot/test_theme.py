from itertools import combinations

import numpy as np
import pytest

from workbench.plot.causal import OUTCOMES
from workbench.plot.dynamics import _COLOURS as FOLLOWED
from workbench.plot.inactive import COLOURS
from workbench.plot.theme import INK, OTHERS, SERIES, SOFT
from workbench.plot.tradeoff import STYLE

SEEN_BY = {
    "everyone": np.eye(3),
    "deuteranopes": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopes": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
}
"""Matrices on linear RGB by Machado, Oliveira and Fernandes (2009), severity 1."""
PALETTES = {
    "series": SERIES,
    "others": (*OTHERS, INK),
    "scores": tuple(COLOURS.values()),
    "kinds of tuning": tuple(style["color"] for style in STYLE.values()),
    "tokens": (*FOLLOWED, SOFT),
    "outcomes": tuple(colour for _, _, colour, _ in OUTCOMES),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, seen):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.asarray(seen) @ linear, 0, 1) / TO_XYZ.sum(1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen", SEEN_BY.values(), ids=SEEN_BY)
@pytest.mark.parametrize("colours", PALETTES.values(), ids=PALETTES)
def test_colours_of_one_panel_are_told_apart(colours, seen):
    nearest = min(np.linalg.norm(lab(a, seen) - lab(b, seen)) for a, b in combinations(colours, 2))
    assert nearest > 15
