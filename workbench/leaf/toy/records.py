"""The measured experiment that comes with the package: `measured()` is the record without a run.

To measure it again (35 minutes on one core, and some ten more for training the models):

    workbench leaf toy --regimes B A N P D --seeds 1 2 3 4 5 6 --processes 16 --out record.nc
"""

from functools import cache
from pathlib import Path

import xarray as xr

from workbench.runs.results import open_result

FOLDER = Path(__file__).parent / "assets"


@cache
def measured(part: str = "confirmation") -> xr.Dataset:
    """The record: "confirmation" (seeds 1 to 6) or "development" (seed 0, on which our objective was chosen)."""
    return open_result(FOLDER / f"{part}.nc")
