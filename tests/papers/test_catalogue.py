import subprocess
import sys

import pytest

from workbench.errors import InputError
from workbench.papers.active_dormant import figures as active_dormant
from workbench.papers.active_dormant import real_figures, toy_figures
from workbench.papers.catalogue import FIGURES, recipe
from workbench.papers.inactive_heads import figures as inactive_heads
from workbench.papers.kv_groups import figures as kv_groups
from workbench.papers.kv_groups import tuning_figures
from workbench.papers.leaf import figures as leaf
from workbench.papers.leaf import real_model, word_problems

ROOMS = (
    kv_groups,
    tuning_figures,
    active_dormant,
    real_figures,
    toy_figures,
    inactive_heads,
    leaf,
    word_problems,
    real_model,
)


def test_every_recipe_is_listed_with_a_title_and_found_by_name():
    recipes = [one for room in ROOMS for one in room.RECIPES]
    assert [one.name for one in recipes] == list(FIGURES)
    assert all(recipe(one.name) is one for one in recipes)
    assert all(FIGURES.values()) and len(set(FIGURES.values())) == len(FIGURES)


def test_an_unknown_figure_is_answered_with_the_nearest_one():
    with pytest.raises(InputError, match="did you mean 'sycophancy/layer-sums'"):
        recipe("sycophancy/layer-sum")


def test_listing_imports_nothing_heavy():
    code = (
        "import sys, workbench.papers.catalogue; assert not {'torch', 'numpy', 'plotly', 'xarray'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
