"""One update of pinpoint tuning, against the gradient of the plain model masked to what belongs to the heads.

What belongs to a set of heads is found by differentiation: the outputs of the projections of queries, keys and values
that move z of these heads and of no other, their biases, and the columns of the output projection that read them. Every
other number must keep its bits.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import workbench as wb
from benchmarks.architectures.plain import Plain
from tests.tuning.chat import chat_tokenizer, dialogues

DIALOGUES = dialogues(4)
RATE = 0.01
GATES = ("gate_proj", "g_proj")
"""Projections that are no query, key or value."""
EPSILON = 1e-8
"""What AdamW adds to the root of its second moment."""
RECIPE = wb.tuning.TuningRecipe(steps=1, batch=len(DIALOGUES), learning_rate=RATE, weight_decay=0.0)


def compare(plain: Plain, tuned: Any, layer: int, heads: list[int]) -> float:
    """The largest error of the update over the rate, where there is a gradient; 1 where another entry changed."""
    gradients = _gradients(plain.hf)
    masks = _owned(plain, layer, heads)
    before, after = plain.hf.state_dict(), tuned.state_dict()
    worst, moved = 0.0, 0
    for name, own in before.items():
        change = (after[name] - own).double()
        mask = masks.get(name, torch.zeros_like(own, dtype=torch.bool))
        if bool(change[~mask].any()):
            return 1.0
        if name not in masks:
            continue
        gradient = gradients[name].double()
        clear = mask & (gradient.abs() > max(1e-6, 1e-3 * float(gradient.abs().max())))
        step = gradient / (gradient.abs() + EPSILON)
        worst = max([worst, *(change / RATE + step)[clear].abs().tolist()])
        moved += int(clear.sum())
    return worst if moved else float("inf")


def _gradients(hf: Any) -> dict[str, Tensor]:
    """Gradients of the mean loss over the last replies of all dialogues."""
    hf.requires_grad_(True)
    hf.zero_grad()
    total, count = torch.zeros(()), 0
    for tokens, start in map(_encoded, DIALOGUES):
        logits = hf(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
        total = total + functional.cross_entropy(logits[start - 1 : -1], torch.tensor(tokens[start:]), reduction="sum")
        count += len(tokens) - start
    (total / count).backward()
    found = {name: p.grad.clone() for name, p in hf.named_parameters(remove_duplicate=False) if p.grad is not None}
    hf.zero_grad()
    hf.requires_grad_(False)
    return found


def _encoded(dialogue: list[dict[str, str]]) -> tuple[list[int], int]:
    """The tokens of a dialogue, and where its last reply begins."""
    tokenizer = chat_tokenizer()
    whole = tokenizer.apply_chat_template(dialogue, tokenize=False)
    asked = tokenizer.apply_chat_template(dialogue[:-1], tokenize=False, add_generation_prompt=True)
    whole_ids, asked_ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (whole, asked))
    return list(whole_ids), len(asked_ids)


def _owned(plain: Plain, layer: int, heads: list[int]) -> dict[str, Tensor]:
    """For each parameter of which something belongs to the heads, where."""
    into = plain.outputs[layer]
    around = into.rpartition(".")[0] if ".output." not in into else into.partition(".output.")[0]
    linear = {
        name: module
        for name, module in plain.hf.named_modules()
        if name.startswith(f"{around}.") and name != into and _is_linear(module) and not name.endswith(GATES)
    }
    masks: dict[str, Tensor] = {}
    for name, moves in _moved(plain, into, linear).items():
        rows = moves[heads].any(0) & ~moves[[h for h in range(plain.n_heads) if h not in heads]].any(0)
        if bool(rows.any()):
            masks |= _mask(linear[name], name, rows, outputs=True)
    module: Any = plain.hf.get_submodule(into)
    columns = torch.zeros(plain.n_heads, _inputs(module) // plain.n_heads, dtype=torch.bool)
    columns[heads] = True
    return masks | _mask(module, into, columns.flatten(), outputs=False)


def _is_linear(module: Any) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _inputs(module: Any) -> int:
    return module.weight.shape[0] if type(module).__name__ == "Conv1D" else module.weight.shape[1]


def _mask(module: Any, name: str, which: Tensor, outputs: bool) -> dict[str, Tensor]:
    """A module's chosen outputs with their biases, or its chosen inputs."""
    by_row = outputs != (type(module).__name__ == "Conv1D")
    weight = which[:, None] if by_row else which[None]
    found = {f"{name}.weight": weight.expand(module.weight.shape)}
    if outputs and module.bias is not None:
        found[f"{name}.bias"] = which
    return found


def _moved(plain: Plain, into: str, linear: dict[str, Any]) -> dict[str, Tensor]:
    """For each module, which of its outputs move z of which head `[head, output]`."""
    seen: dict[str, Tensor] = {}
    entering: list[Tensor] = []

    def keep(name: str) -> Any:
        def hook(_module: Any, _args: Any, out: Tensor) -> Tensor:
            seen[name] = out.detach().clone().requires_grad_(True)
            return seen[name].clone()  # OLMo clips in place.

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in linear.items()]
    handles.append(plain.hf.get_submodule(into).register_forward_pre_hook(lambda _m, args: entering.append(args[0])))
    try:
        tokens, _ = _encoded(DIALOGUES[0])
        with torch.enable_grad():
            plain.hf(input_ids=torch.tensor([tokens]), use_cache=False)
            z = entering[0].reshape(len(tokens), plain.n_heads, -1)
            noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
            found: dict[str, list[Tensor]] = {name: [] for name in seen}
            for head in range(plain.n_heads):
                parts = torch.autograd.grad(
                    (z * noise)[:, head].sum(), list(seen.values()), retain_graph=True, allow_unused=True
                )
                for (name, out), gradient in zip(seen.items(), parts, strict=True):
                    moved = torch.zeros(out.shape[-1]) if gradient is None else gradient.flatten(0, -2).abs().amax(0)
                    found[name].append(moved > 1e-9)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.stack(rows) for name, rows in found.items()}
