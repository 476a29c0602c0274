"""Path patching by hooks on plain Hugging Face modules: the slow twin for every architecture."""

from collections.abc import Callable
from typing import Any

import torch

OUTPUT = ("o_proj", "out_proj", "dense", "c_proj", "o", "Wo")
"""What Hugging Face calls the output projection of attention."""
WHOLE = ("linear_attn", "mamba", "conv", "mixer", "temporal_block")
"""What it calls the other modules that move information between tokens."""
Points = dict[str, Callable[[torch.Tensor], torch.Tensor]]


def run(hf: Any, tokens: list[int], functions: Points) -> torch.Tensor:
    """Logits with functions of what enters the named modules or, with a "!" in front, of what comes out of them."""

    def entering(function: Callable) -> Callable:
        return lambda _module, args: (function(args[0]), *args[1:])

    def leaving(function: Callable) -> Callable:
        def hook(_module: Any, _args: Any, out: Any) -> Any:
            return (function(out[0]), *out[1:]) if isinstance(out, tuple) else function(out)

        return hook

    handles = [
        hf.get_submodule(name[1:]).register_forward_hook(leaving(function))
        if name.startswith("!")
        else hf.get_submodule(name).register_forward_pre_hook(entering(function))
        for name, function in functions.items()
    ]
    try:
        with torch.no_grad():
            return hf(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].double()
    finally:
        for handle in handles:
            handle.remove()


def values(hf: Any, tokens: list[int], points: list[str]) -> dict[str, torch.Tensor]:
    """What passes the points in a run."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable:
        def see(value: torch.Tensor) -> torch.Tensor:
            seen[name] = value.clone()
            return value

        return see

    run(hf, tokens, {name: keep(name) for name in points})
    return seen


def path_patched(
    hf: Any,
    layers: list[list[str]],
    base: list[int],
    source: list[int],
    layer: int,
    heads: list[int] | None,
    n_heads: int,
) -> torch.Tensor:
    """Logits at the last position of base, all mixers frozen, one sender from source: some heads, or a whole layer."""
    points = [name for names in layers for name in names]
    frozen, other = values(hf, base, points), values(hf, source, points)
    for name in layers[layer]:
        if heads is None:
            frozen[name][0, -1] = other[name][0, -1]
        elif not name.startswith("!"):
            mine, theirs = (z[0, -1].view(n_heads, -1) for z in (frozen[name], other[name]))
            mine[heads] = theirs[heads]
    return run(hf, base, {name: lambda _value, kept=frozen[name]: kept for name in points})[-1]


def mixers(hf: Any, n_layers: int) -> list[list[str]]:
    """Each layer's mixers by their Hugging Face names: attention's output projections, and whole modules with a "!"."""
    found: list[list[str]] = [[] for _ in range(n_layers)]
    for name, module in hf.named_modules():
        pieces = name.split(".")
        number = next((i for i, piece in enumerate(pieces) if piece.isdigit()), None)
        if number is None:
            continue
        layer, inside = int(pieces[number]), pieces[number + 1 :]
        attends = any("attn" in piece or "attention" in piece for piece in inside[:-1]) and "linear_attn" not in inside
        if inside and inside[-1] in OUTPUT and attends and "temporal_block" not in inside:
            found[layer].append(name)
        if len(inside) == 1 and inside[0] in WHOLE and type(module).__name__ != "NemotronHMoE":
            found[layer].append("!" + name)
        if type(module).__name__ in ("DeepseekV4Attention", "JetMoeAttention"):
            found[layer].append("!" + name)
    return found
