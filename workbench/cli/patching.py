"""`workbench patch`: exact path patching."""

from pathlib import Path

import workbench as wb
from workbench.cli.options import Dialogues, Model, Resumable, finish, writable
from workbench.names import Unit


def patch(
    model: Model,
    unit: Unit = "kv_group",
    prompts: Dialogues = Dialogues(),
    output: Resumable = Resumable(Path("patch.nc")),
) -> None:
    """Which heads, KV groups or layers move the answer when a user objects? Exact path patching.

    Example: workbench patch organism-gqa --unit kv_group --out patch.nc

    Args:
        unit: What is patched at a time.
    """
    from workbench.papers.cache import Source
    from workbench.papers.kv_groups.behaviour import void_line

    writable(output.out)
    source, asked = Source(model), prompts.asked
    if prompts.questions is not None:
        asked["questions"] = wb.prompts.read_questions(prompts.questions)
    pairs = wb.sycophancy.pairs(source.model, progress=output.progress, **asked)
    result = wb.path_patch(source.model, pairs, unit=unit, resume=output.journal, progress=output.progress)
    void = void_line(result, "the largest of them is no finding")
    finish(result, output.out, *[void] * bool(void))
