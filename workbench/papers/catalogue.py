"""Every figure and table that can be made by name."""

from workbench.errors import InputError, suggest
from workbench.papers import (
    active_dormant,
    active_dormant_toys,
    inactive_heads,
    leaf,
    leaf_word_problems,
    pinpoint,
    sycophancy,
)
from workbench.papers.orders import Recipe

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
