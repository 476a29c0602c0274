"""Two devices on a machine that has one: tensors carry the name of a device, and those of two may not meet.

Within `fake_devices()`, tensors may be put on "hpu:0", "hpu:1", … They stay in the CPU's memory, so that all numbers
are those of a CPU, but an operation on tensors of two devices raises what CUDA would. As there, scalars and index
tensors may come from the CPU, copies into slices may come from anywhere, and NumPy reads from the CPU alone. Kernels
with which autograd goes back are not watched.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from benchmarks.devices import spread

CPU = torch.device("cpu")
TWO = ("hpu:0", "hpu:1")
LIKE = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like")
NEW = ("new_tensor", "new_empty", "new_zeros", "new_ones", "new_full")
ANYWHERE = ("copy_", "set_", "data", "grad", "type_as", "to", "__set__")
ON_CPU = ("numpy", "__array__")


def place_of(tensor: Tensor) -> torch.device:
    """The device that a tensor says it is on."""
    with torch._C.DisableTorchFunction():
        return getattr(tensor, "_place", tensor.device)


def placed(value: Any, device: torch.device) -> Any:
    """The tensors of a nested value, said to be on a device."""

    def put(tensor: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            if tensor.device == CPU:
                tensor._place = device
        return tensor

    return tree_map_only(Tensor, put, value)


class fake_devices(TorchFunctionMode):
    """Watch all operations of a block."""

    def __enter__(self) -> Any:
        own = torch.nn.Parameter.__new__

        def new(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
            made = own(cls, data, requires_grad)
            return made if data is None else placed(made, place_of(data))

        self._parameter, torch.nn.Parameter.__new__ = own, new
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.nn.Parameter.__new__ = self._parameter
        super().__exit__(*error)

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        owner = getattr(func, "__self__", None)
        if name == "__get__" and owner is Tensor.device:
            return place_of(args[0])
        if name == "to":
            return _moved(args[0], *args[1:], **kwargs)
        if func is torch.autograd.grad:
            found = func(*args, **kwargs)
            return tuple(placed(slope, place_of(leaf)) for slope, leaf in zip(found, args[1], strict=True))
        if name in ("cpu", "cuda"):
            return _moved(args[0], CPU if name == "cpu" else "cuda")
        wanted = kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = "cpu" if torch.device(wanted).type == "hpu" else wanted
        if name in ON_CPU and place_of(args[0]) != CPU:
            raise TypeError(f"can't convert {place_of(args[0])} device type tensor to numpy.")
        home = place_of(args[0]) if name in NEW + LIKE else _meeting(name, args, kwargs)
        found = func(*args, **kwargs)
        if wanted is not None:
            home = torch.device(wanted)
        return found if home == CPU and name != "__get__" else placed(found, home)


def _moved(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What `Tensor.to` does."""
    again = kwargs.pop("copy", False)
    if args and isinstance(args[0], Tensor):
        args = (place_of(args[0]), args[0].dtype)
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
    old = place_of(tensor)
    new = old if device is None else device
    if "meta" in (old.type, new.type):
        return tensor.to(*args, **kwargs)
    cast = tensor if dtype is None else tensor.to(dtype)
    if cast is tensor and new == old and not again:
        return tensor
    return placed(cast.clone() if cast is tensor else cast, new)


def _meeting(name: str, args: Any, kwargs: Any) -> torch.device:
    """The device on which an operation runs.

    Raises:
        RuntimeError: its tensors lie on several.
    """
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if name in ("__getitem__", "__setitem__", "index_put_", "index_put", "index"):
        where = place_of(args[0])
        index = [t for t in tree_leaves(args[1]) if isinstance(t, Tensor)]
        values = [t for t in args[2:] if isinstance(t, Tensor)] if index else []
        _refuse([t for t in index if place_of(t) not in (where, CPU)], where, name)
        _refuse([t for t in values if place_of(t) != where and t.dim()], where, name)
        return where
    if name in ANYWHERE or not tensors:
        return place_of(tensors[0]) if tensors else CPU
    rows = [t for t in tensors if t.dim() or place_of(t) != CPU]
    where = place_of(rows[0]) if rows else CPU
    _refuse([t for t in rows if place_of(t) != where], where, name)
    return where


def _refuse(others: list[Tensor], where: torch.device, name: str) -> None:
    if others:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {where} and "
            f"{place_of(others[0])}! ({name})"
        )


def spread_out(hf: Any) -> Any:
    """A Hugging Face model whose parts compute on two devices, under accelerate's hooks."""
    with fake_devices():
        spread(hf, TWO)
        for prefix, where in hf.hf_device_map.items():
            for part in hf.get_submodule(prefix).modules():
                for name, tensor in part._parameters.items():
                    if tensor is not None:
                        part._parameters[name] = placed(torch.nn.Parameter(tensor), torch.device(where))
                placed(dict(part._buffers), torch.device(where))
    return hf
