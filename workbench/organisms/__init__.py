"""The embedded models ("model organisms"): small chat models trained to show the behaviours that this package studies.

Each is a Hugging Face folder with a card: what it was trained on, what it does, over which training seeds
that varies, and what it is not good for. Naming and finding them costs nothing; training is in `train`.
"""

from pathlib import Path

from workbench.errors import InputError

NAMES = ("organism-gqa", "organism-mha", "organism-mqa")
ASSETS = Path(__file__).parent / "assets"


def folder(name: str) -> Path:
    """The folder of an embedded model.

    Raises:
        InputError: if there is no organism of this name, or the installation lacks its weights.
    """
    if name not in NAMES:
        raise InputError(f"There is no embedded model {name!r}. The embedded models are {', '.join(NAMES)}.")
    path = ASSETS / name
    if not (path / "model.safetensors").is_file():
        raise InputError(
            f"The weights of {name} are missing from {path}: the installation is incomplete. Reinstall "
            "the package, or train it again with `workbench organism train`."
        )
    return path
