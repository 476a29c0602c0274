"""Self-checks of a model: what must hold before measurements on it can be trusted.

`check` runs a few tokens through the model and measures one number per check: the model against its Hugging Face
original, its parts against itself, the KV map, writes at every hook, padding, BOS. A check that does not concern a
model is marked so, and one that breaks is a failed row with its reason. Some of them decide whether path patching can
be trusted; the rest say which hooks, paddings and tokenizer settings to stay away from. It takes well under a second
for a small model and no memory beyond that of a short batch.
"""

from workbench.models.checks.verdict import (
    CHECKS,
    DECISIVE,
    EXACT,
    RERUN,
    Way,
    check,
    recomputes,
    require_exact,
    require_hooks,
    require_path,
    table,
)

__all__ = [
    "CHECKS",
    "DECISIVE",
    "EXACT",
    "RERUN",
    "Way",
    "check",
    "recomputes",
    "require_exact",
    "require_hooks",
    "require_path",
    "table",
]
