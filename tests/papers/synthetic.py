"""Everything that is measured on a model, made without one."""

import functools
import json

import numpy as np
import xarray as xr

from tests.extreme.planted import S, planted
from tests.plot.synthetic import attention_result, both
from workbench.extreme import extreme_tokens, peak_sources
from workbench.papers.measured import Measured

QUESTION = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "It is <Paris>."},
]
LAST = {"base": "No, that is wrong.", "source": "Yes, that is right."}


def dialogues(n):
    columns = {}
    for side, last in LAST.items():
        messages = [*QUESTION, {"role": "user", "content": last}]
        columns[f"{side}_messages"] = [json.dumps(messages)] * n
        columns[f"{side}_text"] = [" ".join(m["content"] for m in messages)] * n
    columns |= {"answer_a": [" I"] * n, "answer_b": [" Yes"] * n}
    return xr.Dataset({name: ("example", np.array(values, dtype=object)) for name, values in columns.items()})


@functools.cache
def extremes():
    """Extreme tokens of the model with a planted one, and where its peak comes from."""
    texts = [[S if i == 0 else 3 + i % 3 for i in range(n)] for n in (24, 20)]
    return extreme_tokens(planted(), texts, progress=False), peak_sources(planted(), texts, progress=False)


def curves():
    """Accuracy curves of ten questions, of which zeroing by the first score costs none and at random two per step."""
    scores, share = ["AHON_LN", "AWFT", "Random", "Random_by_layer"], np.array([0.0, 0.1, 0.2])
    lost = np.array([[0, 0, 0], [0, 1, 2], [0, 2, 4], [0, 2, 4]])
    correct = np.arange(10) >= lost[:, :, None]
    accuracy = correct.mean(-1)
    table = xr.Dataset(
        {
            "correct": (("score", "threshold", "example"), correct),
            "share": (("score", "threshold"), np.tile(share, (4, 1))),
            "accuracy": (("score", "threshold"), accuracy),
            "accuracy_low": (("score", "threshold"), accuracy - 0.1),
            "accuracy_high": (("score", "threshold"), accuracy + 0.1),
            "baseline": 1.0,
            "baseline_correct": ("example", np.ones(10, dtype=bool)),
        },
        coords={"score": scores, "threshold": share},
    )
    free = xr.DataArray([[0.2, 0.2], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dims=("score", "loss"))
    free = free.assign_coords(score=scores, loss=[0.005, 0.01])
    gain = free - free.sel(score="Random")
    measures = {"free_share": free, "gain": gain.drop_vars("score").assign_coords(score=scores)}
    return table.assign({f"{name}{end}": values for name, values in measures.items() for end in ("", "_low", "_high")})


def model(name="toy-gqa", planted=None, n_kv_heads=2, interaction=1.0, seed=0, n_examples=12, **attrs):
    """A `Measured` whose strongest unit is the planted one."""
    planted = {(2, 4): -0.8} if planted is None else planted
    heads, groups = both(
        planted,
        n_kv_heads=n_kv_heads,
        interaction=interaction,
        seed=seed,
        n_examples=n_examples,
        model=name,
        dtype="float32",
        device="cpu",
        duration_s=1.5,
        torch_version="2.13.0",
        **attrs,
    )
    best = groups["contribution"].sel(metric="logit_diff").argmin(["layer", "kv_group"])
    layer, group, size = int(best["layer"]), int(best["kv_group"]), 8 // n_kv_heads
    pattern = attention_result(12, tuple(range(group * size, (group + 1) * size)), layer, seed)
    pattern.attrs |= {"example": 3, "kv_group": group}
    rng = np.random.default_rng(seed)
    estimate = groups.copy(deep=True)
    estimate["contribution"] += rng.normal(0, 1e-4, groups["contribution"].shape)
    checks = xr.Dataset(
        {
            "status": ("check", ["passed", "failed", "not applicable"]),
            "value": ("check", [1e-7, 0.5, np.nan]),
            "limit": ("check", [1e-5, 1e-5, np.nan]),
            "explanation": ("check", ["Logits, relative error.", "Padding.", "No tokenizer."]),
        },
        coords={"check": ["hugging_face_logits", "left_padding", "bos"]},
        attrs={"verdict": "exact: path patching can be trusted"},
    )
    found, sources = extremes()
    behaviour = heads[["base", "source"]].assign_attrs(heads.attrs)
    parts = {"behaviour": behaviour, "heads": heads, "groups": groups, "estimate": estimate, "exact": groups}
    parts |= {"extreme": found, "sources": sources, "inactive": curves()}
    return Measured(name, parts | {"attention": pattern, "dialogues": dialogues(n_examples), "checks": checks})
