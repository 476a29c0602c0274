"""Which tokens of a prompt distract a student from an answer that its teacher finds, and what pruning them is worth.

Stage 1 of LeaF ("Learning to Focus", arXiv 2506.07851): `sensitivity` scores every token of the user's words,
`candidates` reads a threshold, `prune` makes counterfactual examples, and `confounders` does all of it and keeps the
spans without which both models answer rightly. Scores are pluggable (`score`), since the paper's, the difference of two
gradients, is one of several; `causal_check` says what removing each score's first choice does. Scoring costs a forward
and a backward pass of each model per example; verification costs a greedy reply of the student per candidate, and of
the teacher where the student was right.
"""

import lazy_loader

from workbench.deprecated import with_old_names

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, __getattr__)
