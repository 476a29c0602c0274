"""The public names: every one that the stub promises is there, and importing the package loads nothing heavy."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import workbench as wb
from workbench import deprecated
from workbench.deprecated import RENAMED

ROOMS = tuple(name for name in dir(wb) if Path(wb.__file__).with_name(name).is_dir())
STUBS = {
    package: Path(wb.__file__).parent.joinpath(*package.split(".")[1:], "__init__.pyi")
    for package in ("workbench", "workbench.leaf.toy", *(f"workbench.{room}" for room in ROOMS))
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
    assert wb.plot.heatmap is importlib.import_module("workbench.plot").heatmap


def test_every_room_that_a_user_needs_is_an_attribute():
    inside = {"organisms", "reporting", "cli"}
    rooms = {folder.parent.name for folder in Path(wb.__file__).parent.glob("*/__init__.py")}
    assert set(ROOMS) == rooms - inside


def test_names_mean_the_same_whatever_was_imported_before():
    code = """
import importlib, pkgutil, types, workbench as wb
before = {name: getattr(wb, name) for name in reversed(dir(wb))}
for room in (wb, wb.patching, wb.inactive_heads, wb.leaf, wb.tuning, wb.evaluation):
    for module in pkgutil.iter_modules(room.__path__):
        if module.name != "__main__":
            importlib.import_module(f"{room.__name__}.{module.name}")
assert {name: getattr(wb, name) for name in dir(wb)} == before
assert all(isinstance(wb.__dict__.get(name, found), type(found)) for name, found in before.items())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("package", "old", "new"), [(package, *pair) for package, names in RENAMED.items() for pair in names.items()]
)
def test_renamed_names_warn_once_and_name_the_new_one(package, old, new):
    module = importlib.import_module(package)
    deprecated._warn.cache_clear()
    with pytest.warns(DeprecationWarning, match=f"{package}.{old} is now called {package}.{new};") as told:
        assert getattr(module, old) is getattr(module, new)
        assert getattr(module, old) is getattr(module, new)
    assert len(told) == 1
    assert old not in dir(module)


def test_the_warning_points_at_the_line_that_used_the_old_name():
    code = "import warnings, workbench as wb\nwith warnings.catch_warnings(record=True) as told:\n    wb.select\n"
    run = [sys.executable, "-W", "always", "-c", code + "print(told[0].filename, told[0].lineno)"]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.split() == ["<string>", "3"]


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
