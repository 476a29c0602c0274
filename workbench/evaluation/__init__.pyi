import typing

import typing_extensions

from .answers import MATCHERS as MATCHERS
from .code import pass_at_k as pass_at_k
from .code import score_programs as score_programs
from .embedded_questions import organism_questions as organism_questions
from .embedded_questions import own_questions as own_questions
from .generation import generate as generate
from .harness import harness_answers as harness_answers
from .harness import harness_model as harness_model
from .harness import run_harness as run_harness
from .local import interval as interval
from .local import score_choices as score_choices
from .questions import Question as Question
from .questions import in_chat as in_chat
from .questions import lettered as lettered
from .questions import worded as worded
from .replies import judge_replies as judge_replies
from .replies import score_replies as score_replies
from .sandbox import run_program as run_program
from .summary import evaluate as evaluate
from .tasks import load_task as load_task

@typing_extensions.deprecated("Renamed: use judge_replies.")
def judge(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
