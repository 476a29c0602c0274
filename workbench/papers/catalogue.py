"""Every figure and table of the papers by name, in the order of the papers.

Listing them imports nothing else; `recipe(name)` imports the one module that is needed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from workbench.errors import InputError, suggest
from workbench.names import FigureName
from workbench.papers import active_dormant, inactive_heads, kv_groups, leaf

if TYPE_CHECKING:
    from workbench.papers.recipes import FigureRecipe

_MODULES: dict[str, dict[FigureName, str]] = {
    f"{paper.__name__}.{module}": titles
    for paper in (kv_groups, active_dormant, inactive_heads, leaf)
    for module, titles in paper.FIGURES.items()
}
FIGURES: dict[FigureName, str] = {name: title for titles in _MODULES.values() for name, title in titles.items()}
"""The title of each figure by its name, in the order of the papers."""


def check_name(name: str) -> FigureName:
    """The name of a figure, which is looked up before anything slow is imported.

    Raises:
        InputError: there is no such figure.
    """
    for known in FIGURES:
        if name == known:
            return known
    raise InputError(f"there is no figure {name!r}; {suggest(name, FIGURES)}")


def recipe(name: FigureName) -> "FigureRecipe":
    """How a figure is drawn.

    Args:
        name: Such as "sycophancy/layer-sums".

    Raises:
        InputError: there is no such figure.
    """
    [module] = [module for module, titles in _MODULES.items() if check_name(name) in titles]
    recipes: tuple[FigureRecipe, ...] = import_module(module).RECIPES
    return next(one for one in recipes if one.name == name)
