from .catalogue import FIGURES as FIGURES
from .catalogue import recipe as recipe
from .measured import Measured as Measured
from .measured import measure as measure
from .requests import Drawn as Drawn
from .requests import Order as Order
