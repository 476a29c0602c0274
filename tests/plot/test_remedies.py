import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.plot.remedies import remedy_effects, remedy_table

REMEDIES, DOMAINS, SCHEMES = ["none", "sink removed", "SGD"], ["prose", "code"], ["W8A8 per token", "W4A4 per token"]


def result(schemes=True):
    """Three remedies; the last was measured elsewhere and has no loss."""
    values = np.array([[0.0, 0.0], [0.25, 0.5], [np.nan, np.nan]])
    by_domain = {"loss_change": values, "loss_change_low": values - 0.05, "loss_change_high": values + 0.1}
    by_domain |= {"sink_rate": np.full((3, 2), 0.4), "peak_ratio": values * 40 + 1, "drain_ratio": values + 0.2}
    variables = {name: (("remedy", "domain"), value) for name, value in by_domain.items()}
    if schemes:
        added = np.arange(12).reshape(3, 2, 2) / 10
        variables["quantized_loss_change"] = (("remedy", "domain", "scheme"), added)
    coords = {"remedy": REMEDIES, "domain": DOMAINS, "scheme": SCHEMES}
    return xr.Dataset(variables, coords if schemes else {k: coords[k] for k in ("remedy", "domain")})


def columns(figure):
    trace = figure.data[0]
    return dict(
        zip(
            [h.removeprefix("<b>").removesuffix("</b>") for h in trace.header["values"]],
            trace.cells["values"],
            strict=True,
        )
    )


def test_the_table_has_a_row_per_remedy_and_a_dash_where_nothing_was_measured():
    found = columns(remedy_table(result(), title="Remedies"))
    assert list(found["Remedy"]) == REMEDIES
    assert list(found["Loss, code"]) == ["+0.000 [-0.05, +0.10]", "+0.500 [+0.45, +0.60]", "–"]
    assert list(found["Peak ratio"]) == ["1.00", "16.00", "–"]
    assert list(found["W4A4 per token adds"]) == ["+0.200", "+0.600", "+1.000"]


def test_schemes_can_be_chosen_or_absent():
    assert "W8A8 per token adds" not in columns(remedy_table(result(), schemes=["W4A4 per token"]))
    assert not any("adds" in name for name in columns(remedy_table(result(schemes=False))))
    with pytest.raises(InputError, match="No rounding 'W2A2' in this result"):
        remedy_table(result(), schemes=["W2A2"])


def test_the_panels_show_the_numbers_of_the_result():
    figure = remedy_effects(result())
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["Change of loss (nats)", "Sink rate", "Peak ratio", "Loss added by<br>rounding (nats)"]
    loss = next(t for t in figure.data if t.name == "code" and t.xaxis == "x")
    np.testing.assert_array_equal(loss.x, result()["loss_change"].sel(domain="code"))
    np.testing.assert_allclose(loss.error_x.array[:2], 0.1)
    np.testing.assert_allclose(loss.error_x.arrayminus[:2], 0.05)
    assert [t.name for t in figure.data if t.xaxis == "x4"] == ["W8A8 per token"], "4-bit activations dwarf the others"
    assert list(loss.y) == REMEDIES
    assert [t.name for t in figure.data if t.showlegend] == ["prose", "code", "W8A8 per token"]


def test_without_rounding_there_are_three_panels():
    assert len(remedy_effects(result(schemes=False)).layout.annotations) == 3
