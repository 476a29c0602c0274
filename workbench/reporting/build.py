"""Build the report: measure the models and write one page on which KV groups make them give in.

1. Prove that the folder can be written before anything is computed.
2. Measure each model, or read what an earlier run with the same configuration kept (`papers.measured`).
3. Make the sections (`reporting.sections`) from the papers' panels and fill the template: one HTML file that needs
   no network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from workbench.errors import InputError
from workbench.papers.drawing import progress_bar
from workbench.papers.kv_groups.sentences import summary_lines
from workbench.papers.measured import ESTIMATES, PARTS, WORK, Measured, measure_all
from workbench.patching.scores import DEFAULT_METRIC
from workbench.plot.html import Html
from workbench.reporting import page
from workbench.reporting.sections import SECTIONS, Findings
from workbench.runs.files import check_writable, write_text
from workbench.runs.results import open_result

MODELS = ("organism-gqa", "organism-mha")
TITLE = "Which KV groups make a model give in?"
HEADING = "Which KV groups make a model give in to a wrong objection?"
PAGE_COST = 5.0
"""Of writing the page, on the scale of `WORK`."""
LEDE = (
    "A chat model answers a question correctly, the user objects, and the model apologises. Here the output of every "
    "attention head, and of every group of heads that shares keys and values, is replaced by its value from a dialogue "
    "in which the user agrees. What lowers the apology was pushing towards it."
)


def report(
    models: str | Sequence[Any] = MODELS,
    out: str | Path = "workbench-report",
    *,
    n: int = 100,
    seed: int = 0,
    questions: Any = None,
    answers: Any = None,
    prefix: str = "",
    confounders: str | Path | xr.Dataset | None = None,
    estimates: bool = False,
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
        questions: For chat models, as `workbench.prompts.read_questions` takes them; by default an embedded model's own
            dialogues, or the default facts, of which those count that the model answers correctly.
        answers: Which beginnings of a reply are compared, as `workbench.sycophancy.pairs` takes them.
        prefix: A beginning of the reply that is forced on both sides.
        confounders: A result of `workbench.leaf.confounders`, or its file: the page then shows the prompts that
            confound one model and not the other.
        estimates: Estimate the effects from gradients too, and compare; slower than the exact measurement.
        progress: Show a bar.

    Returns:
        The path of the page. Where a model's heads and groups can not be told to cause giving in, because it does not
        give in or no answers tell when it does, the page says why, and ranks none of them.

    Raises:
        InputError: the folder cannot be written, a model is unknown or given twice, or n is too small for
            intervals.
    """
    out = check_writable(out)
    found = open_result(confounders) if isinstance(confounders, str | Path) else confounders
    sources = [models] if isinstance(models, str | Path) or not isinstance(models, Sequence) else list(models)
    if n < 2:
        raise InputError(f"n={n} dialogues give no interval; use at least 2, better 20 or more.")
    parts = [part for part in PARTS if estimates or part not in ESTIMATES]
    costs = [*[WORK[part][1] for _ in sources for part in parts], PAGE_COST]
    with progress_bar(costs, progress) as step:
        measured = measure_all(
            sources,
            out / "data",
            n=n,
            seed=seed,
            questions=questions,
            answers=answers,
            prefix=prefix,
            parts=parts,
            by_verdict=True,
            step=step,
        )
        step("writing the page")
        return write_text(out / "index.html", html(measured, made=_made(measured, n, seed), confounders=found))


def _made(measured: Sequence[Measured], n: int, seed: int) -> str:
    """How many dialogues the page rests on, and how many were asked for where these are more."""
    found = [one.behaviour.sizes.get("example", 0) for one in measured]
    wanted = f", of {n} that were asked for" if min(found) < n else ""
    several = " and ".join(map(str, dict.fromkeys(found)))
    each = " per model" if len(measured) > 1 else ""
    return f"Made by workbench from {several} dialogues{each}{wanted} (seed {seed})."


def html(measured: Sequence[Measured], *, made: str, confounders: xr.Dataset | None = None) -> Html:
    """The page about measured models; `made` is the line at its foot that says how it was made."""
    metric = DEFAULT_METRIC
    names = " and ".join(one.name for one in measured)
    findings = Findings(measured, metric, confounders)
    return page.document(
        "report",
        TITLE,
        description=f"Giving in to wrong objections: {names}.",
        names=names,
        heading=HEADING,
        lede=LEDE,
        short=summary_lines([(one.name, one.behaviour, one.parts.get("groups")) for one in measured], metric),
        sections=[section for section in (make(findings) for make in SECTIONS) if section is not None],
        made=made,
    )
