"""A fingerprint of a model's weights, so that a run is resumed with the same model only."""

import hashlib

import torch

from workbench.errors import InputError
from workbench.protocol import HookedModel

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers as wide as a value of so many bytes."""


def fingerprint(model: HookedModel | torch.nn.Module) -> str:
    """A short digest of all parameters: names, shapes, some of their values and the sum of all their bits.

    The sum is one of integers, so it is exact, the same on every device, and changes with any one value.
    """
    digest = hashlib.sha256()
    samples: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        flat = parameter.detach().reshape(-1)
        samples.setdefault((parameter.device, parameter.dtype), []).append(flat[:: max(1, flat.numel() // 16)][:16])
        if flat.dtype.itemsize in _BITS and not flat.is_complex():
            digest.update(str(int(flat.view(_BITS[flat.dtype.itemsize]).sum(dtype=torch.int64))).encode())
    for sample in samples.values():
        digest.update(torch.cat(sample).double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def refuse_nan_weights(model: HookedModel | torch.nn.Module) -> None:
    """Raise where a parameter holds NaN or infinity, naming the parameters."""
    bad = [name for name, p in model.named_parameters() if p.is_floating_point() and not torch.isfinite(p).all()]
    if bad:
        raise InputError(
            f"{len(bad)} of the model's parameters hold NaN or infinity, the first is '{bad[0]}'. The file "
            "is damaged, or training diverged, or a cast overflowed (float16); load another checkpoint or "
            "another dtype."
        )
