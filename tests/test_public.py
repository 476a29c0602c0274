"""The public names: every one that the stub promises is there, and importing the package loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import workbench as wb

ROOMS = (
    "patching",
    "extreme",
    "bigram_backcopy",
    "inactive_heads",
    "evaluation",
    "leaf",
    "plot",
    "runs",
    "sycophancy",
    "tuning",
    "papers",
)
STUBS = {
    package: Path(wb.__file__).parent.joinpath(*package.split(".")[1:], "__init__.pyi")
    for package in ("workbench", *(f"workbench.{room}" for room in ROOMS))
}


def promised(package):
    tree = ast.parse(STUBS[package].read_text())
    names = [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert names
    return names


@pytest.mark.parametrize("package", STUBS)
def test_every_promised_name_is_there(package):
    module = __import__(package, fromlist=["x"])
    missing = [name for name in promised(package) if not hasattr(module, name)]
    assert not missing
    assert set(promised(package)) <= set(dir(module))


def test_functions_are_not_hidden_by_the_modules_they_live_in():
    for name in ("load", "anatomy", "check", "path_patch", "report", "kurtosis"):
        assert callable(getattr(wb, name)), name
    assert wb.plot.heatmap is __import__("workbench.plot", fromlist=["x"]).heatmap


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, workbench; print([m for m in ('torch', 'transformers', 'plotly', 'xarray') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_names_of_figures_and_scores_are_those_that_are_there():
    from workbench import names
    from workbench.evaluation.answers import MATCHERS
    from workbench.evaluation.local import NORMALISE
    from workbench.inactive_heads import FIFTEEN
    from workbench.leaf import SCORES
    from workbench.papers.catalogue import FIGURES
    from workbench.sycophancy.sets import FORMS

    assert list(get_args(names.FigureName)) == list(FIGURES)
    assert list(get_args(names.HeadScoreName)) == list(FIFTEEN)
    assert list(get_args(names.TokenScoreName)) == list(SCORES)
    assert list(get_args(names.DialogueForm)) == list(FORMS)
    assert list(get_args(names.ReplyMatch)) == list(MATCHERS)
    assert list(get_args(names.Normalise)) == list(NORMALISE)
