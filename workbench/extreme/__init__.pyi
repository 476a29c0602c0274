import typing

import typing_extensions

from .ablation import zeroing_sweep as zeroing_sweep
from .consequences import compare_interventions as compare_interventions
from .consequences import judge_peak as judge_peak
from .consequences import peak_sources as peak_sources
from .consequences import peak_verdict as peak_verdict
from .detect import extreme_tokens as extreme_tokens
from .domains import active_dormant as active_dormant
from .dormancy import Limits as Limits
from .dormancy import near_misses as near_misses
from .dormancy import phases as phases
from .dormancy import waking_sentences as waking_sentences
from .dormancy import waking_table as waking_table
from .dynamics import OLMO_7B_0424 as OLMO_7B_0424
from .dynamics import PYTHIA as PYTHIA
from .dynamics import follow_tokens as follow_tokens
from .dynamics import hub_checkpoints as hub_checkpoints
from .dynamics import local_checkpoints as local_checkpoints
from .dynamics import training_dynamics as training_dynamics
from .head_explanation import attention_maps as attention_maps
from .head_explanation import explain_head as explain_head
from .interventions import clamp_values as clamp_values
from .interventions import force_attention as force_attention
from .interventions import mask_key as mask_key
from .interventions import replace_first as replace_first
from .interventions import sink_bias as sink_bias
from .interventions import sliding_window as sliding_window
from .interventions import swap_token as swap_token
from .interventions import without_first as without_first
from .interventions import zero_neurons as zero_neurons
from .interventions import zero_outputs as zero_outputs
from .light_tuning import LightTuningRecipe as LightTuningRecipe
from .light_tuning import tune_lightly as tune_lightly
from .maps import patterns as patterns
from .quantize import Scheme as Scheme
from .quantize import quantized as quantized
from .remedies import add_rows as add_rows
from .remedies import compare_remedies as compare_remedies
from .remedies import without_peak as without_peak
from .verdict import Thresholds as Thresholds
from .verdict import by_regime as by_regime
from .verdict import by_token as by_token
from .verdict import classify_tokens as classify_tokens
from .verdict import regimes as regimes
from .verdict import top_sinks as top_sinks

@typing_extensions.deprecated("Renamed: use LightTuningRecipe.")
class Recipe(LightTuningRecipe): ...

@typing_extensions.deprecated("Renamed: use classify_tokens.")
def judge(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
