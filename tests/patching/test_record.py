"""What a result says about its model and prompts."""

from tests.tiny import bridge
from workbench.models.anatomy import anatomy
from workbench.patching.record import describe
from workbench.prompts import PromptPairs
from workbench.results import provenance


def test_model_and_prompts_are_described():
    pairs = PromptPairs([[1], [2]], [[3], [4]], (5, 9))
    facts = describe(anatomy(bridge("qwen2")), pairs, {"method": "path_patch", "weights": "abc"})
    wanted = {"method": "path_patch", "model": "Qwen2ForCausalLM", "architecture": "Qwen2ForCausalLM"}
    wanted |= {"n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "group_size": 2, "n_examples": 2}
    wanted |= {"dtype": "float64", "device": "cpu", "prompts": pairs.digest, "weights": "abc"}
    assert facts == wanted
    assert wanted.items() <= provenance(**facts).items()
