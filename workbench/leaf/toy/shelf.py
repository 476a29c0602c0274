"""The measured experiment that comes with the package: `measured()` is the record without a run.

To make it anew (minutes on 16 cores, hours on two):

    workbench leaf toy --out record.nc --seeds 0 1 2 3 4 5 --processes 16
"""

from functools import cache
from pathlib import Path

import xarray as xr

from workbench import results

FOLDER = Path(__file__).parent / "assets"


@cache
def measured(part: str = "confirmation") -> xr.Dataset:
    """The record over `regime` and `seed`.

    Args:
        part: "confirmation" (seeds 0 to 5) or "development" (seeds from 100 on, on which our objective was chosen).
    """
    return results.load(FOLDER / f"{part}.nc")
