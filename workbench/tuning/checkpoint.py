"""Save a model as a Hugging Face checkpoint that plain transformers loads with the same logits.

1. Under a bridge, architectures with one matrix for queries, keys and values (GPT-NeoX, GPT-2, Phi-3) compute with
   three copies of its parts. Where the copies were changed, the matrix is stale; it is brought up to date first.
2. The bridge's logits are compared with those of the plain Hugging Face model. Weights that were folded or centred
   are found here and refused.
3. Safetensors, configuration, tokenizer and model card are written beside the folder's place and renamed there, so an
   interrupted export leaves nothing that looks like a checkpoint.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy, anatomy
from workbench.models.attention import require_no_hooks
from workbench.models.devices import device_of
from workbench.models.original import original_logits, unwrapped
from workbench.models.weights import require_changeable
from workbench.protocol import HookedModel
from workbench.runs.files import write_atomic
from workbench.runs.processes import process_state
from workbench.runs.results import save_result
from workbench.tuning.card import readme
from workbench.tuning.slices import Projection, attention_modules, rows_of_outputs

TOLERANCE = {"float64": 1e-5, "float32": 1e-4}
PROBE = 16


def save_pretrained(
    model: HookedModel,
    folder: str | Path,
    *,
    results: Mapping[str, Any] | None = None,
    record: xr.Dataset | None = None,
) -> Path:
    """Write a model as a folder that `AutoModelForCausalLM.from_pretrained` loads, with its tokenizer and a card.

    Of several processes, which must all call it, the first writes.

    Args:
        model: a bridge from `workbench.load`, or the tuned copy from `pinpoint_tune`.
        folder: where; it must not exist yet, or be empty.
        results: measured numbers for the card, `{measure: number}` or `{measure: {"before": …, "after": …}}`.
        record: of the tuning; by default the one that belongs to a tuned copy.

    Raises:
        InputError: a folder that holds something, a HookedTransformer, active hooks, weights that plain transformers
            would not compute the same logits with, a place that cannot be written.
    """
    parts, target = anatomy(model), Path(folder).expanduser()
    _refuse(model, parts)
    record = getattr(model, "workbench_tuning", None) if record is None else record
    refresh_fused(model, parts)
    if process_state().is_main_process:
        refuse_taken(target)
        _refuse_other_logits(model, parts)
        write_atomic(target, lambda fresh: _write(model, parts, fresh, record, results))
    process_state().wait_for_everyone()
    return target


def _write(model: HookedModel, parts: Anatomy, folder: Path, record: xr.Dataset | None, results: Any) -> None:
    with unwrapped(model) as hf:
        hf.save_pretrained(folder, state_dict=own_weights(hf))
    if getattr(model, "tokenizer", None) is not None:
        tokenizer = copy.deepcopy(model.tokenizer)
        tokenizer.padding_side = "left"  # As generation wants it.
        tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(readme(parts, record, results), encoding="utf-8")
    if record is not None:
        save_result(record, folder / "tuning.nc")


def own_weights(hf: Any) -> dict[str, torch.Tensor]:
    """The weights that the architecture has, without the zero biases that a bridge gives to an output matrix."""
    with torch.device("meta"):
        known = type(hf)(copy.deepcopy(hf.config)).state_dict().keys()
    weights = hf.state_dict()
    lost = [name for name in weights.keys() - known if weights[name].any()]
    if lost:
        raise InputError(
            f"Plain transformers has no place for {', '.join(sorted(lost))} in {type(hf).__name__}, and it is not "
            "zero: the checkpoint would be another model. Undo the change, or save the state_dict yourself."
        )
    return {name: weight for name, weight in weights.items() if name in known}


@torch.no_grad()
def refresh_fused(model: HookedModel, parts: Anatomy) -> int:
    """Bring matrices that hold queries, keys and values together up to date with the bridge's copies of their parts.

    Only where it is known how a matrix holds them. Returns how many tensors were stale.
    """
    stale, bridged = 0, [getattr(block, "attn", None) for block in model.blocks]
    with unwrapped(model) as hf:
        for layer, (path, layout) in attention_modules(hf, parts).items():
            attention: Any = bridged[layer]
            if "qkv" not in dict(attention.named_children()):
                continue
            for letter, heads in (("q", parts.n_heads), ("k", parts.n_kv_heads), ("v", parts.n_kv_heads)):
                linear, whole = getattr(attention, letter).original_component, f"{path}.{layout[letter].child}"
                stale += _refresh(hf.get_submodule(whole), linear, layout[letter], heads)
    return stale


def _refresh(fused: Any, part: Any, projection: Projection, heads: int) -> int:
    starts = [projection.start(head) for head in range(heads)]
    rows = [start + i for start in starts for i in range(projection.width)]
    index = torch.tensor(rows, device=fused.weight.device)
    stale = 0
    for whole, piece in ((rows_of_outputs(fused), rows_of_outputs(part)), (fused.bias, part.bias)):
        if whole is not None and piece is not None and not torch.equal(whole[index], piece):
            whole[index] = piece
            stale += 1
    return stale


@torch.no_grad()
def _refuse_other_logits(model: HookedModel, parts: Anatomy) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, parts.d_vocab, (1, PROBE), generator=generator).to(device_of(model))
    bridged, plain = model(tokens), original_logits(model, tokens)
    if plain is None:
        return
    difference = float((bridged.double() - plain.double()).abs().max())
    scale = float(plain.double().abs().max())
    if not difference <= TOLERANCE.get(parts.dtype, 0.05) * max(scale, 1e-12):
        raise InputError(
            f"The logits of {parts.name} differ by {difference:.3g} from those that plain transformers would compute "
            "with its weights, so the checkpoint would be another model. Weights that TransformerLens folded or "
            "centred (enable_compatibility_mode) cannot be exported: load the model again with workbench.load and "
            "repeat what was done to it."
        )


def refuse_taken(target: str | Path) -> None:
    """Raise where a checkpoint would overwrite something."""
    target = Path(target).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder. Name a new one, or delete it.")


def _refuse(model: HookedModel, parts: Anatomy) -> None:
    if parts.kind != "bridge":
        raise InputError(
            f"{parts.name} is a HookedTransformer, whose weights are not Hugging Face's. Load the same weights with "
            "backend='bridge' and export that."
        )
    require_no_hooks(model, "not be in the checkpoint")
    require_changeable(model, "writing a checkpoint")
