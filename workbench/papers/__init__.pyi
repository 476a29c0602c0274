import typing_extensions

from .catalogue import FIGURES as FIGURES
from .catalogue import recipe as recipe
from .measured import Measured as Measured
from .measured import measure as measure
from .recipes import Drawn as Drawn
from .recipes import FigureRecipe as FigureRecipe
from .recipes import FigureRequest as FigureRequest
from .recipes import Panel as Panel

@typing_extensions.deprecated("Renamed: use FigureRequest.")
class Order(FigureRequest): ...
