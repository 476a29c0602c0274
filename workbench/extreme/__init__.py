"""Extreme tokens (attention sinks, value drains, residual peaks) and dormant heads: where they are, and their causes.

`extreme_tokens` finds them in any model and texts (one forward pass, attention in chunks); `interventions` take the
peak, the sink or a head away and `peak_sources` says which layers create and remove it; `training_dynamics` follows
them over training; `active_dormant` zeroes every head on texts of several domains and says where each is dormant. The
phenomena and their definitions are those of Guo et al. 2024, "Active-Dormant Attention Heads".
"""

import lazy_loader

from workbench.deprecated import with_old_names

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, __getattr__)
