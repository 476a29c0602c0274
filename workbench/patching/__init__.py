"""Patching: which heads, KV groups and layers cause an answer, by exact intervention.

`path.path_patch` measures what a unit sends straight to the logits (Wang et al. 2022; cost: two forward passes and
single-token MLPs), `activation.activation_patch` the total effect of an activation (a row of a partial forward pass
per cell), `attribution.attribution_patch` estimates the latter by gradients. `statistics` and `selection` ask how
concentrated the effects are and which units to take.
"""

import lazy_loader

from workbench.deprecated import with_old_names

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, __getattr__)
