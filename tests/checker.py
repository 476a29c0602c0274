"""beartype for the package under test, except that a name (`workbench.names`) may be any text.

What a function answers to an unknown name is its own `InputError`, which an untyped caller meets and tests pin.
"""

from functools import cache
from typing import Any, Literal, get_origin

from beartype import BeartypeConf, FrozenDict, beartype


@cache
def _settings() -> BeartypeConf:
    from workbench import names

    known = [hint for hint in vars(names).values() if get_origin(hint) is Literal]
    return BeartypeConf(hint_overrides=FrozenDict(dict.fromkeys(known, str)))


def check(checked: Any) -> Any:
    """Decorate a function or class of the package."""
    return beartype(checked, conf=_settings())
