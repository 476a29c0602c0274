import numpy as np
import pytest
import xarray as xr

from workbench.errors import InputError
from workbench.plot.dynamics import short_step, strongest_layer, training_panels

STEPS = [0, 10, 100, 1000, 10000]
TOKENS = ["first", "delimiter", "other"]


def followed(steps=STEPS, tokens=TOKENS, heads=4):
    """Numbers that tell layer, step and token apart; layer 1 attends most to the first token at the end."""
    rng = np.random.default_rng(0)
    shape = (len(steps), 3, heads, len(tokens))
    weight = rng.uniform(0, 0.1, shape)
    weight[:, 1, :, 0] += np.linspace(0, 0.8, len(steps))[:, None]
    dims = ("step", "layer", "head", "token")
    return xr.Dataset(
        {
            "sink_weight": (dims, weight),
            "value_norm": (dims, rng.uniform(1, 3, shape)),
            "sink_logit": (dims, rng.normal(size=shape)),
            "residual_norm": (("step", "layer", "token"), rng.uniform(1, 100, (len(steps), 3, len(tokens)))),
        },
        coords={"step": steps, "layer": np.arange(3), "token": tokens},
    )


def lines(figure, panel):
    axis = "x" if panel == 0 else f"x{panel + 1}"
    return {t.name: t for t in figure.data if t.mode == "lines+markers" and t.xaxis == axis}


def test_lines_are_means_over_the_heads_of_the_strongest_layer():
    result = followed()
    assert strongest_layer(result) == 1
    figure = training_panels(result)
    here = result.sel(layer=1)
    for panel, name in enumerate(("sink_weight", "value_norm", "sink_logit")):
        np.testing.assert_allclose(lines(figure, panel)["first token"].y, here[name].sel(token="first").mean("head"))
    residual = lines(figure, 3)
    np.testing.assert_allclose(residual["other tokens"].y, here["residual_norm"].sel(token="other"))
    assert "other tokens" not in lines(figure, 2)


def test_the_dotted_line_is_the_attention_on_the_followed_tokens_together():
    result = followed()
    together = lines(training_panels(result, layer=0), 0)["together"]
    weight = result["sink_weight"].sel(layer=0).mean("head")
    np.testing.assert_allclose(together.y, weight.sel(token="first") + weight.sel(token="delimiter"))
    assert together.line.dash == "dot"
    assert "together" not in lines(training_panels(followed(tokens=["first", "other"])), 0)


def test_bands_are_one_standard_error():
    result = followed()
    band = next(t for t in training_panels(result, layer=2).data if t.name == "first ± 1 s.e." and t.xaxis == "x2")
    values = result["value_norm"].sel(layer=2, token="first").values
    error = values.std(1, ddof=1) / 2
    np.testing.assert_allclose(band.y[:5], values.mean(1) + error)
    np.testing.assert_allclose(band.y[5:], (values.mean(1) - error)[::-1])


def test_the_axis_is_linear_and_then_logarithmic_and_shows_the_steps():
    figure = training_panels(followed(), linear_until=100)
    x = lines(figure, 0)["first token"].x
    np.testing.assert_allclose(x, [0, 0.1, 1, 1 + np.log(10), 1 + np.log(100)])
    assert list(lines(figure, 0)["first token"].customdata) == STEPS
    assert figure.layout.xaxis.ticktext[-1] == "10k" and figure.layout.xaxis.ticktext[0] == "0"
    assert (short_step(147500), short_step(500), short_step(0)) == ("147.5k", "500", "0")


def test_a_single_checkpoint_and_a_single_head_are_drawn():
    figure = training_panels(followed(steps=[0], heads=1))
    assert len(lines(figure, 0)["first token"].y) == 1


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="This result has no sink_logit; pass what training_dynamics returns"):
        training_panels(followed().drop_vars("sink_logit"))
    with pytest.raises(InputError, match=r"Layer 3 is not in the result; .*Known: 0, 1, 2\."):
        training_panels(followed(), layer=3)
    with pytest.raises(InputError, match="linear_until=0"):
        training_panels(followed(), linear_until=0)
