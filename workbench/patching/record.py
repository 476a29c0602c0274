"""What every patching result says about the model and the prompts it was measured on."""

from collections.abc import Mapping
from typing import Any

from workbench.models.anatomy import Anatomy
from workbench.prompts import PromptPairs


def describe(parts: Anatomy, pairs: PromptPairs, config: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about model and prompts that every patching result carries."""
    return {
        "method": config["method"],
        "model": parts.name,
        "architecture": parts.architecture,
        "weights": config["weights"],
        "prompts": pairs.digest,
        "n_examples": len(pairs),
        "n_layers": parts.n_layers,
        "n_heads": parts.n_heads,
        "n_kv_heads": parts.n_kv_heads,
        "group_size": parts.group_size,
        "dtype": parts.dtype,
        "device": parts.device,
    }
