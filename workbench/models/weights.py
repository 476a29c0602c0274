"""What can be done with a model's weights: whether they can change, and whether gradients pass them.

Quantised weights are integers, packed several to a byte. They are measured as they are: what counts is what the layers
compute.
"""

import warnings
from typing import Any

import torch

from workbench.errors import InputError, WorkbenchWarning
from workbench.models.devices import device_of, devices_of


def quantisation(model: Any) -> str:
    """By what method a model's weights are quantised, such as "bitsandbytes"; empty where they are not."""
    hf = getattr(model, "original_model", model)
    if not getattr(hf, "is_quantized", False):
        return ""
    method = _setting(hf, "quant_method")
    return str(getattr(method, "value", method) or "unknown method")


def require_changeable(model: Any, doing: str) -> None:
    """Refuse a model whose weights are not all numbers in the memory of one device.

    Args:
        model: a TransformerLens model.
        doing: what would change or copy them, such as "tuning".

    Raises:
        InputError: they are quantised, offloaded or spread over several devices.
    """
    method, devices = quantisation(model), devices_of(model)
    if method:
        raise InputError(
            f"The weights of this model are quantised ({method}), packed into integers, and {doing} needs numbers that "
            "can change by small steps. Load it without quantization_config=, or a checkpoint that is not quantised."
        )
    away = any(parameter.is_meta for parameter in model.parameters())
    if away or len(devices) > 1:
        where = "offloaded" if away else f"spread over {', '.join(map(str, devices))}"
        raise InputError(
            f"The weights of this model are {where}, and {doing} needs all of them on one device. Load it with device= "
            "instead of device_map=."
        )


@torch.no_grad()
def require_gradients(model: Any) -> None:
    """Refuse a model with quantised layers that no gradient passes.

    Raises:
        InputError: kernels for inference alone would leave paths out of every gradient, without a word.
    """
    if not quantisation(model):
        return
    for name, layer in model.original_model.named_modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(layer, torch.nn.Linear) or weight is None or weight.is_floating_point():
            continue
        dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        given = torch.ones(1, layer.in_features, device=device_of(layer), dtype=dtype)
        layer(given)  # Some layers change their kernel when they first compute without gradients.
        if not _passes(layer, given.requires_grad_()):
            known = name.replace("._original_component", "")
            raise InputError(
                f"No gradient passes the quantised layer '{known}': its kernel is for inference alone. Use "
                "activation_patch, which needs no gradients, or load the model without quantization_config=."
            )


@torch.enable_grad()
def _passes(layer: torch.nn.Module, given: torch.Tensor) -> bool:
    """Whether the sum of a layer's outputs has a gradient; one of a random matrix is not zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            (slope,) = torch.autograd.grad(layer(given).sum(), [given], allow_unused=True)
        except RuntimeError:
            return False
    return slope is not None and bool(slope.any())


def warn_of_batches(hf: Any) -> None:
    """Warn of 8-bit layers whose results depend on what else is in the batch."""
    if _setting(hf, "load_in_8bit") and _setting(hf, "llm_int8_threshold"):
        warnings.warn(
            "LLM.int8() treats coordinates with outliers apart, and looks for them in the whole batch: what a token "
            "gives depends, by about 1 %, on which others are run with it. BitsAndBytesConfig(load_in_8bit=True, "
            "llm_int8_threshold=0.0) or 4-bit weights give the same numbers in every batch.",
            WorkbenchWarning,
            stacklevel=3,
        )


def _setting(hf: Any, name: str) -> Any:
    """A setting of the quantisation, which a checkpoint keeps as a dict."""
    config = getattr(hf.config, "quantization_config", None)
    return config.get(name) if isinstance(config, dict) else getattr(config, name, None)
