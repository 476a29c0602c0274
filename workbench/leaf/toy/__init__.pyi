import typing

import typing_extensions

from .arms import WAYS as WAYS
from .detection import detected as detected
from .detection import planted_positions as planted_positions
from .experiment import SMALL as SMALL
from .experiment import run as run
from .measures import Size as Size
from .measures import measure_run as measure_run
from .measures import test_sets as test_sets
from .models import right as right
from .records import measured as measured
from .regimes import REGIMES as REGIMES
from .regimes import model as model
from .regimes import regime as regime
from .regimes import school as school
from .task import Problems as Problems
from .task import examples as examples
from .task import problems as problems
from .task import text as text

@typing_extensions.deprecated("Renamed: use measure_run.")
def measure_cell(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
