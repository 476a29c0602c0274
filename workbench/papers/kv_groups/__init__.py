"""Sycophancy by KV group: path patching, selection of groups and pinpoint tuning.

The paper's method is in method.md beside this file.
"""

from workbench.names import FigureName

FIGURES: dict[str, dict[FigureName, str]] = {
    "figures": {
        "sycophancy/contribution-heatmap": "Contribution of heads and KV groups",
        "sycophancy/layer-sums": "Contribution by layer",
        "sycophancy/kurtosis-table": "Concentration of the contributions",
        "sycophancy/head-vs-group": "Whole groups and single heads",
        "sycophancy/agreement": "Estimate against exact",
    },
    "tuning_figures": {
        "sycophancy/tradeoff-table": "Tuning by group and by head",
        "sycophancy/ratio-sweep": "Tuning over the share of heads",
        "sycophancy/before-after-patching": "Effects before tuning and after",
        "sycophancy/ability-loss": "What costs other abilities",
    },
}
"""What each of the paper's figures and tables shows, by the module that draws it and by name."""
