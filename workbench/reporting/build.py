"""The main job: from models to one page that shows which KV groups make them give in.

1. Prove that the folder can be written before anything is computed.
2. Measure each model, or read what an earlier run with the same configuration kept (`papers.measuring`).
3. Write the sections (`papers.sections`) as one HTML file that needs no network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from workbench.errors import InputError
from workbench.papers.measured import PARTS
from workbench.papers.redraw import measure_all, progress_bar
from workbench.reporting import page, sections
from workbench.runs.files import check_writable, write_text
from workbench.runs.results import open_result

MODELS = ("organism-gqa", "organism-mha")
TITLE = "Which KV groups make a model give in?"


def report(
    models: str | Sequence[Any] = MODELS,
    out: str | Path = "workbench-report",
    *,
    n: int = 100,
    seed: int = 0,
    questions: Any = None,
    confounders: str | Path | xr.Dataset | None = None,
    progress: bool = True,
) -> Path:
    """Write one self-contained HTML page about giving in to wrong objections, and its Datasets beside it.

    What was measured with the same configuration lies in `out/data/` and is used again.

    Args:
        models: One or more of anything that `load` takes: organism names, local folders, Hub ids, models in
            memory.
        out: Folder for `index.html` and `data/`.
        n: Number of dialogue pairs per model.
        seed: Seed of their draw.
        questions: For chat models that are no organism: multiple-choice questions as
            `{"question": str, "choices": [str, ...], "answer": index}`, or a JSON file of them.
        confounders: A result of `workbench.leaf.confounders`, or its file: the page then shows the prompts that
            confound one model and not the other.
        progress: Show a bar.

    Returns:
        The path of the page.

    Raises:
        InputError: the folder cannot be written, a model is unknown or given twice, or n is too small for
            intervals.
    """
    out = check_writable(out)
    found = open_result(confounders) if isinstance(confounders, str | Path) else confounders
    sources = [models] if isinstance(models, str | Path) or not isinstance(models, Sequence) else list(models)
    if n < 2:
        raise InputError(f"n={n} dialogues give no interval; use at least 2, better 20 or more.")
    with progress_bar(len(sources) * len(PARTS) + 1, progress) as step:
        measured = measure_all(sources, out / "data", n=n, seed=seed, questions=questions, step=step)
        step("writing the page")
        made = f"Made by workbench from {n} dialogues per model (seed {seed})."
        names = " and ".join(one.name for one in measured)
        body = sections.body(measured, made=made, confounders=found)
        whole = page.document(TITLE, body, description=f"Path patching of {names}.")
        return write_text(out / "index.html", whole)
