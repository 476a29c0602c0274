"""The methods of the papers name code that exists, and stand where the wheel takes them along."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import workbench
from workbench.papers import FIGURES

METHODS = sorted(Path(workbench.__file__).parent.glob("papers/*/method.md"))


def test_every_paper_has_its_method():
    assert [path.parent.name for path in METHODS] == ["active_dormant", "inactive_heads", "kv_groups", "leaf"]


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.parent.name)
def test_the_code_that_a_method_names_is_there(path):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`(workbench(?:\.\w+)+)(?::(\w+))?`", text)
    assert len(named) > 10
    for module, name in named:
        assert not name or hasattr(import_module(module), name), f"{module}:{name}"
        import_module(module)


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.parent.name)
def test_the_steps_are_numbered_and_the_figures_exist(path):
    text = path.read_text(encoding="utf-8")
    steps = [int(n) for n in re.findall(r"^(\d+)\. ", text, flags=re.M)]
    assert steps == list(range(1, len(steps) + 1))
    figures = re.findall(r"`((?:sycophancy|active-dormant|inactive-heads|leaf)/[\w-]+)`", text)
    assert figures and set(figures) <= set(FIGURES)
