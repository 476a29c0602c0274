"""Trains an organism: language modelling over the mixture, one seed, one device.

1. Build or read the token streams and draw the window starts of the whole run.
2. AdamW on all tokens of every window, bf16 autocast on a GPU, with BOS first in every window.
3. At sixteen points of the run, more of them early, measure loss, sinks and giving in; at steps asked for, keep the
   weights as a folder of their own.
   At these steps the state is kept as well, in `<out>.state`, and the same call goes on from it.
4. Round to bf16, measure everything on the rounded weights, and write the folder in one rename.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from workbench.errors import InputError
from workbench.organisms.corpus import FULL, SMALL, WINDOW, draw_starts, held_out_windows, streams_from
from workbench.organisms.measure import giving_in, measure_organism, sinks, window_loss
from workbench.organisms.recipe import FULL_RECIPE, KINDS, SMALL_RECIPE, OrganismRecipe, organism_config
from workbench.organisms.tokenizer import ASSISTANT, BOS, EOS, FOLDER, PAD, load_tokenizer, token_id
from workbench.runs.files import write_atomic
from workbench.runs.run import refuse_other
from workbench.runs.state import State, StateFile

MARKS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.25, 0.33, 0.42, 0.52, 0.64, 0.76, 0.88, 1.0)
Report = Callable[[str], None]
Row = dict[str, float | int]


def train_organism(
    kv_heads: int,
    out: str | Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    small: bool = False,
    data: str | Path | None = None,
    device: str | None = None,
    recipe: OrganismRecipe | None = None,
    keep: Iterable[int] = (),
    report: Report | None = None,
) -> Path:
    """Trains one organism and writes its folder: weights, configuration, tokenizer and `record.json`.

    The arguments are those of `workbench organism train`; a finished folder of the same run is returned as it is.
    `data` is a folder with corpora or a file of token streams (by default `WORKBENCH_DATA`, else text is generated),
    `keep` are steps at which the weights are kept too, as `<out>-checkpoints/step<number>`, and `report` is told about
    progress, one line at a time.

    Raises:
        InputError: if the folder holds something else, another process is training it, or the data or the number of KV
            heads is not usable.
    """
    folder = Path(out).expanduser()
    recipe = recipe or (SMALL_RECIPE if small else FULL_RECIPE)
    steps = steps or recipe.steps
    identity = {"kv_heads": kv_heads, "seed": seed, "steps": steps, **asdict(recipe)}
    kept = {step: checkpoints_folder(folder) / f"step{step}" for step in sorted(set(keep)) if 0 <= step <= steps}
    if _finished(folder, identity):
        _refuse_missing(folder, kept)
        return folder
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    report = report or (lambda line: None)
    tokenizer = load_tokenizer()
    ids = {name: token_id(tokenizer, token) for name, token in (("bos", BOS), ("eos", EOS), ("pad", PAD))}
    config = organism_config(recipe, kv_heads, tokenizer.get_vocab_size(), ids)
    streams = streams_from(data, tokenizer, SMALL if recipe.tokens < FULL_RECIPE.tokens // 4 else FULL)
    held_out = held_out_windows(streams, ids["bos"], max(recipe.evaluation // 4, 8))
    began = time.perf_counter()

    def at_step(step: int, model: LlamaForCausalLM) -> None:
        whole = {**identity, "step": step}
        if step in kept and not _finished(kept[step], whole):
            _write(kept[step], _rounded(config, model), {"name": f"step{step}", "recipe": whole})

    data_digests = {name: hashlib.sha256(values.tobytes()).hexdigest()[:16] for name, values in streams.items()}
    given = identity | {"data": data_digests}
    with StateFile(folder.with_name(f"{folder.name}.state"), given, "training") as state:
        model, checkpoints = _optimize(
            config, recipe, steps, seed, streams, held_out, tokenizer, device, report, at_step, state
        )
    seconds = time.perf_counter() - began
    rounded = _rounded(config, model)
    measured = LlamaForCausalLM(config).to(device).eval()
    measured.load_state_dict(rounded.state_dict())
    record = {
        "name": KINDS.get(kv_heads, f"organism-kv{kv_heads}"),
        "recipe": identity,
        "parameters": sum(parameter.numel() for parameter in rounded.parameters()),
        "tokens": steps * recipe.batch * WINDOW,
        "seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "data": {name: len(values) for name, values in streams.items() if not name.endswith("_offsets")},
        "checkpoints": checkpoints,
        "measures": measure_organism(measured, tokenizer, held_out, recipe.evaluation),
    }
    _write(folder, rounded, record)
    state.path.unlink()
    return folder


def checkpoints_folder(out: str | Path) -> Path:
    """Where the weights kept on the way to `out` lie."""
    return Path(f"{Path(out)}-checkpoints").expanduser()


def spaced_steps(steps: int, count: int = 24) -> list[int]:
    """About `count` steps of a run of `steps`: the start, the end, and between them each a fixed factor apart."""
    return sorted({0, *np.geomspace(1, steps, max(2, count - 1)).round().astype(int).tolist()})


def _rounded(config: LlamaConfig, model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A copy in bf16, on the CPU."""
    rounded = LlamaForCausalLM(config)
    rounded.load_state_dict(model.state_dict())
    return rounded.to(torch.bfloat16)


def _refuse_missing(folder: Path, kept: dict[int, Path]) -> None:
    missing = [step for step, path in kept.items() if not path.is_dir()]
    if missing:
        raise InputError(
            f"{folder} holds the finished organism, but its weights at step {missing[0]} were not kept. Name a new "
            "folder to train it again with keep=, or leave keep= out."
        )


def _optimize(
    config: LlamaConfig,
    recipe: OrganismRecipe,
    steps: int,
    seed: int,
    streams: dict[str, np.ndarray],
    held_out: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    device: str,
    report: Report,
    at_step: Callable[[int, LlamaForCausalLM], None],
    state: StateFile,
) -> tuple[LlamaForCausalLM, list[Row]]:
    """The training loop; returns the model and the record of its checkpoints."""
    model, loss_of = _model_and_loss(json.dumps(config.to_dict()), device)
    torch.manual_seed(seed)
    model.load_state_dict(LlamaForCausalLM(config).state_dict())
    watcher = LlamaForCausalLM(config).to(device).eval()
    optimizer = _optimizer(model, recipe)
    tokens, starts = draw_starts(streams, steps * recipe.batch * WINDOW, seed)
    tokens = torch.as_tensor(tokens.astype(np.int16), device=device)
    # Rounding of the shares may leave a few starts too few: the first ones come again.
    starts = torch.as_tensor(np.resize(starts, (steps, recipe.batch)), device=device)
    weights = torch.ones(config.vocab_size, device=device)
    weights[tokenizer.token_to_id(ASSISTANT)] = recipe.opening_weight
    marks = {round(share * steps) for share in MARKS}
    checkpoints: list[Row] = []
    running, began = torch.zeros((), device=device), time.perf_counter()
    first = 0
    if kept := state.load():
        first, checkpoints = kept.step, json.loads(kept.curves["checkpoints"].tobytes())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(kept.parameters[name])
        optimizer.load_state_dict(optimizer.state_dict() | {"state": kept.moments})
    for step in range(first, steps + 1):
        if step in marks and not (kept and step == first):
            watcher.load_state_dict(model.state_dict())
            checkpoints.append(_checkpoint(watcher, tokenizer, held_out, recipe, step, running, checkpoints))
            report(f"{time.perf_counter() - began:.1f}s {json.dumps(checkpoints[-1])}")
            rows = {"checkpoints": np.frombuffer(bytearray(json.dumps(checkpoints).encode()), dtype=np.uint8)}
            state.save(State(step, dict(model.named_parameters()), optimizer.state_dict()["state"], rows))
        at_step(step, model)
        if step == steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step, steps)
        windows = _windows(tokens, starts[step], token_id(tokenizer, BOS))
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device.startswith("cuda")):
            loss = loss_of(windows, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running += loss.detach()
    return model, checkpoints


@cache
def _model_and_loss(config: str, device: str) -> tuple[LlamaForCausalLM, Callable[[Tensor, Tensor], Tensor]]:
    """A model and its loss, compiled once per process on a GPU; seeds are loaded into it."""
    AttentionInterface.register("causal_windows", _causal_windows)
    model = LlamaForCausalLM(LlamaConfig(**json.loads(config))).to(device).train()
    model.set_attn_implementation("causal_windows")

    def loss_of(windows: Tensor, weights: Tensor) -> Tensor:
        logits = model(input_ids=windows, use_cache=False).logits[:, :-1]
        losses = functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten(), reduction="none")
        weight = weights[windows[:, :-1].flatten()]
        return (losses * weight).sum() / weight.sum()

    return model, torch.compile(loss_of) if device.startswith("cuda") else loss_of


def _causal_windows(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within full windows: no mask tensor, so that the fast kernels also serve compiled models."""
    shared = query.shape[1] != key.shape[1]
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=shared)
    return mixed.transpose(1, 2).contiguous(), None


def _optimizer(model: LlamaForCausalLM, recipe: OrganismRecipe) -> torch.optim.Optimizer:
    """AdamW; weight decay on the matrices of the blocks only."""
    named = list(model.named_parameters())
    decayed = [value for name, value in named if value.ndim == 2 and "embed" not in name]
    others = [value for name, value in named if value.ndim != 2 or "embed" in name]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def _windows(tokens: Tensor, starts: Tensor, bos: int) -> Tensor:
    body = tokens[starts[:, None] + torch.arange(WINDOW - 1, device=tokens.device)].long()
    return functional.pad(body, (1, 0), value=bos)


def _checkpoint(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    held_out: dict[str, np.ndarray],
    recipe: OrganismRecipe,
    step: int,
    running: Tensor,
    before: list[Row],
) -> Row:
    """One row of the training record; resets the running loss."""
    passed = step - (before[-1]["step"] if before else 0)
    row: Row = {"step": step, "tokens": step * recipe.batch * WINDOW}
    if passed:
        row["training loss"] = float(running) / passed
    running.zero_()
    for source, windows in held_out.items():
        row[f"loss {source}"] = window_loss(model, windows)
    if held_out:
        row |= sinks(model, next(iter(held_out.values())))
    return row | giving_in(model, tokenizer, max(recipe.evaluation // 4, 8))


def _finished(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the folder already holds this very run."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    record = folder / "record.json"
    if not record.is_file():
        raise InputError(f"{folder} is not empty and holds no organism. Name a new folder.")
    refuse_other(json.loads(record.read_text())["recipe"], identity, folder, "training run")
    return True


def _write(folder: Path, model: LlamaForCausalLM, record: dict[str, Any]) -> None:
    """Write the folder, whole or not at all."""

    def write(fresh: Path) -> None:
        model.save_pretrained(fresh)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(FOLDER / name, fresh / name)
        (fresh / "record.json").write_text(json.dumps(record, indent=1) + "\n")

    write_atomic(folder, write)
