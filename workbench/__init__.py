"""workbench: which heads, KV groups and tokens of a language model cause what it does.

Every public name is in `workbench/__init__.pyi` and is imported on first use: `import workbench as wb` costs nothing.
"""

import lazy_loader as _lazy

from workbench.deprecated import with_old_names as _with_old_names

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__getattr__ = _with_old_names(__name__, __getattr__)
