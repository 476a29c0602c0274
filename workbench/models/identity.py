"""Which model this is, down to its weights: what a result must say to be resumed with the same model only."""

import hashlib
from typing import Any

import torch

from workbench.errors import InputError


def fingerprint(model: Any) -> str:
    """A short digest of all parameters' names, shapes and a sample of their values.

    Args:
        model: any torch module.
    """
    digest = hashlib.sha256()
    samples: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        flat = parameter.detach().reshape(-1)
        samples.setdefault((parameter.device, parameter.dtype), []).append(flat[:: max(1, flat.numel() // 16)][:16])
    for sample in samples.values():
        digest.update(torch.cat(sample).double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def refuse_nan_weights(model: Any) -> None:
    """Raise where a parameter holds NaN or infinity, naming the parameters."""
    bad = [name for name, p in model.named_parameters() if p.is_floating_point() and not torch.isfinite(p).all()]
    if bad:
        raise InputError(
            f"{len(bad)} of the model's parameters hold NaN or infinity, the first is '{bad[0]}'. The file "
            "is damaged, or training diverged, or a cast overflowed (float16); load another checkpoint or "
            "another dtype."
        )
