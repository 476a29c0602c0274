"""Patching results with known contents, made without a model.

`patched(...)` builds a Dataset through the product's own scoring, from base logits and the change that each
unit makes to the logit difference.
"""

import numpy as np
import xarray as xr

from workbench.patching.scores import METRICS, contribution


def shifts(n_layers=4, n_heads=8, planted=None, noise=0.02, seed=0):
    """Change of the logit difference per head; `planted` maps (layer, head) to a value."""
    rng = np.random.default_rng(seed)
    change = rng.normal(0, noise, (n_layers, n_heads))
    for (layer, head), value in (planted or {}).items():
        change[layer, head] = value
    return change


def patched(change, *, unit="head", n_kv_heads=2, n_heads=8, n_examples=12, model="toy-gqa", seed=0, **attrs):
    """A result whose unit effects on the logit difference are `change` (layer by unit), with noise."""
    rng = np.random.default_rng(seed)
    l_a = 6 + rng.normal(0, 0.3, n_examples)
    l_b = 3 + rng.normal(0, 0.3, n_examples)
    wobble = rng.normal(1, 0.1, (*change.shape, n_examples))
    down = change[..., None] * wobble
    after = np.stack([l_a + down / 2, l_b - down / 2])
    result = contribution(
        np.stack([l_a, l_b]),
        np.stack([l_b, l_a]),
        after,
        dims=("layer", unit),
        coords={"layer": np.arange(change.shape[0]), unit: np.arange(change.shape[1])},
        metrics=METRICS,
    )
    return result.assign_attrs(
        {
            "model": model,
            "n_layers": change.shape[0],
            "n_heads": n_heads,
            "n_kv_heads": n_kv_heads,
            "group_size": n_heads // n_kv_heads,
            "unit": unit,
            "hook": "z",
            "method": "path",
            "n_examples": n_examples,
            **attrs,
        }
    )


def grouped(change, n_kv_heads, interaction=1.0):
    """Joint change per group: the sum of its heads, times `interaction`."""
    layers, heads = change.shape
    return interaction * change.reshape(layers, n_kv_heads, heads // n_kv_heads).sum(-1)


def both(planted=None, *, n_kv_heads=2, n_layers=4, n_heads=8, interaction=1.0, seed=0, **attrs):
    """Heads and groups of one synthetic model."""
    change = shifts(n_layers, n_heads, planted, seed=seed)
    common = {"n_kv_heads": n_kv_heads, "n_heads": n_heads, "seed": seed, **attrs}
    return (
        patched(change, unit="head", **common),
        patched(grouped(change, n_kv_heads, interaction), unit="kv_group", **common),
    )


def attention_result(n_tokens=12, heads=(4, 5, 6, 7), layer=2, seed=0):
    """Causal attention rows that sum to one, with a strong first token."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1, (1, len(heads), n_tokens, n_tokens))
    scores[..., 0] += 2.5
    scores[:, :, np.triu_indices(n_tokens, 1)[0], np.triu_indices(n_tokens, 1)[1]] = -np.inf
    weights = np.exp(scores)
    weights /= weights.sum(-1, keepdims=True)
    words = ["<bos>", "User", ":", " No", ",", " that", " is", " wrong", ".", "\n", "Assistant", ":"]
    tokens = [words[i % len(words)] for i in range(n_tokens)]
    return xr.Dataset(
        {"pattern": (("layer", "head", "query", "key"), weights)},
        coords={
            "layer": [layer],
            "head": list(heads),
            "query": np.arange(n_tokens),
            "key": np.arange(n_tokens),
            "token": ("key", tokens),
        },
        attrs={"model": "toy-gqa"},
    )
