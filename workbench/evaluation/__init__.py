"""How well a model answers: benchmark questions from local files or an embedded model's own, scored and generated.

`load_task` reads benchmarks from a folder in the prompt formats of lm-evaluation-harness, and `own_questions` asks
what an embedded model was taught; `score_choices` and `score_replies` give accuracy with an interval. Everything runs
through the TransformerLens model, so that hooks on it are active: accuracy under an intervention is the same call
inside the intervention's `with` block. `run_harness` hands the same model to the harness itself (extra `eval`).
Scoring costs one forward pass per different prompt and continuation; what prompts share at their beginning is run once.
"""

import lazy_loader

from workbench.deprecated import with_old_names

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, __getattr__)
