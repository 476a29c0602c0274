"""Contributions of a patching result in display units.

Every plot and every sentence about contributions reads them here, so that a picture and the words under it
cannot disagree: one place turns fractions into per cent, finds the interval and names the units.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.names import Metric

UNIT_DIMS = ("head", "kv_group")
METRIC_NAMES = {"logit_ratio": "logit ratio", "logit_diff": "logit difference", "prob": "probability ratio"}
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Effects:
    """Contributions of one metric in display units: per cent, or logits for the logit difference.

    `values` and `stderr` are layer by unit; `unit` is "head" or "kv_group".
    """

    model: str
    metric: str
    unit: str
    values: np.ndarray
    stderr: np.ndarray
    layers: np.ndarray
    n_heads: int
    group_size: int

    @property
    def scale(self) -> float:
        """What the stored fractions were multiplied with."""
        return 1.0 if self.metric == "logit_diff" else 100.0

    @property
    def suffix(self) -> str:
        """What follows a number: "%" or " logits"."""
        return " logits" if self.metric == "logit_diff" else "%"

    @property
    def axis_title(self) -> str:
        """Title of an axis that carries these numbers."""
        return f"Contribution ({self.suffix.strip()})"

    @property
    def low(self) -> np.ndarray:
        """Lower end of the 95% interval, contribution − 1.96 standard errors."""
        return self.values - Z95 * self.stderr

    @property
    def high(self) -> np.ndarray:
        """Upper end of the 95% interval, contribution + 1.96 standard errors."""
        return self.values + Z95 * self.stderr

    def group_of(self, unit: int) -> int:
        """KV group of a column."""
        return unit if self.unit == "kv_group" else unit // self.group_size

    def heads_of(self, unit: int) -> tuple[int, int]:
        """First and last query head of a column."""
        if self.unit == "head":
            return unit, unit
        return unit * self.group_size, (unit + 1) * self.group_size - 1

    def name(self, layer: int, unit: int) -> str:
        """Plain name of a unit, such as "KV group 1 of layer 4 (query heads 4 to 7)"."""
        if self.unit == "head":
            return f"query head {unit} of layer {layer}"
        first, last = self.heads_of(unit)
        heads = f"query head {first}" if first == last else f"query heads {first} to {last}"
        return f"KV group {unit} of layer {layer} ({heads})"

    def show(self, value: float) -> str:
        """A number in display units with a true minus sign, such as "−12.3 %"."""
        return number(value, self.suffix)


def number(value: float, suffix: str = "") -> str:
    """Three significant figures with a true minus sign; at least one decimal below 100."""
    if not np.isfinite(value):
        return "not defined"
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 3
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "\u2212") + suffix


def unit_dim(result: xr.Dataset) -> str:
    """The dimension that holds the patched units of a result.

    Raises:
        InputError: the result has neither heads nor KV groups.
    """
    if "contribution" not in result:
        raise InputError(
            f"this Dataset has no variable 'contribution' (it has {', '.join(map(str, result.data_vars)) or 'none'}). "
            "The figure draws patching results: pass what path_patch, activation_patch or attribution_patch gave."
        )
    dims = result["contribution"].dims
    for dim in UNIT_DIMS:
        if dim in dims:
            return dim
    raise InputError(
        f"contribution has the dims {', '.join(map(str, dims))}, but this figure places units by layer and head. "
        "Patch with unit='head' or unit='kv_group'."
    )


def effects(result: xr.Dataset, metric: Metric = "logit_ratio") -> Effects:
    """Contributions of one metric, in display units.

    Args:
        result: What a patching function gave for unit="head" or unit="kv_group".
        metric: One of the metrics in the result.

    Raises:
        InputError: the metric is not in the result, or the result has other units.
    """
    dim = unit_dim(result)
    known = [str(m) for m in np.atleast_1d(result["metric"].values)]
    if metric not in known:
        raise InputError(f"metric {metric!r} is not in this result. It has: {', '.join(known)}.")
    scale = 1.0 if metric == "logit_diff" else 100.0
    order = ("layer", dim)
    chosen = result.sel(metric=metric)
    extra = [d for d in chosen["contribution"].dims if d not in order]
    if extra:
        raise InputError(
            f"contribution also varies over {', '.join(map(str, extra))}. Choose one value with .sel(...) first."
        )
    n_units = result.sizes[dim]
    group_size = int(result.attrs.get("group_size", 1))
    n_heads = int(result.attrs.get("n_heads", n_units * (group_size if dim == "kv_group" else 1)))
    stderr = chosen["stderr"] if "stderr" in chosen else xr.full_like(chosen["contribution"], np.nan)
    return Effects(
        model=str(result.attrs.get("model", "model")),
        metric=metric,
        unit=dim,
        values=chosen["contribution"].transpose(*order).values.astype(float) * scale,
        stderr=stderr.transpose(*order).values.astype(float) * scale,
        layers=np.asarray(result["layer"].values).astype(int),
        n_heads=n_heads,
        group_size=group_size,
    )
