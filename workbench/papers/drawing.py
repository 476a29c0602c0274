"""One figure of a paper from the name to the files: measure what its recipe needs, draw it, write it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from workbench import results
from workbench.errors import WorkbenchWarning
from workbench.papers.measuring import measure
from workbench.papers.sycophancy import recipe
from workbench.plots.export import FORMATS, save_figure


@dataclass(frozen=True)
class Done:
    """What was drawn: the sentence about it, the files, and a message where a format had to be left out."""

    sentence: str
    files: list[Path]
    message: str | None


def draw(
    name: str,
    models: Sequence[Any] = ("organism-gqa", "organism-mha"),
    out: str | Path = "figures",
    *,
    metric: str | None = None,
    formats: Sequence[str] = FORMATS,
    n: int = 40,
    seed: int = 0,
    progress: bool = True,
) -> Done:
    """Draw a named figure for one or more models into `out/<name>.*`.

    Args:
        name: Such as "sycophancy/layer-sums".
        models: Anything that `load` takes; the models stand side by side.
        out: Folder for the figures. What was measured is kept in its `data/` and used again.
        metric: The score; None takes the logit ratio where it is sound, else the logit difference.
        formats: Any of html, json, png, pdf.
        n: Number of dialogue pairs per model.
        seed: Seed of their draw.
        progress: Show a bar.

    Raises:
        InputError: there is no such figure, the folder cannot be written, or a model is refused.
    """
    chosen = recipe(name)
    out = results.check_writable(out)
    measured = []
    with (
        tqdm(total=len(models) * len(chosen.needs), disable=not progress, leave=False) as bar,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", WorkbenchWarning)

        def step(text: str) -> None:
            bar.set_description_str(text)
            bar.update()

        for i, source in enumerate(models):
            slug = Path(str(source)).name if isinstance(source, str | Path) else f"model-{i}"
            measured.append(
                measure(source, n=n, seed=seed, parts=chosen.needs, folder=out / "data" / slug, step=step)
            )
    drawn = chosen(measured, metric)
    files, message = save_figure(drawn.figure, out / name, formats, root=out)
    return Done(drawn.sentence, files, message)
