"""Several models in a row, each measured into a folder of its own name, with one bar over all the work."""

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from workbench.errors import InputError, WorkbenchWarning
from workbench.papers.measured import PARTS, Measured, measure
from workbench.prompts.questions import read_choices


def measure_all(
    sources: Sequence[Any],
    folder: Path,
    *,
    n: int,
    seed: int,
    questions: Any = None,
    parts: Sequence[str] = PARTS,
    step: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """`measure` for several models, each with a folder of its own name.

    Args:
        sources: Anything that `load` takes.
        folder: Where the models' folders lie.
        n: Number of dialogue pairs per model.
        seed: Seed of their draw.
        questions: As for `measure`.
        parts: As for `measure`.
        step: As for `measure`.

    Raises:
        InputError: no models, two of one name, or what `measure` refuses.
    """
    if not sources:
        raise InputError("no models given; name at least one, such as 'organism-gqa'.")
    names = [Path(str(s)).name if isinstance(s, str | Path) else f"model-{i}" for i, s in enumerate(sources)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"{', '.join(twice)} was given more than once; their results would share one folder. "
            "Name each model once, and give local folders different names."
        )
    known = None if questions is None else read_choices(questions)
    with warnings.catch_warnings():
        # What these warnings say is counted in the results, and told with them.
        warnings.simplefilter("ignore", WorkbenchWarning)
        return [
            measure(source, n=n, seed=seed, questions=known, parts=parts, folder=folder / name, step=step)
            for source, name in zip(sources, names, strict=True)
        ]


@contextmanager
def progress_bar(total: int, shown: bool) -> Generator[Callable[[str], None]]:
    """A bar of so many steps, and the function that begins the next one with a text."""
    style = "{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}]"
    with tqdm(total=total, disable=not shown, bar_format=style) as bar:
        begun = False

        def step(text: str) -> None:
            nonlocal begun
            bar.update(1 if begun else 0)
            begun = True
            bar.set_description_str(text)

        yield step
        bar.update(1)
        bar.set_description_str("done")
