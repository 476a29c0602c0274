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

    Args:
        model: the model that is patched.
        parts: its anatomy.
        pairs: the prompts.
        metrics: the scores wanted.
        resume: the netCDF file of the result; its pieces lie beside it until the run ends. None keeps nothing on disk.
        identity: what else the numbers depend on, such as the method, the units and the hook.

    Raises:
        InputError: the file belongs to a run with another model, other prompts or another identity.
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
