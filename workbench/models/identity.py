"""What a model is: its name, a fingerprint of its weights, and whether it can be read at all."""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import torch

from workbench.errors import InputError
from workbench.models.devices import present
from workbench.protocol import HookedModel

ENCODERS = ("BertLMHeadModel", "BertForMaskedLM", "RobertaForMaskedLM")
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers as wide as a value of so many bytes."""


def fingerprint(model: HookedModel | torch.nn.Module) -> str:
    """A short digest of all parameters: names, shapes, some of their values and the sum of all their bits.

    The sum is one of integers, so it is exact, the same on every device, and changes with any one value.
    """
    digest = hashlib.sha256()
    samples: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    sums: dict[torch.device, dict[str, torch.Tensor]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, values in _weights(model):
        shapes[name], flat = tuple(values.shape), values.reshape(-1)
        samples.setdefault((values.device, values.dtype), []).append(flat[:: max(1, flat.numel() // 16)][:16].clone())
        if flat.dtype.itemsize in _BITS and not flat.is_complex():
            bits = flat.view(_BITS[flat.dtype.itemsize])
            sums.setdefault(values.device, {})[name] = bits.sum(dtype=torch.int64)
    totals: dict[str, int] = {}
    for found in sums.values():  # A number at a time, a GPU would be waited for once for each parameter.
        totals |= dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
    for name, shape in shapes.items():
        digest.update(f"{name}{shape}{totals.get(name, '')}".encode())
    for sample in samples.values():
        digest.update(torch.cat(sample).double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _weights(model: HookedModel | torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All parameters by name, in order; those that accelerate offloads are there for their turn alone."""
    inner = getattr(model, "original_model", model)
    owners = {id(p): (part, name) for part in inner.modules() for name, p in part.named_parameters(recurse=False)}
    for name, parameter in sorted(model.named_parameters(), key=lambda named: named[0]):
        if not parameter.is_meta:
            yield name, parameter.detach()
            continue
        part, own = owners[id(parameter)]
        with present(part):
            yield name, getattr(part, own).detach()


def refuse_nan_weights(model: HookedModel | torch.nn.Module) -> None:
    """Raise where a parameter holds NaN or infinity, naming the parameters."""
    bad = [
        name
        for name, p in model.named_parameters()
        if p.is_floating_point() and not p.is_meta and not torch.isfinite(p).all()
    ]
    if bad:
        raise InputError(
            f"{len(bad)} of the model's parameters hold NaN or infinity, the first is '{bad[0]}'. The file "
            "is damaged, or training diverged, or a cast overflowed (float16); load another checkpoint or "
            "another dtype."
        )


def refuse_unusable(module: torch.nn.Module) -> None:
    """Raise where a module in memory is no Hugging Face model with weights of its own, or is wrapped already."""
    kind = type(module).__name__
    if kind.startswith("Peft") or hasattr(module, "peft_config"):
        raise InputError(
            f"A {kind} holds adapters beside its weights. Merge them: give what model.merge_and_unload() returns."
        )
    if getattr(module, "config", None) is None or not hasattr(module, "set_attn_implementation"):
        raise InputError(
            f"A {kind} is no Hugging Face model: it has no configuration. Give what AutoModelForCausalLM."
            "from_pretrained returns, a TransformerLens model, or a folder."
        )
    if any(cls.__name__ == "GeneralizedComponent" for part in module.modules() for cls in type(part).__mro__):
        raise InputError(
            f"This {kind} is wrapped in a TransformerBridge already, which changes it in place. Give that bridge, or "
            "load the model again."
        )
    empty = next((name for name, p in module.named_parameters() if p.is_meta), None)
    if empty is not None and not getattr(module, "hf_device_map", None):
        raise InputError(
            f"The parameter '{empty}' of this {kind} is on the meta device: it has a shape and no values. Load the "
            "weights with from_pretrained."
        )


def repository_name(path: str) -> str:
    """The name of a repository whose snapshot the Hub's cache keeps in a folder named by a hash; else the path."""
    found = re.search(r"models--([^/\\]+)[/\\]snapshots[/\\][0-9a-f]{40}[/\\]?$", path)
    return found[1].replace("--", "/") if found else path


def refuse_misread(hf: Any) -> None:
    """Refuse what TransformerLens wraps without an error and shows wrongly."""
    architecture, config = type(hf).__name__, hf.config
    clipped = getattr(getattr(config, "attn_config", None), "clip_qkv", None)
    if architecture in ENCODERS:
        raise InputError(
            f"A {architecture} is an encoder: its tokens see what follows them, and more than a norm and a matrix "
            "gives its logits. Only decoders that predict the next token are measured here, such as GPT-2 or Llama."
        )
    if clipped is not None:
        raise InputError(
            f"This {architecture} clips queries, keys and values at {clipped} (clip_qkv), and TransformerLens shows "
            "them in front of that, so what is measured of values would be wrong. Use a model that does not clip."
        )
    if getattr(config, "new_decoder_architecture", False):
        raise InputError(
            f"This {architecture} keeps queries, keys and values group by group (new_decoder_architecture, as does "
            "Falcon-40B), and TransformerLens takes them apart in another order: its logits would be those of another "
            "model. Use Falcon-7B, or another architecture."
        )
