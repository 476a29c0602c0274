"""Public names of the first version that were renamed: they work in this version, and each warns once.

The stubs mark them as deprecated, so that a type checker shows them too.
"""

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

RENAMED: dict[str, dict[str, str]] = {
    "workbench": {
        "agreement": "compare_estimates",
        "dormant": "inactive_heads",
        "export": "save_pretrained",
        "select": "select_units",
        "thresholds": "inactive_head_thresholds",
    },
    "workbench.evaluation": {"judge": "judge_replies"},
    "workbench.extreme": {"Recipe": "LightTuningRecipe", "judge": "classify_tokens"},
    "workbench.inactive_heads": {"Score": "HeadScore", "thresholds": "inactive_head_thresholds"},
    "workbench.leaf": {
        "Score": "TokenScore",
        "Selection": "ExampleSelection",
        "released": "attention_penalised",
        "suspects": "candidate_spans",
    },
    "workbench.leaf.toy": {"measure_cell": "measure_run"},
    "workbench.papers": {"Order": "FigureRequest"},
    "workbench.patching": {"agreement": "compare_estimates", "select": "select_units"},
    "workbench.runs": {"load": "open_result", "save": "save_result"},
    "workbench.tuning": {"Recipe": "TuningRecipe", "export": "save_pretrained"},
}
"""New names by old ones, for each package."""


def with_old_names(package: str, find: Callable[[str], Any]) -> Callable[[str], Any]:
    """A package's `__getattr__` that also finds what was renamed; `find` is the one for the names of today."""

    def lookup(name: str) -> Any:
        new = RENAMED[package].get(name)
        if new is None:
            return find(name)
        _warn(package, name, new)
        return getattr(import_module(package), new)

    return lookup


@cache
def _warn(package: str, old: str, new: str) -> None:
    warnings.warn(
        f"{package}.{old} is now called {package}.{new}; the old name will be removed in the next version.",
        DeprecationWarning,
        stacklevel=3,
    )
