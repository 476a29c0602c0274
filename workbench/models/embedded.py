"""Embedded models ("model organisms": small chat models trained here to show a behaviour), with their data and records.

`load` takes their names like any other source. Beyond weights each knows what it was taught (`EmbeddedModel`):
challenged dialogues, questions with known answers, texts like its training's, and records of its training. Every other
room asks `embedded` for that; only this module knows where these models live.
"""

from typing import Literal, overload

from workbench.errors import InputError
from workbench.organisms import NAMES
from workbench.organisms.provider import Organism as EmbeddedModel
from workbench.prompts.templates import tokenizer_of
from workbench.protocol import HookedModel


@overload
def embedded(source: Literal["organism-gqa", "organism-mha", "organism-mqa"]) -> EmbeddedModel: ...
@overload
def embedded(source: HookedModel | str) -> EmbeddedModel | None: ...
def embedded(source: HookedModel | str) -> EmbeddedModel | None:
    """The embedded model of a name or a model, None where there is none; copies are known by their chat template."""
    if isinstance(source, str):
        return EmbeddedModel(source) if source in NAMES else None
    template = getattr(getattr(source, "tokenizer", None), "chat_template", None)
    if template != EmbeddedModel.chat_template:
        return None
    name = getattr(source, "workbench_name", "")
    return EmbeddedModel(name if name in NAMES else "")


def embedded_or_raise(source: HookedModel | str, instead: str) -> EmbeddedModel:
    """`embedded`, for what embedded models alone can do.

    Raises:
        InputError: another model, which ends in `instead`: what that means, and what to do; or one without a tokenizer.
    """
    found = embedded(source)
    if found is not None:
        return found
    if isinstance(source, str):
        raise InputError(f"There is no embedded model {source!r}. The embedded models are {', '.join(NAMES)}.")
    tokenizer_of(source)
    raise InputError(f"This is not an embedded model, {instead}")
