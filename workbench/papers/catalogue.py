"""Every figure and table that can be made by name."""

from workbench.errors import InputError, suggest
from workbench.papers.active_dormant import figures as active_dormant
from workbench.papers.active_dormant import toy_figures as active_dormant_toys
from workbench.papers.inactive_heads import figures as inactive_heads
from workbench.papers.kv_groups import figures as sycophancy
from workbench.papers.kv_groups import tuning_figures as pinpoint
from workbench.papers.leaf import figures as leaf
from workbench.papers.leaf import word_problems as leaf_word_problems
from workbench.papers.requests import Recipe

PAPERS = (sycophancy, pinpoint, active_dormant, active_dormant_toys, inactive_heads, leaf, leaf_word_problems)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for paper in PAPERS for recipe in paper.RECIPES}


def recipe(name: str) -> Recipe:
    """The recipe of a figure.

    Args:
        name: Such as "sycophancy/layer-sums".

    Raises:
        InputError: there is no such figure.
    """
    if name not in RECIPES:
        raise InputError(f"there is no figure {name!r}; {suggest(name, RECIPES)}")
    return RECIPES[name]
