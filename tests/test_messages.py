"""What every bad input is answered with, word for word, and beside it the input that was meant.

`{here}` stands for the test's folder and `…` for words that come from another library.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import xarray as xr

from tests.interrupts import pieces, room_for
from tests.tiny import bridge, sequences, tiny
from tests.words import word_tokenizer
from tests.zoo import specimen
from workbench.errors import InputError, WorkbenchWarning
from workbench.extreme.ablation import zeroing_sweep
from workbench.models.load import load
from workbench.patching.activation import activation_patch
from workbench.patching.path import path_patch
from workbench.prompts.pairs import PromptPairs
from workbench.runs.batching import Batches
from workbench.runs.files import check_writable
from workbench.runs.results import open_result, save_result

pytestmark = pytest.mark.filterwarnings("ignore:.*read logit_diff:workbench.errors.WorkbenchWarning")


class Case(NamedTuple):
    """A bad input, the text of its error, and the input beside it that works; both get a folder of their own."""

    name: str
    bad: Callable[[Path], Any]
    text: str
    good: Callable[[Path], Any]


def pairs(**options: Any) -> PromptPairs:
    return PromptPairs(sequences((6, 5)), sequences((5, 6), seed=2), (5, 9), **options)


def saved(folder: Path) -> Path:
    tiny("llama", torch.float32).save_pretrained(folder)
    return folder


def without_weights(folder: Path) -> Path:
    (saved(folder) / "model.safetensors").unlink()
    return folder


def pickled(folder: Path) -> Path:
    (without_weights(folder) / "pytorch_model.bin").write_bytes(b"")
    return folder


def damaged(value: float) -> Any:
    model = tiny("llama")
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = value
    return model


def diverged() -> Any:
    """A model that was proved exact before its weights went bad."""
    model = load(tiny("llama"))
    patched(model, pairs())
    model.ln_final.original_component.weight.data[0] = float("nan")
    return model


def from_text(model: Any) -> PromptPairs:
    return PromptPairs.from_text(model, ["the cat sat"], ["the dog sat"], ("yes", "no"))


def patched(model: Any, data: PromptPairs, **options: Any) -> xr.Dataset:
    return path_patch(model, data, progress=False, **options)


def one_row(item: list[int]) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def half_a_file(folder: Path) -> Path:
    path = save_result(xr.Dataset({"x": ("i", range(500))}), folder / "half.nc")
    path.write_bytes(path.read_bytes()[:100])
    return path


def resumed(folder: Path, **second: Any) -> None:
    file = str(folder / "run.nc")
    patched(bridge("llama"), pairs(), resume=file)
    patched(bridge("llama"), pairs(), resume=file, **second)


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "out"


ORGANISMS = "organism-gqa, organism-mha, organism-mqa"
CASES = [
    Case(
        "an unknown model",
        lambda here: load("organism-gqq"),
        f"No model 'organism-gqq': it is no embedded model ({ORGANISMS}), no real model known by name "
        "(smollm2-135m-instruct) and no folder or GGUF file here, and the Hub gave: … did you mean 'organism-gqa'? "
        "Check the spelling, the connection (HF_HUB_OFFLINE is off?) and, for gated models, your login.",
        lambda here: load(saved(here)),
    ),
    Case(
        "a folder that is no model",
        lambda here: load(here),
        "The folder {here} has no config.json (it holds nothing), so it is not a Hugging Face model. Give the "
        "folder that save_pretrained wrote.",
        lambda here: load(saved(here)),
    ),
    Case(
        "a folder without weights",
        lambda here: load(without_weights(here)),
        "The folder {here} has a config.json but no weights (*.safetensors); it holds config.json, "
        "generation_config.json. The download or copy is probably incomplete.",
        lambda here: load(saved(here)),
    ),
    Case(
        "pickled weights",
        lambda here: load(pickled(here)),
        "The weights in {here} are pickled (pytorch_model.bin), and unpickling can run any code; only "
        "safetensors are read. Convert them where you trust the file: load there and call "
        "save_pretrained(folder, safe_serialization=True).",
        lambda here: load(saved(here)),
    ),
    Case(
        "text for a model without tokenizer",
        lambda here: from_text(bridge("llama")),
        "Text was given, but this model has no tokenizer. Pass tokenizer= to workbench.load, put the "
        "tokenizer's files into the model's folder, or give token ids instead of text.",
        lambda here: from_text(load(tiny("llama"), tokenizer=word_tokenizer())),
    ),
    Case(
        "no pairs",
        lambda here: PromptPairs([], [], (5, 9)),
        "No pairs: base is empty. Give at least one base and one source prompt.",
        lambda here: PromptPairs([[3]], [[4]], (5, 9)),
    ),
    Case(
        "answers outside the vocabulary",
        lambda here: patched(bridge("llama"), PromptPairs([[3, 4]], [[3, 5]], (5, 500))),
        "Example 0: answers holds token id 500, but the model knows the ids 0 to 96. The usual cause is a "
        "tokenizer of another model; tokenize with the one of this model.",
        lambda here: patched(bridge("llama"), PromptPairs([[3, 4]], [[3, 5]], (5, 96))),
    ),
    Case(
        "a and b the same",
        lambda here: PromptPairs([[3]], [[4]], (5, 5)),
        "Example 0: answers a and b are the same, token ids [5], so nothing can tell them apart. Words that "
        "begin alike share their first token: take longer answers, or the first token that differs.",
        lambda here: PromptPairs([[3]], [[4]], [((5, 6), (5, 7))]),
    ),
    Case(
        "base of another vocabulary",
        lambda here: patched(bridge("llama"), PromptPairs([[3, 128000]], [[3, 5]], (5, 9))),
        "Example 0: base holds token id 128000, but the model knows the ids 0 to 96. The usual cause is a "
        "tokenizer of another model; tokenize with the one of this model.",
        lambda here: patched(bridge("llama"), PromptPairs([[3, 12]], [[3, 5]], (5, 9))),
    ),
    Case(
        "source of another vocabulary",
        lambda here: activation_patch(bridge("llama"), PromptPairs([[3, 4]], [[97, 5]], (5, 9))),
        "Example 0: source holds token id 97, but the model knows the ids 0 to 96. The usual cause is a "
        "tokenizer of another model; tokenize with the one of this model.",
        lambda here: PromptPairs([[3, 4]], [[97, 5]], (5, 9), vocab=98),
    ),
    Case(
        "NaN weights",
        lambda here: load(damaged(float("nan"))),
        "1 of the model's parameters hold NaN or infinity, the first is "
        "'model.layers.1.mlp.down_proj.weight'. The file is damaged, or training diverged, or a cast "
        "overflowed (float16); load another checkpoint or another dtype.",
        lambda here: load(damaged(0.5)),
    ),
    Case(
        "NaN logits",
        lambda here: patched(diverged(), pairs()),
        "LlamaForCausalLM gives NaN or infinite logits, first for example 0 of the batch. The weights are "
        "damaged, or float64 overflows in this model: load it with dtype='float32' or 'bfloat16'.",
        lambda here: patched(bridge("llama"), pairs()),
    ),
    Case(
        "a unit misspelt",
        lambda here: patched(bridge("llama"), pairs(), unit="kv_groups"),
        "unit='kv_groups' is no kind of unit; did you mean 'kv_group'? Known: head, kv_group, layer. For "
        "other sets of heads give units=.",
        lambda here: patched(bridge("llama"), pairs(), unit="kv_group"),
    ),
    Case(
        "a query head of keys",
        lambda here: activation_patch(bridge("llama"), pairs(), hook="k", unit="head"),
        "unit='head' does not fit hook='k', which has one row per KV head (2), not per query head (4); did "
        "you mean 'kv_head'? Known: kv_group, kv_head, layer.",
        lambda here: activation_patch(bridge("llama"), pairs(), hook="k", unit="kv_head", progress=False),
    ),
    Case(
        "an architecture without heads",
        lambda here: zeroing_sweep(bridge("mamba"), [[5, 6]]),
        "MambaForCausalLM has no attention heads that can be reached: its layers hold mixer. path_patch(unit='layer') "
        "measures layers as a whole; for heads use a model with attention layers.",
        lambda here: load(tiny("olmo2")),
    ),
    Case(
        "an architecture that cannot be patched exactly",
        lambda here: path_patch(load(specimen("RwkvForCausalLM")), pairs(), unit="layer"),
        "RwkvForCausalLM cannot be patched exactly: recomputed_attention failed. Could not be measured, "
        "InputError: Layer 0 holds time_mix, of which only attention has heads. Run again with frozen mixers: "
        "frozen_mixers failed. The stream and the logits at the last of a few tokens, with the outputs of "
        "attention and of other mixers frozen and other tokens before it, relative error; this is how path "
        "patching runs a model again. Something else moves information between tokens, or its output cannot be "
        "frozen. workbench.check(model) shows every check.",
        lambda here: patched(bridge("olmo2"), pairs()),
    ),
    Case(
        "memory for less than one",
        lambda here: list(Batches(torch.device("cpu")).over([1], one_row)),
        "Out of memory on cpu with a batch of one. Use a shorter prompt, a smaller dtype (dtype='bfloat16' in "
        "workbench.load), fewer units at a time (units=…), or a device with more memory.",
        lambda here: list(Batches(torch.device("cpu")).over([1], len)),
    ),
    Case(
        "a resume file of another run",
        lambda here: resumed(here, unit="head"),
        '{here}/run.nc belongs to a run with another configuration (senders: "kv_group" there, "head" '
        "now). Resume with the same configuration, choose another file, or delete it.",
        lambda here: resumed(here),
    ),
    Case(
        "a corrupt result file",
        lambda here: open_result(half_a_file(here)),
        "The result file {here}/half.nc (100 bytes) cannot be read as netCDF: it is damaged, cut short or of "
        "another kind (…). Delete it and run the measurement again.",
        lambda here: open_result(save_result(xr.Dataset({"x": 1}), here / "whole.nc")),
    ),
    Case(
        "a folder that cannot be written",
        lambda here: check_writable(below_a_file(here)),
        "Cannot write {here}/file/out (Not a directory). The place is read-only, full or inside a file; "
        "what stood there before is unchanged. Choose another place for the output, make room, or change its "
        "permissions.",
        lambda here: check_writable(here / "out"),
    ),
    Case(
        "a resume file that cannot be written",
        lambda here: patched(bridge("llama"), pairs(), resume=str(below_a_file(here))),
        "Cannot write {here}/file/out.parts (Not a directory). The place is read-only, full or inside a file; "
        "what stood there before is unchanged. Choose another place for the output, make room, or change its "
        "permissions.",
        lambda here: patched(bridge("llama"), pairs(), resume=str(here / "out.nc")),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_answered(case, tmp_path):
    with pytest.raises(InputError) as raised:
        case.bad(tmp_path)
    wanted = re.escape(case.text.replace("{here}", str(tmp_path))).replace("…", r"[^\n]*")
    assert re.fullmatch(wanted, str(raised.value)), str(raised.value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_was_meant_is_taken(case, tmp_path):
    case.good(tmp_path)


def test_running_out_of_memory_names_the_smaller_batch():
    text = r"Out of memory on cpu with batches of 2; going on with batches of 1\."
    with room_for(bridge("llama"), 2), pieces(lambda _: True) as computed, pytest.warns(WorkbenchWarning, match=text):
        patched(bridge("llama"), pairs(), batch_size=2)
    assert computed == ["from example 0", "from example 1"]


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    def refuse(*_args: Any, **_options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(InputError, match=r"Cannot write .*\(Permission denied\)\. The place is read-only"):
        check_writable(tmp_path)
