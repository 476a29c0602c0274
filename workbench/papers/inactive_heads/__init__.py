"""Inactive heads: scores, thresholds, accuracy curves.

The paper's method is in method.md beside this file.
"""

from workbench.names import FigureName

FIGURES: dict[str, dict[FigureName, str]] = {
    "figures": {
        "inactive-heads/accuracy-curves": "Accuracy without inactive heads",
        "inactive-heads/auc-ranks": "Ranks of the scores",
        "inactive-heads/a-tenth-zeroed": "Accuracy lost with a tenth of the heads zeroed",
        "inactive-heads/frequency": "How often each head is inactive",
        "inactive-heads/domains": "Inactive heads by kind of text",
        "inactive-heads/training": "Dormant heads over training",
        "inactive-heads/score-overlap": "Overlap of the scores",
        "inactive-heads/threshold-transfer": "Thresholds carried elsewhere",
        "inactive-heads/distances": "Distances between distributions of scores",
    }
}
"""What each of the paper's figures and tables shows, by the module that draws it and by name."""
