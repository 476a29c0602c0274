"""workbench: which heads, KV groups and tokens of a language model cause what it does.

Every public name is in `workbench/__init__.pyi` and is imported on first use: `import workbench as wb` costs nothing.
"""

import importlib
from typing import Any

import lazy_loader

_attribute, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted({*_names, "plot"})


def __getattr__(name: str) -> Any:
    return importlib.import_module("workbench.plots") if name == "plot" else _attribute(name)


def __dir__() -> list[str]:
    return __all__
