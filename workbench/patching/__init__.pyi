import typing

import typing_extensions

from .activation import activation_patch as activation_patch
from .attribution import attribution_patch as attribution_patch
from .path import path_patch as path_patch
from .selection import Selection as Selection
from .selection import complete_to_groups as complete_to_groups
from .selection import random_heads as random_heads
from .selection import random_units as random_units
from .selection import same_layer_units as same_layer_units
from .selection import select_units as select_units
from .statistics import bootstrap as bootstrap
from .statistics import compare_estimates as compare_estimates
from .statistics import kurtosis as kurtosis
from .statistics import layer_sums as layer_sums
from .statistics import split_half as split_half
from .statistics import top_mass as top_mass
from .statistics import within_group_variance as within_group_variance

@typing_extensions.deprecated("Renamed: use compare_estimates.")
def agreement(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
@typing_extensions.deprecated("Renamed: use select_units.")
def select(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
