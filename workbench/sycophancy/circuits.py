"""What path patching finds on sycophancy pairs, in a handful of numbers: one row of a comparison between models."""

import numpy as np
import xarray as xr

from workbench.models.state import measures
from workbench.patching.path import path_patch
from workbench.patching.statistics import kurtosis, top_mass
from workbench.prompts.pairs import PromptPairs
from workbench.protocol import HookedModel

METRIC = "logit_diff"


@measures
def circuit(model: HookedModel, pairs: PromptPairs, *, progress: bool = False) -> dict[str, float]:
    """Strongest head and group, their ratio, the concentration of effects and where they lie.

    Args:
        model: a model from `workbench.load`.
        pairs: challenged and confirmed dialogues.
        progress: show bars.

    Returns:
        Numbers by name; effects are contributions to the logit difference, negative towards giving in.
    """
    heads = path_patch(model, pairs, unit="head", metrics=(METRIC,), progress=progress)
    groups = path_patch(model, pairs, unit="kv_group", metrics=(METRIC,), progress=progress)
    return summary(heads, groups)


def summary(heads: xr.Dataset, groups: xr.Dataset) -> dict[str, float]:
    """The same from results that are there already."""
    by_head = heads["contribution"].sel(metric=METRIC).values
    by_group = groups["contribution"].sel(metric=METRIC).values
    size = int(heads.attrs["group_size"])
    layer, head = np.unravel_index(by_head.argmin(), by_head.shape)
    group_layer, group = np.unravel_index(by_group.argmin(), by_group.shape)
    concentration = kurtosis(heads, n_boot=2)
    return {
        "base logit difference": float(heads["base"].sel(metric=METRIC).mean()),
        "source logit difference": float(heads["source"].sel(metric=METRIC).mean()),
        "strongest head": float(by_head.min()),
        "strongest head: layer": int(layer),
        "strongest head: head": int(head),
        "its KV group": float(by_group[layer, head // size]),
        "strongest group": float(by_group.min()),
        "strongest group: layer": int(group_layer),
        "strongest group: group": int(group),
        "strongest group / strongest head": float(by_group.min() / by_head.min()),
        "sum of heads in strongest group": float(by_head[group_layer, group * size : (group + 1) * size].sum()),
        "kurtosis (Pearson)": float(concentration["pearson"].sel(metric=METRIC)),
        "top 4 % mass": float(top_mass(heads, ratio=0.04).sel(metric=METRIC)),
    }
