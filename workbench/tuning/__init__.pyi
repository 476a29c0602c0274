import typing

import typing_extensions

from .checkpoint import save_pretrained as save_pretrained
from .dialogues import training_dialogues as training_dialogues
from .pinpoint import Tuned as Tuned
from .pinpoint import parameter_count as parameter_count
from .pinpoint import pinpoint_tune as pinpoint_tune
from .recipe import TuningRecipe as TuningRecipe

@typing_extensions.deprecated("Renamed: use TuningRecipe.")
class Recipe(TuningRecipe): ...

@typing_extensions.deprecated("Renamed: use save_pretrained.")
def export(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
