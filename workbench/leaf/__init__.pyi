import typing

import typing_extensions

from . import toy as toy
from .asking import Reply as Reply
from .asking import ask as ask
from .baselines import Arm as Arm
from .baselines import compare as compare
from .baselines import matched as matched
from .baselines import paired as paired
from .baselines import upweighted as upweighted
from .baselines import verified as verified
from .causal import causal_check as causal_check
from .causal import check_scores as check_scores
from .confounding import confounders as confounders
from .confounding import counterfactuals as counterfactuals
from .control import against_chance as against_chance
from .control import random_counterfactuals as random_counterfactuals
from .distillation_pairs import Lesson as Lesson
from .distilling import Distilled as Distilled
from .distilling import distill as distill
from .examples import Example as Example
from .examples import Wording as Wording
from .examples import as_record as as_record
from .examples import digest as digest
from .examples import from_record as from_record
from .objectives import attention_penalised as attention_penalised
from .objectives import candidate_spans as candidate_spans
from .pruning import Pruned as Pruned
from .pruning import prune as prune
from .pruning import spans as spans
from .reading import read_examples as read_examples
from .reading import write_examples as write_examples
from .scores import SCORES as SCORES
from .scores import Batch as Batch
from .scores import TokenScore as TokenScore
from .scores import score as score
from .scoring import sensitivity as sensitivity
from .segments import split_responses as split_responses
from .selection import ExampleSelection as ExampleSelection
from .selection import select_examples as select_examples
from .teacher_student_gap import gaps as gaps
from .teacher_student_gap import hardest as hardest
from .thresholds import candidates as candidates
from .thresholds import oriented as oriented
from .tokenized_examples import example as example
from .tokenized_examples import reword as reword
from .verification import verify as verify
from .word_problems import planted as planted
from .word_problems import word_problems as word_problems

@typing_extensions.deprecated("Renamed: use TokenScore.")
class Score(TokenScore): ...

@typing_extensions.deprecated("Renamed: use ExampleSelection.")
class Selection(ExampleSelection): ...

@typing_extensions.deprecated("Renamed: use attention_penalised.")
def released(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
@typing_extensions.deprecated("Renamed: use candidate_spans.")
def suspects(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
