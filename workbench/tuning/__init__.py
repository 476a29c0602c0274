"""Pinpoint tuning: train only the weights of a few heads or KV groups; every other parameter stays bit-identical.

`pinpoint_tune` trains the slices of the weights that belong to chosen heads or KV groups on dialogues that insist on
right answers and revise wrong ones (`training_dialogues`), and `save_pretrained` writes the outcome as a Hugging Face
checkpoint with a model card. The method is that of Chen et al. 2024 (arXiv 2409.01658), for groups that of Hara et al.
2026. It costs a forward and a backward pass per dialogue; memory beyond the model is that of the slices alone.
"""

import lazy_loader

from workbench.deprecated import with_old_names

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, __getattr__)
