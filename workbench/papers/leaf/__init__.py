"""LeaF: confounding tokens, span pruning, counterfactual distillation.

The paper's method is in method.md beside this file.
"""

from workbench.names import FigureName

FIGURES: dict[str, dict[FigureName, str]] = {
    "figures": {
        "leaf/pruning-gain": "What pruning is worth",
        "leaf/masking-strategies": "Scores and distillations compared",
        "leaf/response-level": "Counterfactuals of prompts and responses",
        "leaf/threshold-sensitivity": "How much to prune",
        "leaf/case-study": "Where models look before and after",
        "leaf/objectives": "Every way to distil that was tried",
        "leaf/published": "LeaF over KD as published",
    },
    "word_problems": {"leaf/word-problems": "What each score's first choice causes"},
    "real_model": {
        "leaf/real-model": "What misleads a real model, beside chance",
        "leaf/real-tokens": "Tokens that are blamed in a real model",
    },
}
"""What each of the paper's figures and tables shows, by the module that draws it and by name."""
