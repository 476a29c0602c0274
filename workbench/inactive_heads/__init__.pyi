import typing

import typing_extensions

from .baseline import baseline_of as baseline_of
from .baseline import unusable as unusable
from .changes import by_domain as by_domain
from .changes import distances as distances
from .changes import frequency as frequency
from .changes import over_training as over_training
from .changes import overlap as overlap
from .changes import transfer as transfer
from .curves import Recorded as Recorded
from .curves import ablation_curve as ablation_curve
from .curves import recording as recording
from .cutoffs import inactive as inactive
from .cutoffs import inactive_head_thresholds as inactive_head_thresholds
from .definitions import FIFTEEN as FIFTEEN
from .definitions import HeadScore as HeadScore
from .definitions import Layer as Layer
from .definitions import Queries as Queries
from .definitions import score as score
from .scores import head_scores as head_scores
from .summary import compare_curves as compare_curves
from .summary import loss_at as loss_at
from .summary import summarize as summarize
from .tasks import choices as choices
from .tasks import harnessed as harnessed
from .zeroing import Zeroed as Zeroed
from .zeroing import zero_heads as zero_heads
from .zeroing import zero_heads_cached as zero_heads_cached

@typing_extensions.deprecated("Renamed: use HeadScore.")
class Score(HeadScore): ...

@typing_extensions.deprecated("Renamed: use inactive_head_thresholds.")
def thresholds(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
