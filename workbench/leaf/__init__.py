"""LeaF: which tokens of a prompt mislead a student but not its teacher, and whether pruning them helps distillation.

Stage 1 of LeaF ("Learning to Focus", arXiv 2506.07851): `sensitivity` scores every token of the user's message,
`candidates` applies a threshold, `prune` makes counterfactual examples, and `confounders` does all of it and keeps the
spans without which both models answer correctly. The paper's score, the difference of two gradients, is one of several,
and `score` registers yours; `causal_check` measures the effect of removing each score's first choice. Scoring costs a
forward and a backward pass of each model per example; verification a greedy reply of the student per candidate, and of
the teacher where the student was right.
"""

import lazy_loader

from workbench.deprecated import with_old_names

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, __getattr__)
