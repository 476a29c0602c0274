"""The cells of a row: what the package says of a tiny model, against plain Hugging Face modules.

Each function returns the largest error, over what is compared and relative to what an intervention does. Numbers beyond
`LIMIT` are wrong ones.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from torch import Tensor

import workbench as wb
from benchmarks.architectures import tuned
from benchmarks.architectures.plain import Plain
from tests import frozen
from tests.tiny import sequences
from tests.tuning.chat import chat_tokenizer
from tests.zoo import specimen

LIMIT = 1e-3
"""The largest relative error in float32 that is called right; a wrong formula errs by 0.01 to 1."""
A, B = 5, 9
"""The answers that patching is scored by."""


@dataclass(frozen=True)
class Subject:
    """One architecture: a tiny model as the package has it, and once more, plain."""

    name: str

    @cached_property
    def plain(self) -> Plain:
        """The plain Hugging Face model."""
        hf = specimen(self.name)
        hf.config._attn_implementation = hf.config.get_text_config()._attn_implementation = "eager"
        return Plain(hf)

    @cached_property
    def model(self) -> Any:
        """The same weights, loaded."""
        return wb.load(specimen(self.name), tokenizer=cast(Any, chat_tokenizer()))

    @cached_property
    def texts(self) -> list[list[int]]:
        """Two sequences of unequal length."""
        return sequences((9, 7))

    @cached_property
    def other(self) -> list[list[int]]:
        """Two others of the same lengths."""
        return sequences((9, 7), seed=2)

    @cached_property
    def pairs(self) -> wb.PromptPairs:
        """The sequences as pairs."""
        return wb.PromptPairs(self.texts, self.other, (A, B))

    @cached_property
    def head_layers(self) -> list[int]:
        """The layers of which the package shows heads."""
        return list(wb.anatomy(self.model).head_layers)

    @cached_property
    def groups(self) -> dict[int, list[list[int]]]:
        """The heads of each layer that read the same keys."""
        values = self.plain.values(self.texts[0], "v")
        found = {}
        for layer in self.head_layers:
            by_value: dict[bytes, list[int]] = {}
            for head, rows in enumerate(values[layer, "v"]):
                by_value.setdefault(rows.numpy().tobytes(), []).append(head)
            found[layer] = list(by_value.values())
        return found

    @property
    def some(self) -> list[tuple[int, int]]:
        """A few heads."""
        return [(self.head_layers[0], 1), (self.head_layers[-1], self.plain.n_heads - 1)] if self.head_layers else []


def error(found: Any, wanted: Any, beside: Any = 0.0) -> float:
    """The largest difference over the largest wanted value, or over the largest distance to `beside`."""
    found, wanted, beside = (torch.as_tensor(np.asarray(x)).double() for x in (found, wanted, beside))
    if found.isnan().any() or wanted.isnan().any():
        same = found.isnan() == wanted.isnan() if found.shape == wanted.shape else torch.tensor(False)
        if not bool(same.all()):
            return float("inf")
        found, wanted = found.nan_to_num(), wanted.nan_to_num()
    scale = float((wanted - beside).abs().max())
    return float((found - wanted).abs().max()) / scale if scale > 1e-7 else float("inf")


def load(subject: Subject) -> float:
    """Logits of the loaded model."""
    with torch.no_grad():
        return max(error(subject.model(torch.tensor([s]))[0], subject.plain.run(s)) for s in subject.texts)


# Patching.


def path(subject: Subject) -> float:
    """Path patching of a few heads, of the KV groups that they are in, and of layers."""
    plain, data = subject.plain, subject.pairs
    units = [[head] for head in subject.some]
    units += [[(layer, h) for h in group] for layer, _ in subject.some for group in subject.groups[layer][:1]]
    errors = []
    if units:
        result = wb.path_patch(subject.model, data, units=units, full_logits=True, progress=False)
        errors += [_sent(subject, result, n, heads[0][0], [h for _, h in heads]) for n, heads in enumerate(units)]
        by_group = wb.path_patch(subject.model, data, unit="kv_group", progress=False)["patched"]
        same = by_group.sel(layer=units[-1][0][0]).isel(kv_group=0).transpose("metric", "example")
        errors.append(error(same, result["patched"].isel(unit=len(units) - 1).transpose("metric", "example")))
    result = wb.path_patch(subject.model, data, unit="layer", full_logits=True, progress=False)
    layers = [layer for layer, names in enumerate(plain.mixers) if names]
    return max(errors + [_sent(subject, result, layer, layer, None) for layer in (layers[0], layers[-1])])


def _sent(subject: Subject, result: Any, cell: int, layer: int, heads: list[int] | None) -> float:
    """The error of one sender, with all mixers frozen in the plain model."""
    errors, plain = [], subject.plain
    for example, (base, source) in enumerate(zip(subject.texts, subject.other, strict=True)):
        wanted = frozen.path_patched(plain.hf, plain.mixers, base, source, layer, heads, plain.n_heads)
        found = result["patched_logits"].sel(example=example).values[cell]
        errors.append(error(found, wanted, plain.run(base)[-1]))
    return max(errors)


def z(subject: Subject) -> float:
    """Activation patching of z of a few heads, at all positions."""
    return _hook_error(subject, "z", "head")


def query_key(subject: Subject) -> float:
    """Activation patching of queries by head, and of keys by KV group."""
    return max(_hook_error(subject, "q", "head"), _hook_error(subject, "k", "kv_group"))


def value(subject: Subject) -> float:
    """Activation patching of values by KV group."""
    return _hook_error(subject, "v", "kv_group")


def pattern(subject: Subject) -> float:
    """Activation patching of a few heads' patterns."""
    return _hook_error(subject, "pattern", "head")


def _hook_error(subject: Subject, hook: wb.names.Hook, unit: wb.names.HookUnit) -> float:
    plain, base = subject.plain, subject.texts[0]
    result = wb.activation_patch(subject.model, subject.pairs[:1], hook=hook, unit=unit, progress=False)
    patched = result["patched"].sel(metric="logit_diff").isel(example=0)
    point = f"{hook}_proj" if hook in ("q", "k") and plain.norms_together else hook
    others = plain.values(subject.other[0], point)
    found, wanted = [], []
    for layer, head in subject.some:
        number = next(n for n, heads in enumerate(subject.groups[layer]) if head in heads)
        heads = subject.groups[layer][number] if unit == "kv_group" else [head]

        def write(value: Tensor, at: Any = (layer, point), heads: list[int] = heads) -> Tensor:
            new = value.clone()
            new[heads] = others[at][heads]
            return new

        wanted.append(_difference(plain.run(base, {(layer, point): write})))
        found.append(float(patched.sel(layer=layer).isel({unit: number if unit == "kv_group" else head})))
    return error(found, wanted, _difference(plain.run(base)))


def stream(subject: Subject) -> float:
    """Activation patching of the stream after a layer, at the last position."""
    plain = subject.plain
    base, source = subject.texts[0], subject.other[0]
    result = wb.activation_patch(subject.model, subject.pairs[:1], hook="resid_post", positions="last", progress=False)
    found = result["patched"].sel(metric="logit_diff").isel(example=0)
    layer, other = 1, plain.values(source, "after")

    def write(value: Tensor) -> Tensor:
        return torch.cat([value[:-1], other[layer, "after"][-1:]])

    wanted = _difference(plain.run(base, {(layer, "after"): write}))
    return error([float(found.sel(layer=layer))], [wanted], [_difference(plain.run(base))])


def _difference(logits: Tensor) -> float:
    return float(logits[-1, A] - logits[-1, B])


# Detectors and scores.


def sinks(subject: Subject) -> float:
    """Attention received, sink logits, and norms of values and of the stream."""
    found = wb.extreme_tokens(subject.model, subject.texts, progress=False)
    return max(_sinks(subject, found.isel(sequence=i), tokens) for i, tokens in enumerate(subject.texts))


def _sinks(subject: Subject, found: Any, tokens: list[int]) -> float:
    plain, n = subject.plain, len(tokens)
    seen, errors = plain.values(tokens, "logits", "pattern", "v", "before", "after"), []

    def measured(name: str, layer: int | None = None) -> Any:
        cut = found[name].isel(position=slice(n))
        return cut.values if layer is None else cut.sel(layer=layer).values

    errors.append(error(measured("embed_norm"), seen[0, "before"].norm(dim=-1)))
    for layer in range(len(plain.layers)):
        errors.append(error(measured("residual_norm", layer), seen[layer, "after"].norm(dim=-1)))
    for layer in subject.head_layers:
        logits, pattern = seen[layer, "logits"], seen[layer, "pattern"]
        visible = logits > -1e30
        errors.append(error(measured("sink_weight", layer), pattern.sum(1) / visible.sum(1)))
        errors.append(error(measured("sink_logit", layer), _sink_logits(logits, visible)))
        values = _through_output(plain, layer, seen[layer, "v"])
        errors.append(error(measured("head_value_norm", layer), values.norm(dim=-1)))
    return max(errors)


def _sink_logits(logits: Tensor, visible: Tensor) -> Tensor:
    """For each key, its logit minus the mean of the other keys' without the query's own, over the queries after it."""
    heads, n, _ = logits.shape
    result = torch.full((heads, n), torch.nan)
    for head in range(heads):
        for key in range(n):
            terms = []
            for query in range(key + 1, n):
                others = [j for j in range(n) if visible[head, query, j] and j not in (key, query)]
                if visible[head, query, key] and others:
                    terms.append(logits[head, query, key] - logits[head, query, others].mean())
            if terms:
                result[head, key] = torch.stack(terms).mean()
    return result


def _through_output(plain: Plain, layer: int, heads: Tensor) -> Tensor:
    """What the output projection makes of each head alone `[head, pos, d_model]`, without its bias."""
    module: Any = plain.hf.get_submodule(plain.outputs[layer])
    n_heads, _, width = heads.shape
    weight = module.weight if type(module).__name__ == "Conv1D" else module.weight.T
    slices = weight.detach().reshape(n_heads, width, -1)
    return heads @ slices


def scores(subject: Subject) -> float:
    """Six of the scores of inactive heads."""
    names: list[wb.names.HeadScoreName] = ["AWFT", "AEQD", "AVVN", "AHON_LN", "LTHON_HN", "FHON"]
    found = wb.head_scores(subject.model, subject.texts, names, progress=False)
    wanted = torch.full(found.shape, torch.nan)
    for i, tokens in enumerate(subject.texts):
        seen = subject.plain.values(tokens, "pattern", "v", "z")
        for layer in subject.head_layers:
            pattern, v, z = (seen[layer, name] for name in ("pattern", "v", "z"))
            norms = z.norm(dim=-1)
            wanted[:, i, layer] = torch.stack(
                [
                    pattern[..., 0].mean(-1),
                    -torch.xlogy(pattern, pattern).sum(-1).mean(-1),
                    v.norm(dim=-1).mean(-1),
                    norms.mean(-1) / norms.mean(),
                    norms[:, -1] / norms.mean(-1),
                    _through_output(subject.plain, layer, z).norm(dim=-1).mean(-1),
                ]
            )
    by_score = found.transpose("score", "sequence", "layer", "head").values
    return max(error(a, b) for a, b in zip(by_score, wanted, strict=True))


def zeroing(subject: Subject) -> float:
    """Logits with chosen heads zeroed, and with those zeroed whose output is small in their layer."""
    plain, errors = subject.plain, []
    tokens = subject.texts[0]
    chosen = {layer: [h for at, h in subject.some if at == layer] for layer in subject.head_layers}
    before = plain.run(tokens)
    threshold = _threshold(plain.values(tokens, "z"))
    ways: list[tuple[dict[str, Any], Callable[[int, Tensor], Any]]] = [
        ({"heads": subject.some}, lambda layer, z: chosen[layer]),
        ({"score": "AHON_LN", "tau": threshold}, lambda layer, z: _relative_norms(z) < threshold),
    ]
    for keywords, which in ways:

        def write(z: Tensor, layer: int, which: Any = which) -> Tensor:
            new = z.clone()
            new[which(layer, z)] = 0
            return new

        hooks = {(layer, "z"): lambda z, layer=layer: write(z, layer) for layer in subject.head_layers}
        with torch.no_grad(), wb.zero_heads(subject.model, **keywords):
            found = subject.model(torch.tensor([tokens]))[0]
        errors.append(error(found, plain.run(tokens, hooks), before))
    return max(errors)


def _threshold(seen: dict[Any, Tensor]) -> float:
    """Half way between two neighbouring scores, above nearly half of them; 1 where there are none."""
    found = sorted(float(score) for z in seen.values() for score in _relative_norms(z))
    middle = len(found) * 2 // 5
    return sum(found[middle : middle + 2]) / 2 if found else 1.0


def _relative_norms(z: Tensor) -> Tensor:
    """The score AHON_LN of each head."""
    norms = z.norm(dim=-1)
    return norms.mean(-1) / norms.mean()


# Padding, tuning and export.


def padding(subject: Subject) -> float:
    """Left-padded tensors with a mask, and replies to prompts of unequal length, against each sequence alone."""
    errors, plain = [], subject.plain
    length = max(map(len, subject.texts))
    tokens = torch.tensor([[0] * (length - len(s)) + s for s in subject.texts])
    mask = torch.tensor([[0] * (length - len(s)) + [1] * len(s) for s in subject.texts])
    if subject.head_layers:
        found = wb.head_scores(subject.model, tokens, ["AHON"], mask=mask, progress=False)
        for i, s in enumerate(subject.texts):
            seen = plain.values(s, "z")
            wanted = torch.stack([seen[layer, "z"].norm(dim=-1).mean(-1) for layer in subject.head_layers])
            errors.append(error(found.isel(score=0, sequence=i).sel(layer=subject.head_layers), wanted))
    replies = wb.evaluation.generate(subject.model, subject.texts, max_new_tokens=4, progress=False)
    for reply, s in zip(replies["tokens"].values, subject.texts, strict=True):
        errors.append(float(_differs(plain, s, [int(t) for t in reply if t >= 0])))
    return max(errors)


def _differs(plain: Plain, tokens: list[int], reply: list[int]) -> bool:
    """Whether a token of a greedy reply is not the likeliest, up to rounding."""
    for step, token in enumerate(reply):
        logits = plain.run(tokens + reply[:step])[-1]
        if float(logits.max() - logits[token]) > LIMIT:
            return True
    return not reply


def export(subject: Subject) -> float:
    """Logits of the saved model, read by plain transformers; 1 where a weight is not what it was."""
    with _saved(subject.model) as hf:
        own, kept = subject.plain.hf.state_dict(), hf.state_dict()
        if own.keys() != kept.keys() or not all(torch.equal(own[name], kept[name]) for name in own):
            return 1.0
        with torch.no_grad():
            return error(hf(torch.tensor(subject.texts[:1])).logits[0], subject.plain.run(subject.texts[0]))


class _saved:
    """The plain model that a saved one is read as."""

    def __init__(self, model: Any):
        self.model, self.folder = model, tempfile.TemporaryDirectory()

    def __enter__(self) -> Any:
        folder = Path(self.folder.name) / "model"
        wb.save_pretrained(self.model, folder)
        cls = getattr(transformers, type(self.model.original_model).__name__)
        return cls.from_pretrained(folder, attn_implementation="eager").eval()

    def __exit__(self, *_: Any) -> None:
        self.folder.cleanup()


def tuning(subject: Subject) -> float:
    """One update of a head and of a KV group, saved and read again, against the masked update of the plain model."""
    return max(_tuned(subject))


def _tuned(subject: Subject) -> Iterator[float]:
    layer, head = subject.some[-1] if subject.some else (0, 0)
    group = next(heads for heads in subject.groups[layer] if head in heads) if subject.some else [0]
    for heads, kv in (([head], None), (group, True)):
        result = wb.pinpoint_tune(
            subject.model,
            tuned.DIALOGUES,
            [(layer, h) for h in heads],
            kv=kv,
            recipe=tuned.RECIPE,
            progress=False,
        )
        with _saved(result.model) as hf:
            yield tuned.compare(subject.plain, hf, layer, heads)
