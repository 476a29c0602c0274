"""Long runs and their results: Datasets that say how they were made, files that are whole or absent, resuming.

Nothing here knows of models: runs with their finished pieces, batches that fit into memory, several processes.
"""

import lazy_loader as _lazy

from workbench.deprecated import with_old_names as _with_old_names

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__getattr__ = _with_old_names(__name__, __getattr__)
