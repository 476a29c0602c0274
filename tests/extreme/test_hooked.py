"""A HookedTransformer is diagnosed like the Bridge of the same weights (TransformerLens 3.9 only)."""

import numpy as np
import pytest
import torch

from tests.tiny import bridge, sequences, tiny
from workbench.errors import InputError
from workbench.extreme import extreme_tokens
from workbench.models.load import load

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
MEASURES = ("sink_weight", "sink_logit", "head_value_norm", "value_norm", "residual_norm", "queries")


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_both_classes_give_the_same_measures(family):
    try:
        hooked = load(tiny(family, torch.float32), backend="hooked")
    except InputError as error:
        pytest.skip(str(error).splitlines()[0])
    texts = sequences((11, 7))
    theirs = extreme_tokens(hooked, texts, progress=False)
    ours = extreme_tokens(bridge(family, torch.float32), texts, progress=False)
    assert theirs.attrs["attention"] == "materialised" and ours.attrs["attention"] == "fused"
    for name in MEASURES:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-3, atol=1e-4, err_msg=name)
