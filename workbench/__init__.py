"""workbench: which heads, KV groups and tokens of a language model cause what it does.

Every public name is in `workbench/__init__.pyi` and is imported on first use: `import workbench as wb` costs nothing.
"""

from typing import Any

import lazy_loader

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    return _attribute("plots" if name == "plot" else name)
