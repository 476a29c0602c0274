"""Every figure and table of the papers by name: what it shows, and the module that draws it.

Listing them imports nothing else; `recipe(name)` imports the one module that is needed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from workbench.errors import InputError, suggest
from workbench.names import FigureName

if TYPE_CHECKING:
    from workbench.papers.requests import FigureRecipe

_MODULES: dict[str, dict[FigureName, str]] = {
    "kv_groups.figures": {
        "sycophancy/contribution-heatmap": "Contribution of heads and KV groups",
        "sycophancy/layer-sums": "Contribution by layer",
        "sycophancy/kurtosis-table": "Concentration of the contributions",
        "sycophancy/head-vs-group": "Whole groups and single heads",
        "sycophancy/agreement": "Estimate against exact",
    },
    "kv_groups.tuning_figures": {
        "sycophancy/tradeoff-table": "Tuning by group and by head",
        "sycophancy/ratio-sweep": "Tuning over the share of heads",
        "sycophancy/before-after-patching": "Effects before tuning and after",
        "sycophancy/ability-loss": "What costs other abilities",
    },
    "active_dormant.figures": {
        "active-dormant/extreme-tokens": "Sink, drain and peak",
        "active-dormant/sinks": "Attention sinks by head",
        "active-dormant/peak": "Coordinates of the peak",
        "active-dormant/training": "Extreme tokens over training",
        "active-dormant/domains": "Heads that sleep and wake by domain",
        "active-dormant/waking-head": "A head asleep and awake",
        "active-dormant/remedies": "What remedies cost and cure",
        "active-dormant/peak-sources": "Where the peak is made and unmade",
    },
    "active_dormant.toy_figures": {
        "active-dormant/one-layer": "One layer: attention, values and interventions",
        "active-dormant/dynamics": "One layer over training",
        "active-dormant/optimizer-and-attention": "Residual peak by optimizer",
        "active-dormant/architectures": "Residual peak by structure",
        "active-dormant/variants": "Sinks in other languages",
        "active-dormant/theory": "Gradient flow",
    },
    "inactive_heads.figures": {
        "inactive-heads/accuracy-curves": "Accuracy without inactive heads",
        "inactive-heads/auc-ranks": "Ranks of the scores",
        "inactive-heads/frequency": "How often each head is inactive",
        "inactive-heads/domains": "Inactive heads by kind of text",
        "inactive-heads/training": "Dormant heads over training",
        "inactive-heads/score-overlap": "Overlap of the scores",
        "inactive-heads/threshold-transfer": "Thresholds carried elsewhere",
        "inactive-heads/distances": "Distances between distributions of scores",
    },
    "leaf.figures": {
        "leaf/pruning-gain": "What pruning is worth",
        "leaf/masking-strategies": "Scores and distillations compared",
        "leaf/response-level": "Counterfactuals of prompts and responses",
        "leaf/threshold-sensitivity": "How much to prune",
        "leaf/case-study": "Where models look before and after",
        "leaf/objectives": "Every way to distil that was tried",
        "leaf/published": "LeaF over KD as published",
    },
    "leaf.word_problems": {
        "leaf/word-problems": "What each score's first choice causes",
    },
}
FIGURES: dict[FigureName, str] = {name: title for titles in _MODULES.values() for name, title in titles.items()}
"""The title of each figure by its name, in the order of the papers."""


def recipe(name: FigureName) -> "FigureRecipe":
    """How a figure is drawn.

    Args:
        name: Such as "sycophancy/layer-sums".

    Raises:
        InputError: there is no such figure.
    """
    for module, titles in _MODULES.items():
        if name in titles:
            recipes: tuple[FigureRecipe, ...] = import_module(f"workbench.papers.{module}").RECIPES
            return next(one for one in recipes if one.name == name)
    raise InputError(f"there is no figure {name!r}; {suggest(name, FIGURES)}")
