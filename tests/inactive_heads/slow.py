"""The definitions of the fifteen scores as loops over heads, tokens and queries; nothing is shared with the room."""

import math

import torch

from workbench.models.anatomy import anatomy
from workbench.models.forward import hooked, run

ABOVE = ("AWFT", "AWFT_LN")


@torch.no_grad()
def observed(model, ids, hooks=None):
    """Pattern, values and z of every layer of one sequence, run alone; `hooks` are further interventions."""
    shape = anatomy(model)
    kept = {}
    names = [f"blocks.{i}.attn.{w}" for i in range(shape.n_layers) for w in ("hook_pattern", "hook_v", "hook_z")]
    with hooked(model, {n: lambda t, n=n: kept.__setitem__(n, t[0].clone()) for n in names}):
        run(model, torch.tensor([ids]))
    return [
        tuple(kept[f"blocks.{i}.attn.{w}"] for w in ("hook_pattern", "hook_v", "hook_z")) for i in range(shape.n_layers)
    ]


def layer_scores(pattern, v, z, w_o):
    """All fifteen scores of one layer and one sequence: pattern [head query key], v [pos kv d], z [pos head d]."""
    n, heads = z.shape[:2]
    group = heads // v.shape[1]
    out = {}
    out["AWFT"] = [sum(float(pattern[h, q, 0]) for q in range(n)) / n for h in range(heads)]
    out["AEQD"] = [
        sum(-sum(p * math.log(p) for p in pattern[h, q].tolist() if p > 0) for q in range(n)) / n for h in range(heads)
    ]
    length = lambda x: math.sqrt(sum(float(y) ** 2 for y in x))  # noqa: E731
    out["FTVVN"] = [length(v[0, h // group]) for h in range(heads)]
    out["AVVN"] = [sum(length(v[t, h // group]) for t in range(n)) / n for h in range(heads)]
    out["AHON"] = [sum(length(z[t, h]) for t in range(n)) / n for h in range(heads)]
    out["LTHON"] = [length(z[n - 1, h]) for h in range(heads)]
    out["FHON"] = [sum(length(z[t, h] @ w_o[h]) for t in range(n)) / n for h in range(heads)]
    for name in list(out):
        base = "AHON" if name == "LTHON" else name
        mean = sum(out[base]) / heads
        out[f"{name}_LN"] = [x / mean for x in out[name]]
    out["LTHON_HN"] = [x / y for x, y in zip(out["LTHON"], out["AHON"], strict=True)]
    return out


def head_scores(model, ids):
    """All fifteen scores of one sequence, each [layer][head]."""
    parts = anatomy(model)
    layers = [layer_scores(*seen, block.w_o()) for seen, block in zip(observed(model, ids), parts.blocks, strict=True)]
    return {name: [layer[name] for layer in layers] for name in layers[0]}
