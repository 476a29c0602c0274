import typing_extensions

from .catalogue import FIGURES as FIGURES
from .catalogue import recipe as recipe
from .measured import Measured as Measured
from .measured import measure as measure
from .requests import Drawn as Drawn
from .requests import FigureRequest as FigureRequest

@typing_extensions.deprecated("Renamed: use FigureRequest.")
class Order(FigureRequest): ...
