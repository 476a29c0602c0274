import typing

import typing_extensions

from . import bigram_backcopy as bigram_backcopy
from . import evaluation as evaluation
from . import extreme as extreme
from . import inactive_heads as inactive_heads
from . import leaf as leaf
from . import models as models
from . import names as names
from . import papers as papers
from . import patching as patching
from . import plot as plot
from . import prompts as prompts
from . import runs as runs
from . import sycophancy as sycophancy
from . import tuning as tuning
from .errors import InputError as InputError
from .errors import WorkbenchWarning as WorkbenchWarning
from .extreme.detect import extreme_tokens as extreme_tokens
from .extreme.domains import active_dormant as active_dormant
from .inactive_heads.curves import ablation_curve as ablation_curve
from .inactive_heads.cutoffs import inactive_head_thresholds as inactive_head_thresholds
from .inactive_heads.scores import head_scores as head_scores
from .inactive_heads.zeroing import zero_heads as zero_heads
from .models.anatomy import Anatomy as Anatomy
from .models.anatomy import anatomy as anatomy
from .models.checks import check as check
from .models.embedded import embedded as embedded
from .models.load import load as load
from .patching.activation import activation_patch as activation_patch
from .patching.attribution import attribution_patch as attribution_patch
from .patching.path import path_patch as path_patch
from .patching.selection import select_units as select_units
from .patching.statistics import compare_estimates as compare_estimates
from .patching.statistics import kurtosis as kurtosis
from .prompts.pairs import PromptPairs as PromptPairs
from .protocol import HookedModel as HookedModel
from .reporting.build import report as report
from .runs.results import open_result as open_result
from .runs.results import save_result as save_result
from .tuning.checkpoint import save_pretrained as save_pretrained
from .tuning.pinpoint import pinpoint_tune as pinpoint_tune

@typing_extensions.deprecated("Renamed: use compare_estimates.")
def agreement(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
@typing_extensions.deprecated("Renamed: use save_pretrained.")
def export(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
@typing_extensions.deprecated("Renamed: use select_units.")
def select(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
@typing_extensions.deprecated("Renamed: use inactive_head_thresholds.")
def thresholds(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
