"""What a result says about its model and prompts, and what of a run is kept."""

import numpy as np
import pytest
import xarray as xr

from tests.tiny import bridge
from workbench.errors import InputError
from workbench.models.anatomy import anatomy
from workbench.models.identity import fingerprint
from workbench.patching.record import Record
from workbench.patching.scores import contribution
from workbench.prompts.pairs import PromptPairs

PAIRS = PromptPairs([[1], [2]], [[3], [4]], (5, 9))


def record(resume=None, **identity):
    model = bridge("qwen2")
    return Record(model, anatomy(model), PAIRS, ("logit_diff",), resume, method="path_patch", **identity)


def test_model_and_prompts_are_described():
    logits = np.array([[1.0, 2.0], [0.5, 0.0]])
    scored = contribution(
        logits, logits, logits[:, None] - 1, dims=["layer"], coords={"layer": [0]}, metrics=["logit_diff"]
    )
    result = record().finish(scored, hook="z")
    wanted = {"method": "path_patch", "model": "Qwen2ForCausalLM", "architecture": "Qwen2ForCausalLM", "hook": "z"}
    wanted |= {"n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "group_size": 2, "n_examples": 2}
    wanted |= {"dtype": "float64", "device": "cpu", "prompts": PAIRS.digest, "weights": fingerprint(bridge("qwen2"))}
    assert wanted.items() <= result.attrs.items()
    assert list(result["metric"].values) == ["logit_diff"]


def test_pieces_survive_and_another_identity_is_refused(tmp_path):
    file = str(tmp_path / "run.nc")
    with record(file, unit="head") as first:
        first.add("example-0", xr.Dataset({"x": ("example", [1.0])}))
    with record(file, unit="head") as first:
        assert list(first.pieces) == ["example-0"]
        first.finish(xr.Dataset({"x": ("example", [1.0, 2.0])}))
    with pytest.raises(InputError, match="unit"):
        record(file, unit="layer")
    again = record(file, unit="head")
    assert again.finished is not None
    assert again.pieces == {}
