"""Numbers published by the authors, as reference points for ours.

Read from the stored results and vector figures that accompany Guo et al. (2024); one seed each, full size. Bigram
losses depend on the evaluation sequences, so that excess over the oracle is compared.
"""

from typing import Any

SEED = 42
"""The seed of these runs: `architecture(..., start="authors")` draws their first weights from it."""
ONE_LAYER: dict[str, tuple[float, ...]] = {
    "step": (0, 100, 140, 200, 280, 500, 1000, 3000, 10_000, 30_000, 100_000),
    "backcopy": (4.296, 2.616, 2.304, 1.046, 0.474, 0.190, 0.0074, 2.4e-4, 7.8e-5, 2.8e-5, 5.5e-6),
    "sink": (0.022, 0.027, 0.054, 0.223, 0.539, 0.648, 0.779, 0.803, 0.811, 0.812, 0.870),
    "value_bos": (5.20, 8.71, 9.14, 8.74, 5.90, 4.85, 3.51, 2.15, 1.42, 0.84, 0.47),
    "residual_bos": (24.3, 31.1, 30.5, 28.3, 25.4, 25.4, 27.0, 37.4, 72.2, 183, 622),
    "sink_logit": (-0.12, -0.10, 0.04, 0.89, 3.15, 5.45, 9.70, 12.8, 16.8, 24.9, 35.7),
}
"""One layer, AdamW: measures of the copying head over steps."""

RESIDUAL: dict[str, tuple[float, ...]] = {
    "step": (0, 200, 600, 1000, 3000, 5000, 10_000),
    "three-layer": (24.3, 29.4, 30.1, 34.4, 51.6, 70.9, 140.7),
    "three-layer-sgd": (24.3, 23.7, 27.9, 29.1, 24.9, 23.1, 20.4),
    "three-layer-relu": (23.4, 22.9, 23.4, 23.6, 24.2, 24.2, 24.5),
}
"""Norm of the residual stream at `<s>` after layer 0 of three layers."""

EVENTS: dict[str, float] = {
    "value norm at its peak": 140,
    "bigram learned": 160,
    "sink formed": 260,
    "copying learned": 680,
}
"""First steps at which things happened in the one-layer run."""

VALUE_NORMS: tuple[float, ...] = (0.46, 20.2, 6.2, 18.7, 27.0, 26.9, 24.0, 6.9, 23.7, 22.3)
"""One layer after 100,000 steps: value norm of each token of the sequence whose attention map is shown."""

INTERVENTIONS: dict[str, tuple[float, float]] = {
    "none": (5.5e-6, 0.01),
    "no MLP 0": (3.1685, 1.99),
    "no attention 0": (7.6865, 0.01),
}
"""One layer after 100,000 steps: backcopy loss and bigram excess."""

WITHOUT_LAYER_0: dict[str, tuple[float, float]] = {
    "residual": (106.1, 0.71),
    "sink_logit": (18.93, 1.92),
    "value_bos": (0.729, 10.62),
}
"""2xTF+MLP, full and without layer 0: residual norm of `<s>` over others, sink logit and value norm in layer 1."""

STRUCTURES: dict[str, float] = {
    "two-layer": 14.6,
    "three-layer": 114.5,
    "two-layer-mlp": 106.0,
    "mlp-layer-mlp": 10.8,
    "attention-layer-mlp": -1.4,
}
"""Residual norm of `<s>` less that of the others after layer 0, after 10,000 steps."""

TOY_PEAK: dict[str, Any] = {"adam": {500: 24.8, 5000: 41.7, 10_000: 64.0}, "sgd": {10_000: 10.01}}
"""The norm in the scalar model of the peak."""
