"""Inactive heads: which heads do nothing on a text, and what happens to accuracy when they are zeroed.

`head_scores` gives the fifteen scores of "Identifying and Evaluating Inactive Heads in Pretrained LLMs" (and yours)
in one pass over the blocks; `inactive_head_thresholds` turns them into thresholds; `zero_heads` zeroes the selected
heads while the model runs, whatever runs it; `ablation_curve` says how many heads a task can lose (one run of the task
per score and threshold).
"""

import lazy_loader

from workbench.deprecated import with_old_names

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, __getattr__)
