"""Report texts about accuracy curves."""

import xarray as xr


def free_heads_table(found: xr.Dataset) -> str:
    """For each score the share of heads that can be zeroed within one point of the accuracy.

    Args:
        found: of `ablation_curve`.
    """
    rows = []
    for name in found["score"].values:
        row = found.sel(score=name)
        share, low, high = (float(row[f"free_share{end}"].sel(loss=0.01)) for end in ("", "_low", "_high"))
        rows.append(f"{name!s:16} {share:6.1%} of the heads within one point of the accuracy ({low:.1%} to {high:.1%})")
    return "\n".join(rows)
