"""The paper's own curves as data: fourteen models, fourteen scores, seven thresholds on MMLU, five examples each."""

import json
from pathlib import Path

import numpy as np
import xarray as xr

FILE = Path(__file__).parent / "assets" / "published.json"


def published() -> xr.Dataset:
    """The released numbers, in the shape of an `ablation_curve` with a `model` dim in front.

    Returns:
        `tau`, `share` (0 to 1) and `accuracy` (0 to 1) over (model, score, threshold), and `baseline(model)`: the
        accuracy with nothing zeroed, as the authors take it (Random at 0).
    """
    read = json.loads(FILE.read_text())
    models = list(read["models"])
    scores = list(read["models"][models[0]])
    values = np.array([[read["models"][m][s] for s in scores] for m in models])
    dims = ("model", "score", "threshold")
    out = xr.Dataset(
        {
            "tau": (dims, values[..., 0]),
            "share": (dims, values[..., 1] / 100),
            "accuracy": (dims, values[..., 2] / 100),
        },
        coords={"model": models, "score": scores, "threshold": read["quantiles"]},
        attrs={"source": read["source"]},
    )
    return out.assign(baseline=out["accuracy"].sel(score="Random", threshold=0.0, drop=True))
