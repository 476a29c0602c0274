from .measuring import Measured as Measured
from .measuring import measure as measure
from .sycophancy import RECIPES as RECIPES
from .sycophancy import Drawn as Drawn
from .sycophancy import recipe as recipe
