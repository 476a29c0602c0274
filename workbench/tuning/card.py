"""The model card of a saved model: what was tuned, on what data, with which settings and results."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import xarray as xr

from workbench.models.anatomy import Anatomy

SETTINGS = ("steps", "batch", "learning_rate", "end_rate", "power", "weight_decay", "clip", "loss_on", "leak", "seed")


def readme(parts: Anatomy, record: xr.Dataset | None, results: Mapping[str, Any] | None) -> str:
    """The card as Markdown, with `results`: measured numbers by name, or by name and then by model."""
    lines = ["---", "library_name: transformers", "tags: [interpretability, pinpoint-tuning]"]
    base = str(record.attrs["model"]) if record is not None else parts.name
    if base.count("/") == 1:
        lines.append(f"base_model: {base}")
    lines += ["---", f"# {parts.name}", ""]
    lines.append(
        f"A {parts.architecture} of {parts.n_layers} layers with {parts.n_heads} query heads on {parts.n_kv_heads} KV "
        f"heads each, in {parts.dtype}. Load it with `AutoModelForCausalLM.from_pretrained(folder)`."
    )
    lines += _tuning(record) if record is not None else ["", "It was exported as it is, without a record of tuning."]
    lines += ["", "## Results", "", *_results(results)]
    return "\n".join([*lines, ""])


def _tuning(record: xr.Dataset) -> list[str]:
    facts = record.attrs
    share = facts["tuned_parameters"] / facts["parameters"]
    outside = (
        "Weight decay also shrank the rest of the matrices that hold them."
        if facts["leak"]
        else "Every other number is that of the base model, bit by bit."
    )
    lines = [
        "",
        "## Units",
        "",
        f"Tuned from {facts['model']} by supervised pinpoint tuning: {facts['units']}, "
        f"{facts['tuned_parameters']:,} of {facts['parameters']:,} parameters ({share:.2%}). {outside}",
    ]
    if facts["unit"] not in ("attention", "all"):
        lines += ["", "| layer | query heads |", "|---|---|", *_heads(facts["heads"])]
    lines += [
        "",
        "## Data",
        "",
        f"{facts['dialogues']:,} dialogues (digest {facts['dialogues_digest']}); the loss is on "
        f"{'the last turn' if facts['loss_on'] == 'reply' else 'all tokens'}.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {facts[name]} |" for name in SETTINGS),
        "",
        *_losses(record),
        f"Rounding to {facts['dtype']} lost {facts['lost_in_rounding']:.2%} of the change.",
    ]
    return lines


def _losses(record: xr.Dataset) -> list[str]:
    texts = []
    for name, word in (("loss", "Training"), ("validation", "Validation")):
        values = record[name].dropna(record[name].dims[0]).values
        if len(values):
            texts.append(f"{word} loss: {values[0]:.4f} at first, {values[-1]:.4f} at last.")
    return texts


def _heads(heads: list[list[int]]) -> list[str]:
    by_layer: dict[int, list[int]] = defaultdict(list)
    for layer, head in heads:
        by_layer[int(layer)].append(int(head))
    return [f"| {layer} | {', '.join(map(str, found))} |" for layer, found in sorted(by_layer.items())]


def _results(results: Mapping[str, Any] | None) -> list[str]:
    """A table, with a column per model where the values are mappings."""
    if not results:
        return ["None were given at export."]
    if not any(isinstance(value, Mapping) for value in results.values()):
        return ["| measure | value |", "|---|---|", *(f"| {name} | {_number(v)} |" for name, v in results.items())]
    columns = list(dict.fromkeys(key for value in results.values() if isinstance(value, Mapping) for key in value))
    lines = [f"| measure | {' | '.join(map(str, columns))} |", "|---" * (len(columns) + 1) + "|"]
    for name, value in results.items():
        values = value if isinstance(value, Mapping) else {columns[0]: value}
        lines.append(f"| {name} | {' | '.join(_number(values.get(column, '–')) for column in columns)} |")
    return lines


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
