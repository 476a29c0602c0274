"""Every measurement of a model on one device against the same model spread over several, and offloaded.

    python -m benchmarks.devices --model organism-gqa --devices cuda:0,cuda:1
    python -m benchmarks.devices --devices cuda:0,cpu --dtype float64

The layers are shared out evenly; those of "cpu" compute on the CPU. Offloaded, the second half of the layers lies in
the CPU's memory, or on the disk where the first device is the CPU, and computes on the first device. The table gives
the largest difference of each measurement over the largest value on one device; the exit status is 1 where one is
beyond rounding or a measurement fails.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import xarray as xr
from accelerate import dispatch_model
from accelerate.hooks import attach_align_device_hook_on_blocks
from transformers import AutoModelForCausalLM

import workbench as wb
from workbench.models.devices import device_of, devices_of

TOLERANCE = {"float64": 1e-9, "float32": 2e-3}
"""Largest relative difference; other dtypes 0.2."""
SMALL = 1e-3
"""Differences are relative to this at least: what is zero but for rounding has no relative difference."""


# Where the parts of a model go.


def device_map(hf: Any, devices: Sequence[str]) -> dict[str, str]:
    """Layers shared out evenly; the embedding on the first device, what comes after the layers on the last.

    An unembedding that is the embedding is on the first.
    """
    base = hf.base_model_prefix
    stack = next(name for name, part in hf.named_modules() if isinstance(part, torch.nn.ModuleList))
    n = len(hf.get_submodule(stack))
    where = {f"{stack}.{i}": devices[i * len(devices) // n] for i in range(n)}
    before = True
    for name, _ in hf.base_model.named_children():
        before = before and f"{base}.{name}" != stack
        if f"{base}.{name}" != stack:
            where[f"{base}.{name}"] = devices[0 if before or "emb" in name else -1]
    tied = hf.get_output_embeddings().weight is hf.get_input_embeddings().weight
    head = next(name for name, part in hf.named_modules() if part is hf.get_output_embeddings())
    return where | {head: devices[0 if tied else -1]}


def spread(hf: Any, devices: Sequence[str]) -> Any:
    """The model with every part computing on its own device, also on "cpu", which dispatch_model would offload."""
    where = device_map(hf, devices)
    skip = hf._skip_keys_device_placement
    execution = {"": torch.device(devices[0])} | {name: torch.device(device) for name, device in where.items()}
    attach_align_device_hook_on_blocks(hf, execution, dict.fromkeys(where, False), skip_keys=skip)
    hf.hf_device_map = where
    return hf


def offloaded(hf: Any, device: Any, folder: str) -> Any:
    """The model with the second half of its layers in the CPU's memory or on the disk."""
    away = "disk" if device == "cpu" else "cpu"
    where = device_map(hf, [device, away])
    kept: dict[str, Any] = {name: place if name[-1].isdigit() else device for name, place in where.items()}
    skip = hf._skip_keys_device_placement
    return dispatch_model(hf, kept, main_device=device, offload_dir=folder, skip_keys=skip)


# What is measured, all on token ids.


def rows(model: wb.HookedModel, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Made-up sequences that begin alike."""
    rng, vocab = np.random.default_rng(seed), wb.anatomy(model).d_vocab
    start = rng.integers(3, vocab, 4).tolist()
    return [start + rng.integers(3, vocab, n - 4).tolist() for n in lengths]


def pairs(model: wb.HookedModel) -> wb.PromptPairs:
    """Two pairs of unequal length."""
    base, source = rows(model, (9, 12)), rows(model, (9, 12), seed=1)
    return wb.PromptPairs([b[:5] + s[5:] for b, s in zip(base, source, strict=True)], base, [(5, 7), (8, 11)])


def long_answers(model: wb.HookedModel) -> wb.PromptPairs:
    """A pair whose answers are sets of sequences."""
    base, source = rows(model, (9,)), rows(model, (9,), seed=1)
    return wb.PromptPairs(base, source, [([[5, 6], [8]], [[7, 9, 3]])])


def losses(model: wb.HookedModel, **how: Any) -> np.ndarray:
    """Logits with heads zeroed."""
    tokens = torch.tensor(rows(model, (9, 9)), device=device_of(model))
    with torch.no_grad(), wb.zero_heads(model, **how) if how else nullcontext():
        return model(tokens).double().cpu().numpy()


def zeroed_by_score(model: wb.HookedModel) -> np.ndarray:
    """Logits with the heads zeroed that are inactive by a score."""
    found = wb.head_scores(model, rows(model, (9, 9)), "AHON_LN", progress=False)
    return losses(model, score="AHON_LN", tau=float(found.quantile(0.5)))


def domains(model: wb.HookedModel) -> xr.Dataset:
    texts = {name: rows(model, (12,) * 4, seed) for seed, name in enumerate(("a", "b"))}
    return wb.active_dormant(model, texts, length=12, progress=False)


def interventions(model: wb.HookedModel) -> xr.Dataset:
    made: dict[str, Any] = {
        "mask": lambda m: wb.extreme.mask_key(m, 0),
        "bias": lambda m: wb.extreme.sink_bias(m, -1.0),
        "force": lambda m: wb.extreme.force_attention(m, [(1, 0), (2, 1)]),
        "window": lambda m: wb.extreme.sliding_window(m, 3, 1),
        "values": lambda m: wb.extreme.clamp_values(m, 0),
        "outputs": lambda m: wb.extreme.zero_outputs(m, mlp=[0], attention=[1]),
        "swap": lambda m: wb.extreme.swap_token(m, 5),
    }
    return wb.extreme.compare_interventions(model, rows(model, (9, 12)), made, positions=0, progress=False)


def sensitivity(model: wb.HookedModel) -> xr.Dataset:
    examples = [wb.leaf.Example(tuple(s[:7]), tuple(s[7:]), (True,) * 7) for s in rows(model, (9, 12))]
    return wb.leaf.sensitivity(model, model, examples, scores="all", steps=2, progress=False)


def choices(model: wb.HookedModel) -> xr.Dataset:
    questions = [wb.evaluation.Question(tuple(s), ((5, 6), (7, 8, 9)), answer=0) for s in rows(model, (9, 12))]
    return wb.evaluation.score_choices(model, questions, progress=False)


HOOKS = ("q", "k", "v", "z", "pattern", "attn_out", "mlp_out", "resid_pre", "resid_post")
MEASUREMENTS: dict[str, Callable[[wb.HookedModel], Any]] = {
    "logits": losses,
    "check": lambda m: wb.check(m)["value"].sel(check=["recomputed_attention", "recomputed_stream", "kv_map_write"]),
    "path_patch": lambda m: wb.path_patch(m, pairs(m), unit="head", full_logits=True, progress=False),
    "path_patch, long answers": lambda m: wb.path_patch(m, long_answers(m), progress=False),
    **{
        f"activation_patch, {hook}": lambda m, hook=hook: wb.activation_patch(
            m, pairs(m), hook=hook, positions="each", progress=False
        )
        for hook in HOOKS
    },
    "attribution_patch": lambda m: wb.attribution_patch(m, pairs(m), progress=False),
    "attribution_patch, 3 points": lambda m: wb.attribution_patch(m, pairs(m), hook="q", steps=3, progress=False),
    "extreme_tokens": lambda m: wb.extreme_tokens(m, rows(m, (9, 12)), progress=False),
    "head_scores": lambda m: wb.head_scores(m, rows(m, (9, 12)), progress=False),
    "head_scores, compat": lambda m: wb.head_scores(m, rows(m, (9, 12)), compat=True, progress=False),
    "zero_heads": lambda m: losses(m, heads=[(0, 0), (wb.anatomy(m).n_layers - 1, 1)]),
    "zero_heads by score": zeroed_by_score,
    "active_dormant": domains,
    "zeroing_sweep": lambda m: wb.extreme.zeroing_sweep(m, rows(m, (12, 9)), progress=False),
    "interventions": interventions,
    "peak_sources": lambda m: wb.extreme.peak_sources(m, rows(m, (9, 12)), progress=False),
    "patterns": lambda m: wb.extreme.patterns(m, rows(m, (9,))),
    "sensitivity": sensitivity,
    "generate": lambda m: wb.evaluation.generate(m, rows(m, (9, 12)), max_new_tokens=4, progress=False),
    "score_choices": choices,
}


# Comparing.


def difference(one: Any, other: Any) -> float:
    """The largest difference over the largest value, of all variables the worst; infinite where labels differ."""
    if isinstance(one, xr.Dataset):
        if one.attrs.get("computed") != other.attrs.get("computed"):
            return np.inf
        return max(difference(one[name].values, other[name].values) for name in one.data_vars)
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape:
        return np.inf
    if a.dtype.kind not in "fc":
        return 0.0 if (a == b).all() else np.inf
    if (np.isnan(a) != np.isnan(b)).any():
        return np.inf
    return float(np.nanmax(np.abs(a - b), initial=0.0) / np.nanmax(np.abs(a), initial=SMALL))


def compare(one: wb.HookedModel, others: dict[str, wb.HookedModel]) -> dict[str, dict[str, float | str]]:
    """Of each measurement, the difference of each other model from the first, or the exception that it ends in."""
    table: dict[str, dict[str, float | str]] = {}
    for name, measure in MEASUREMENTS.items():
        table[name] = {}
        wanted = measure(one)
        for way, model in others.items():
            try:
                table[name][way] = difference(wanted, measure(model))
            except Exception as error:
                table[name][way] = f"{type(error).__name__}: {str(error)[:100]}"
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="organism-gqa", help="an embedded model, a folder or a Hub id")
    parser.add_argument("--devices", default="cuda:0,cuda:1", help="with commas, the first that of the tokens")
    parser.add_argument("--dtype", default="float64")
    given = parser.parse_args()
    devices, dtype = given.devices.split(","), getattr(torch, given.dtype)
    shipped = wb.embedded(given.model)
    source = given.model if shipped is None else str(shipped.folder())

    def fresh() -> Any:
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="eager")

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = wb.load(fresh().to(devices[0]), tokenizer=source)
        others = {"spread": wb.load(spread(fresh(), devices), tokenizer=source)}
        others["offloaded"] = wb.load(offloaded(fresh(), devices[0], folder), tokenizer=source)
        table = compare(one, others)
    print(f"{given.model} in {given.dtype} on {devices[0]}, against:")
    print("  spread over", ", ".join(map(str, devices_of(others["spread"]))))
    print("  offloaded, computing on", ", ".join(map(str, devices_of(others["offloaded"]))))
    limit, failed = TOLERANCE.get(given.dtype, 0.2), 0
    for name, row in table.items():
        wrong = [way for way, value in row.items() if isinstance(value, str) or not value <= limit]
        failed += len(wrong)
        cells = "  ".join(f"{way} {value if isinstance(value, str) else f'{value:.1e}'}" for way, value in row.items())
        print(f"{'FAILED' if wrong else 'ok':7} {name:30} {cells}")
    print(f"{failed} of {len(table) * len(others)} differ by more than {limit:g}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
