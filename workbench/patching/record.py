"""A patching run: its configuration, and the result's attributes about model and prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.models.anatomy import Anatomy
from workbench.models.identity import fingerprint
from workbench.names import Metric
from workbench.prompts.pairs import PromptPairs
from workbench.protocol import HookedModel
from workbench.runs.run import Run


class Record(Run):
    """A run over prompts.

    It depends on the model, the prompts and the metrics, and on `identity`: the method, the units, the hook and so on.
    """

    def __init__(
        self,
        model: HookedModel,
        parts: Anatomy,
        pairs: PromptPairs,
        metrics: Sequence[Metric],
        resume: str | Path | None,
        **identity: Any,
    ):
        self.about = {**parts.facts, "n_examples": len(pairs), **pairs.facts}
        own = {"model": parts.name, "weights": fingerprint(model), "prompts": pairs.digest, "metrics": list(metrics)}
        super().__init__(resume, **own, **identity)

    def facts(self, **more: Any) -> dict[str, Any]:
        """Attributes of the result, with the model's shape and the number of prompts."""
        return super().facts(**self.about, **more)
