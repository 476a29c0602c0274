"""The main job: from models to one page that shows which KV groups make them give in.

1. Prove that the folder can be written before anything is computed.
2. Measure each model, or read what an earlier run with the same configuration kept (`papers.measuring`).
3. Write the sections (`papers.sections`) as one HTML file that needs no network.
"""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from workbench import results
from workbench.errors import InputError, WorkbenchWarning
from workbench.papers import sections
from workbench.papers.measuring import PARTS, Measured, measure
from workbench.plots import page
from workbench.plots.export import write_text

MODELS = ("organism-gqa", "organism-mha")
TITLE = "Which KV groups make a model give in?"


def report(
    models: str | Sequence[Any] = MODELS,
    out: str | Path = "workbench-report",
    *,
    n: int = 40,
    seed: int = 0,
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
        progress: Show a bar.

    Returns:
        The path of the page.

    Raises:
        InputError: the folder cannot be written, a model is unknown or given twice, or n is too small for
            intervals.
    """
    out = results.check_writable(out)
    sources = [models] if isinstance(models, str | Path) or not isinstance(models, Sequence) else list(models)
    _check(sources, n)
    started = time.perf_counter()
    with tqdm(total=len(sources) * len(PARTS) + 1, disable=not progress, bar_format=_BAR) as bar:
        measured = [_measure(source, i, out, n, seed, bar) for i, source in enumerate(sources)]
        bar.set_description_str("writing the page")
        names = " and ".join(one.name for one in measured)
        seconds = time.perf_counter() - started
        made = f"Made by workbench in {seconds:.0f} s from {n} dialogues per model (seed {seed})."
        path = write_text(
            out / "index.html",
            page.document(
                TITLE, sections.body(measured, made=made), description=f"Path patching of {names}."
            ),
        )
        bar.update()
        bar.set_description_str("done")
    return path


_BAR = "{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}]"


def _check(sources: Sequence[Any], n: int) -> None:
    if not sources:
        raise InputError(f"no models given; name at least one, such as {MODELS[0]!r}.")
    named = [str(s) for s in sources if isinstance(s, str | Path)]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise InputError(
            f"{', '.join(twice)} was given more than once; each model needs to be named once only."
        )
    if n < 2:
        raise InputError(f"n={n} dialogues give no interval; use at least 2, better 20 or more.")


def _measure(source: Any, index: int, out: Path, n: int, seed: int, bar: tqdm) -> Measured:
    slug = Path(str(source)).name if isinstance(source, str | Path) else f"model-{index}"

    def step(text: str) -> None:
        bar.set_description_str(text)
        bar.update()

    with warnings.catch_warnings():
        # What these warnings say is counted in the results and stands on the page.
        warnings.simplefilter("ignore", WorkbenchWarning)
        return measure(source, n=n, seed=seed, folder=out / "data" / slug, step=step)
