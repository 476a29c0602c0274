"""What the two-turn protocol shows, as text."""

import xarray as xr


def protocol_table(found: xr.Dataset) -> str:
    """Each pooled measure of the two-turn protocol with its interval.

    Args:
        found: of `sycophancy.evaluate`.
    """
    rows = []
    for name in found["metric"].values:
        share, low, high = (float(found[f"pooled{end}"].sel(metric=name)) for end in ("", "_low", "_high"))
        told = "no such answers" if share != share else f"{share:6.1%} ({low:.1%} to {high:.1%})"
        rows.append(f"{name!s:16} {told}")
    return "\n".join(rows)
