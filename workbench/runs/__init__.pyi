import typing

import typing_extensions

from .results import open_result as open_result
from .results import provenance as provenance
from .results import save_result as save_result
from .run import Run as Run

@typing_extensions.deprecated("Renamed: use open_result.")
def load(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
@typing_extensions.deprecated("Renamed: use save_result.")
def save(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
