"""HookedTransformers are scored like bridges of the same weights."""

from importlib.metadata import version

import numpy as np
import pytest
import torch

from tests.leaf.made import examples
from tests.tiny import tiny
from workbench.leaf.asking import ask
from workbench.leaf.scoring import sensitivity
from workbench.models.load import load

pytestmark = [
    pytest.mark.skipif(
        not version("transformer-lens").startswith("3.9"), reason="HookedTransformer needs TransformerLens 3.9"
    ),
    pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning"),
]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_score_is_that_of_the_bridge(family):
    bridges, hooked = (
        [load(tiny(family, torch.float32, seed), backend=backend) for seed in (0, 7)]
        for backend in ("bridge", "hooked")
    )
    some = [*examples(), *examples(((7, 6),), prefix=3)]
    wanted, found = (sensitivity(*pair, some, scores="all", steps=4, progress=False) for pair in (bridges, hooked))
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-4)
    for name in wanted["score"].values:
        one, other = (result["sensitivity"].sel(score=name).values for result in (found, wanted))
        np.testing.assert_allclose(one, other, atol=2e-3 * np.nanmax(np.abs(other)), err_msg=name)


def test_replies_are_those_of_the_bridge():
    bridge, hooked = (load(tiny("llama", torch.float32), backend=backend) for backend in ("bridge", "hooked"))
    one, other = (ask(model, examples(), progress=False)["tokens"] for model in (bridge, hooked))
    np.testing.assert_array_equal(one, other)
