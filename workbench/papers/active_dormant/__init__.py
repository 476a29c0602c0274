"""Active-dormant heads: sinks, drains, peaks and the Bigram-Backcopy task.

The paper's method is in method.md beside this file.
"""

from workbench.names import FigureName

FIGURES: dict[str, dict[FigureName, str]] = {
    "figures": {
        "active-dormant/extreme-tokens": "Sink, drain and peak",
        "active-dormant/sinks": "Attention sinks by head",
        "active-dormant/peak": "Coordinates of the peak",
        "active-dormant/training": "Extreme tokens over training",
        "active-dormant/domains": "Heads that are dormant or active by domain",
        "active-dormant/waking-head": "A head dormant and active",
        "active-dormant/remedies": "What remedies cost and reduce",
        "active-dormant/peak-sources": "Where the peak is made and unmade",
    },
    "real_figures": {
        "active-dormant/real-heads": "Waking heads of a real model",
        "active-dormant/real-rounding": "8-bit rounding of a real model",
    },
    "toy_figures": {
        "active-dormant/one-layer": "One layer: attention, values and interventions",
        "active-dormant/dynamics": "One layer over training",
        "active-dormant/optimizer-and-attention": "Residual peak by optimizer",
        "active-dormant/architectures": "Residual peak by structure",
        "active-dormant/variants": "Sinks in other languages",
        "active-dormant/theory": "Gradient flow",
    },
}
"""What each of the paper's figures and tables shows, by the module that draws it and by name."""
