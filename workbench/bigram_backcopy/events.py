"""When each thing happens in a training record: normalised curves, events and growth.

The paper divides each of five curves by its largest value and finds one order: the bigram is learned first, then
copying and the sink together, and the value of `<s>` drains after its peak. `dynamics` reads this from the layer that
copies (the one whose triggers look most at the token before them).
"""

import numpy as np
import xarray as xr

from workbench.errors import InputError

CURVES = ("backcopy", "bigram_excess", "sink", "value_bos", "sink_logit")
EVENTS = {
    "bigram learned": ("bigram_excess", "<", 0.1),
    "copying learned": ("backcopy", "<", 0.1),
    "sink formed": ("sink", ">", 0.5),
}


def copying_layer(record: xr.Dataset) -> xr.DataArray:
    """The layer that copies at the last step, per seed, in a record of `train` or what `interventions` returned."""
    last = record["previous"].isel(step=-1, drop=True) if "step" in record.dims else record["previous"]
    last = last.sel(intervention="none", drop=True) if "intervention" in last.dims else last
    return last.max("head").fillna(-1).argmax("layer")


def dynamics(record: xr.Dataset) -> xr.Dataset:
    """Five curves of the copying layer in a record of `train`, as shares of their largest values, and events.

    Returns:
        Dataset with `value(curve, step, seed)` (the head with the strongest sink), `normalised(curve, step, seed)`,
        `event(event, seed)` (the first step, NaN if it did not happen), `layer(seed)`, and `residual_slope(seed)`:
        growth of the norm at `<s>` per step over the second half of the steps, after layer 0.

    Raises:
        InputError: no training record, or one with a single step.
    """
    missing = [name for name in (*CURVES, "previous", "residual_bos") if name not in record]
    if missing or record.sizes.get("step", 0) < 2:
        raise InputError(
            f"This is no training record with several steps (missing: {', '.join(missing) or 'steps'}). Pass "
            "`train(...).record`."
        )
    layer = copying_layer(record)
    head = record["sink"].isel(step=-1, drop=True).isel(layer=layer).argmax("head")
    picked = [record[name] for name in CURVES]
    picked = [a.isel(layer=layer, head=head) if "layer" in a.dims else a for a in picked]
    value = xr.concat([a.drop_vars(("layer", "head"), errors="ignore") for a in picked], "curve", join="override")
    value = value.assign_coords(curve=list(CURVES)).rename("value").transpose("curve", "step", "seed")
    found = value.to_dataset()
    found["normalised"] = value / value.max("step")
    steps = record["step"].values
    events = {name: _first(value.sel(curve=curve), sign, bound) for name, (curve, sign, bound) in EVENTS.items()}
    drain = value.sel(curve="value_bos")
    events["value norm at its peak"] = drain.idxmax("step").astype(float)
    after = drain.where(drain["step"] >= drain.idxmax("step"))
    events["value norm half drained"] = _first(after / drain.max("step"), "<", 0.5)
    found["event_step"] = xr.concat(
        [e.drop_vars("curve", errors="ignore") for e in events.values()], "event", join="override"
    ).assign_coords(event=list(events))
    late = record["residual_bos"].isel(layer=0).sel(step=steps[steps >= steps[-1] / 2])
    if late.sizes["step"] > 1:
        found["residual_slope"] = late.polyfit("step", 1)["polyfit_coefficients"].sel(degree=1, drop=True)
    found["copying_layer"] = layer
    return found.drop_vars("layer", errors="ignore").assign_attrs(record.attrs)


def _first(curve: xr.DataArray, sign: str, bound: float) -> xr.DataArray:
    """The first step at which a curve lies beyond a bound; NaN if there is none."""
    beyond = curve < bound if sign == "<" else curve > bound
    step = beyond.idxmax("step").astype(float)
    return step.where(beyond.any("step"), np.nan)
